"""What a step takes, in bytes computed by hand, and the batch that would fit."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from recipes import load
from tiny import build_tiny_networks

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod import memory
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.memory import Need, need_of, require_memory
from efficientnet_pod.run.run import open_run

GIB = 2**30


@pytest.fixture(scope="module")
def run():
    with pytest.MonkeyPatch.context() as patch:
        build_tiny_networks(patch)
        return open_run(read_recipe(load("digits.py")))


def program(**sizes):
    names = ("argument", "output", "alias", "temp", "generated_code")
    stats = {f"{name}_size_in_bytes": sizes.get(name, 0) for name in names}
    return SimpleNamespace(memory_analysis=lambda: SimpleNamespace(**stats))


def test_a_cpu_holds_the_process_and_what_each_replica_takes(run, monkeypatch):
    monkeypatch.setattr(memory, "resident_bytes", lambda: 3 * GIB)
    monkeypatch.setattr(memory, "available_bytes", lambda: 4 * GIB)
    state = sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.abstract_state()))
    batch = 256 // 8 * 32 * 32 * 3 * 4  # bytes of a replica's images, which travel as float32
    assert (run.plan.image_size, run.plan.link_dtype, len(run.runtime.devices)) == (32, "float32", 8)
    need = need_of(run, program(temp=10**9, output=700, alias=600), images=256, image_size=32)
    assert need == Need(3 * GIB + 8 * state, 8 * (10**9 + 100 + 3 * batch), 7 * GIB)


def test_another_device_has_memory_of_its_own(run, monkeypatch):
    limits = iter([9 * GIB, 8 * GIB, None])
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": next(limits)})
    monkeypatch.setattr(jax, "local_devices", lambda: [device, device, device])
    on_gpu = dataclasses.replace(run, runtime=dataclasses.replace(run.runtime, platform="gpu"))
    need = need_of(on_gpu, program(temp=GIB, generated_code=50), images=256, image_size=32)
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.abstract_state()))
    assert need == Need(state + 50, GIB + 3 * 256 // 8 * 32 * 32 * 3 * 4, 8 * GIB)


@pytest.mark.parametrize(
    ("free", "remedy"),
    [
        (9.0, "--config.global_batch=128 fits"),
        (7.0, "--config.global_batch=64 fits"),
        (2.01, "lower config.data.image_size, or take more devices"),
    ],
)
def test_a_step_that_does_not_fit_names_the_batch_that_does(run, monkeypatch, free, remedy):
    monkeypatch.setattr(memory, "resident_bytes", lambda: 2 * GIB)
    monkeypatch.setattr(memory, "available_bytes", lambda: round((free - 2) * GIB))
    step = program(temp=10 * GIB // 8)  # 12 GiB in all, 7 with half the batch, 4.5 with a quarter
    with pytest.raises(UserError) as refused:
        require_memory(run, step, "a training step", images=256, image_size=32)  # type: ignore[arg-type]
    assert str(refused.value) == (
        "a training step of 256 images takes 12.01 GiB of memory and this machine has "
        f"{free:.2f} GiB for it; {remedy}"
    )


def test_a_phase_has_pixels_and_a_field_of_its_own(run, monkeypatch):
    monkeypatch.setattr(memory, "resident_bytes", lambda: 2 * GIB)
    monkeypatch.setattr(memory, "available_bytes", lambda: 8 * GIB)
    small, large = (
        need_of(run, program(), images=256, image_size=size)  # type: ignore[arg-type]
        for size in (32, 96)
    )
    assert large.by_batch == 9 * small.by_batch == 9 * 3 * 256 * 32 * 32 * 3 * 4
    step = program(temp=10 * GIB // 8)
    with pytest.raises(UserError, match=r"; --config.phases.late.global_batch=128 fits$"):
        require_memory(  # type: ignore[arg-type]
            run, step, "a step", images=256, image_size=32, batch_field="phases.late.global_batch"
        )


def test_a_step_that_does_not_fit_may_be_computed_in_parts(run, monkeypatch):
    monkeypatch.setattr(memory, "resident_bytes", lambda: 2 * GIB)
    monkeypatch.setattr(memory, "available_bytes", lambda: 6 * GIB)
    step = program(temp=10 * GIB // 8)
    with pytest.raises(UserError) as refused:
        require_memory(  # type: ignore[arg-type]
            run, step, "a step", images=256, image_size=32, micro_batches=2
        )
    assert str(refused.value).endswith(
        "; --config.global_batch=256 fits; --config.replicas=16 too: the same batch in 4 parts, each with "
        "its own batch norm; or --config.model.recompute=True: less memory for a third more computing"
    )


def test_what_fits_and_what_nobody_knows_is_let_through(run, monkeypatch):
    for free in (12 * GIB, None):
        monkeypatch.setattr(memory, "available_bytes", lambda free=free: free)
        assert (
            require_memory(run, program(temp=GIB), "a training step", images=256, image_size=32).total
            > 8 * GIB
        )
