"""Programs as the compiler returns or refuses them, and the cache that keeps its output."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest
from rich.console import Console
from skips import needs_libtpu
from tiny import build_tiny_networks

from efficientnet_pod.errors import RunError, refused_bytes
from efficientnet_pod.pod.chips import GIB
from efficientnet_pod.preflight import cache
from efficientnet_pod.preflight import compile as compile_module
from efficientnet_pod.preflight.compile import compile_run
from efficientnet_pod.preflight.estimate import estimate_run
from efficientnet_pod.preflight.remedy import smaller_batch
from efficientnet_pod.preflight.show.as_json import estimate_as_json
from efficientnet_pod.preflight.show.report import print_report
from efficientnet_pod.run import train_step


@needs_libtpu
def test_a_program_that_the_compiler_refuses_is_a_result(v3):
    class Refused:
        def compile(self):
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
                "(21.50G) exceeds available HBM (15.48G)."
            )

    estimate, _ = v3
    refused = compile_module._compile("train", estimate.run.plan.phases[0], Refused())
    assert refused.output.is_too_large and refused.output.needed == 21.5 * GIB
    compilation = dataclasses.replace(
        estimate.compilation, programs=(refused, estimate.compilation.programs[1])
    )
    there = estimate_run(estimate.run, estimate.target, compilation)
    assert not there.fits and there.hours is None and there.usd() is None
    assert there.train.hbm_bytes == 21.5 * GIB and there.tightest is there.train
    assert smaller_batch(there) == 2
    document = estimate_as_json(there)
    assert document["estimated_step_ms"] is None and document["hours"] is None and document["fits"] is False
    print_report(there, Console(width=100, quiet=True))


@pytest.mark.parametrize(
    ("message", "sizes"),
    [
        ("temporaries (21.89G) exceeds available HBM (15.48G).", (21.89 * GIB, 15.48 * GIB)),
        (
            "Ran out of memory in memory space hbm. Used 512.0M of 15.48G hbm.",
            (2**29, 15.48 * GIB),
        ),
        ("RESOURCE_EXHAUSTED: out of luck", None),
    ],
)
def test_the_bytes_in_a_refusal(message, sizes):
    assert refused_bytes(message) == pytest.approx(sizes)


def test_another_failure_of_the_compiler_is_one_line():
    class Broken:
        def compile(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: no such tile\nwith a stack")

    with pytest.raises(RunError, match="^the compiler failed on the program 'eval': INTERNAL: no such tile$"):
        compile_module._compile("eval", None, Broken())


@needs_libtpu
def test_what_was_compiled_before_is_not_compiled_again(v3, folder, monkeypatch):
    estimate, _ = v3
    build_tiny_networks(monkeypatch)
    monkeypatch.setattr(compile_module, "_compile", lambda *_: pytest.fail("compiled again"))
    again = compile_run(estimate.run, cache=folder, machine="", console=Console(quiet=True))
    assert again.from_cache == 2 and estimate.compilation.from_cache == 0
    assert [p.output for p in again.programs] == [p.output for p in estimate.compilation.programs]


@needs_libtpu
def test_the_cache_knows_programs_apart_and_survives_damage(v3, folder, monkeypatch, tmp_path):
    estimate, _ = v3
    lowered = SimpleNamespace(as_text=lambda: "module")
    key = cache.key_of(estimate.run, lowered)
    assert key == cache.key_of(estimate.run, lowered)
    mesh = SimpleNamespace(devices=estimate.run.mesh.devices[::-1])
    others = {cache.key_of(estimate.run, SimpleNamespace(as_text=lambda: "another"))}
    others.add(cache.key_of(dataclasses.replace(estimate.run, mesh=mesh), lowered))
    monkeypatch.setenv("XLA_FLAGS", "--xla_some_flag=1")
    others.add(cache.key_of(estimate.run, lowered))
    monkeypatch.setattr(train_step, "_TPU_OPTIONS", {"xla_some_option": 1})
    others.add(cache.key_of(estimate.run, lowered))
    assert len(others | {key}) == 5
    assert cache.read(tmp_path, key) is None
    output = estimate.compilation.programs[0].output
    cache.write(tmp_path, key, output)
    assert cache.read(tmp_path, key) == output
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert cache.read(tmp_path, key) is None
    file.write_bytes(b"{}")
    assert cache.read(tmp_path, key) is None
