"""What preflight says, against what the compiler said and plain arithmetic."""

import dataclasses
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from recipes import load
from rich.console import Console
from skips import needs_cuda_plugin, needs_libtpu
from tiny import STAGES, build_tiny_networks

from efficientnet_pod.cli import main as cli
from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.pod.chips import CHIPS, GIB
from efficientnet_pod.preflight import cache, estimate, measure
from efficientnet_pod.preflight import compile as compiled
from efficientnet_pod.preflight.remedy import remedy, smaller_batch
from efficientnet_pod.preflight.show.as_json import as_json
from efficientnet_pod.preflight.show.report import answer, print_report
from efficientnet_pod.preflight.sweep import best, parse_sweep, points, run_sweep
from efficientnet_pod.preflight.targets import parse_target, runtime_for
from efficientnet_pod.recipe.recipe import read_recipe
from efficientnet_pod.run.run import IMAGE_NUMBERS, PUBLISHED_NUMBERS, run_on

ROOT = Path(__file__).parents[2]
IMAGENET = SimpleNamespace(**dict(zip(IMAGE_NUMBERS, PUBLISHED_NUMBERS["imagenet2012"], strict=True)))
KEYS = {
    "topology", "num_replicas", "per_replica_batch", "estimated_cycles", "estimated_step_ms", "optimal_ms",
    "hbm_bytes", "hbm_limit_bytes", "fits", "collectives", "images_per_second", "hours", "usd",
    "compile_seconds",
}  # fmt: skip
FLAGS = [
    "--config=configs/supercomputer.py:b5,65536",
    "--config.global_batch=32",
    "--config.bn_group_size=4",
    "--config.data.image_size=32",
    "--config.epochs=90",
]
QUIET = Console(quiet=True)


def recipe_of(**fields):
    config = load("supercomputer.py") | {"global_batch": 32, "bn_group_size": 4, "epochs": 90.0} | fields
    config["data"]["image_size"] = 32
    return read_recipe(config)


def report(found):
    console = Console(width=100, file=io.StringIO())
    print_report(found, console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def compile_tiny(topology, folder, stages, **fields):
    """Returns the estimate, and what the compilers themselves hold of each program."""
    raw = {}

    def keep(name, phase, lowered):
        made = compile_one(name, phase, lowered)
        raw[name] = made.program
        return made

    with pytest.MonkeyPatch.context() as patch:
        build_tiny_networks(patch, stages)
        compile_one = compiled._compile
        patch.setattr(compiled, "_compile", keep)
        target = parse_target(topology)
        run = run_on(runtime_for(target), recipe_of(**fields), IMAGENET)
        made = compiled.compile_run(run, cache=folder, what=topology, console=QUIET)
        return estimate.estimate(run, target, made), raw


@pytest.fixture(scope="module")
def v3(folder):
    return compile_tiny("v3:2x2", folder, STAGES)


@pytest.fixture(scope="module")
def v5e(folder):
    return compile_tiny("v5e:4x4", folder, STAGES[:1])


@needs_libtpu
def test_memory_is_what_the_compiler_counts(v3):
    found, raw = v3
    for step in found.steps:
        said = raw[step.name].memory_analysis()
        by_hand = said.argument_size_in_bytes + said.output_size_in_bytes - said.alias_size_in_bytes
        by_hand += said.temp_size_in_bytes + said.generated_code_size_in_bytes
        assert step.hbm_bytes == by_hand > 0
    # Sixteen gigabytes a core, less what the runtime keeps.
    assert found.hbm_limit == pytest.approx(15.48 * GIB, abs=1) and found.fits
    # Beside the step two batches of 4 images of 32 × 32 × 3 in bfloat16; beside an evaluation of 16 at a time
    # the rest of the state as well: of weights (p) and statistics (s) it is given one set, and there are two
    # and the momentum, and two counters.
    train, evaluation = found.steps
    assert train.waiting_bytes == 2 * 4 * 32 * 32 * 3 * 2
    batch = 2 * found.run.plan.eval_batch // 8 * 32 * 32 * 3 * 2
    params, stats = (
        sum(math.prod(x.shape) for x in jax.tree.leaves(found.run.variables[k]))
        for k in ("params", "batch_stats")
    )
    rest = 4 * (2 * params + stats)
    assert 0 <= evaluation.waiting_bytes - batch - rest <= 64


@needs_libtpu
def test_seconds_are_cycles_at_the_clock_and_then_the_collectives(v3, v5e):
    for (found, _), clock in ((v3, 940e6), (v5e, 1500e6)):
        for step in found.steps:
            assert step.basis == "cycles"
            assert step.compute_seconds == pytest.approx(step.program.estimated_cycles / clock)
            assert step.seconds == pytest.approx(
                step.compute_seconds + sum(filter(None, step.collective_seconds))
            )
    found, raw = v3
    cost = raw["train"].cost_analysis()
    assert found.train.optimal_seconds == cost["optimal_seconds"]
    # A core of v3 has half a chip's 900 GB/s and 123 TFLOP/s.
    assert found.train.hbm_seconds == pytest.approx(cost["bytes accessed"] / 450e9)
    assert found.train.flop_seconds == pytest.approx(cost["flops"] / 61.5e12)
    # -1 for each instruction that cannot be rated: no bound at all.
    assert v5e[1]["train"].cost_analysis()["optimal_seconds"] < 0 and v5e[0].train.optimal_seconds is None


@needs_libtpu
def test_hours_and_dollars_are_plain_arithmetic(v3):
    found, _ = v3
    train, evaluation = (step.seconds for step in found.steps)
    steps = round(90 * 1_281_167 / 32)  # epochs × images / global batch
    evaluations = 18  # every 5 of 90 epochs
    eval_steps = math.ceil(50_000 / 32)
    hours = (steps * train + evaluations * eval_steps * evaluation) / 3600
    assert found.hours == pytest.approx(hours, rel=1e-6)
    assert found.images_per_second == pytest.approx(32 / train)
    assert found.usd() == pytest.approx(4 * 2.00 * hours) and found.usd(spot=True) == pytest.approx(
        4 * 0.51 * hours
    )
    # A JPEG takes a core 1.5 ms, its resizing to 32 pixels 0.35 ms × (32 / 224)².
    per_core = 1000 / (1.5 + 0.35 * (32 / 224) ** 2)
    assert found.host_cores == math.ceil(32 / train / per_core)


@needs_libtpu
def test_the_gradient_is_reduced_over_all_replicas_and_batch_norm_over_its_groups(v3):
    found, _ = v3
    params = jax.tree_util.tree_leaves_with_path(found.run.variables["params"])
    sizes = {jax.tree_util.keystr(path): math.prod(leaf.shape) for path, leaf in params}
    # Float32, whatever the convolutions compute in. The compiler may read the biases of squeeze-excite as
    # they were computed, in bfloat16, and add them up in float32.
    gradient_bytes = 4 * sum(sizes.values())
    biases = sum(size for path, size in sizes.items() if "se_" in path and "bias" in path)
    sums = [each for each in found.train.program.collectives if each.group_size == 8]
    moved = sum(dict(each.purposes).get("gradients", 0) * each.count for each in sums)
    assert gradient_bytes - 2 * biases <= moved <= gradient_bytes
    groups = {(each.group_size, each.num_groups) for each in found.train.program.collectives}
    assert groups >= {(4, 2), (8, 1)}


@needs_libtpu
def test_json_has_what_other_programs_read(v3):
    found, _ = v3
    document = json.loads(json.dumps(as_json(found)))
    assert document.keys() >= KEYS
    assert (document["topology"], document["num_replicas"], document["per_replica_batch"]) == ("v3:2x2", 8, 4)
    assert document["hbm_bytes"] == found.train.hbm_bytes and document["fits"] is True
    assert document["estimated_step_ms"] == pytest.approx(1000 * found.train.seconds)
    assert all(each.keys() >= {"op", "bytes", "group_size", "purpose"} for each in document["collectives"])
    assert [program["name"] for program in document["programs"]] == ["train", "eval"]


@needs_libtpu
def test_a_report_is_at_most_100_columns_and_gives_the_answer_first(v3):
    found, _ = v3
    lines = report(found).splitlines()
    assert lines[0].startswith("fits: 0.0") and "of 15.48 GiB a core; about " in lines[0]
    assert "a step (estimate)" in lines[0]
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    assert "2 groups of 4 replicas, tiles of 1x2 chips" in text or "tiles of 2x1 chips" in text
    assert "BN: 2 groups of 4 replicas: each a connected tile of" in text
    assert "140 TFLOP/s and 825 GB/s" in text and "used here: 123 TFLOP/s and 900 GB/s a chip" in text
    assert "the learning rate rises after warm-up" in text  # 0.1 is above 0.081 × 32 / 256
    for column in ("temporaries", "computing", "memory floor", "most expensive", "of the step"):
        assert column in text
    assert re.search(r"\$[\d.,]+ on demand at \$2.00 a chip-hour, \$[\d.,]+ on spot at \$0.51", text)


@needs_libtpu
def test_what_does_not_fit_is_told_with_what_would(v3):
    found, _ = v3
    train = found.train
    needed = train.hbm_bytes + train.waiting_bytes
    tight = dataclasses.replace(found, hbm_limit=needed - 1)
    assert not tight.fits and not tight.has_room(tight.train)
    assert answer(tight).startswith("does not fit: 0.0")
    assert smaller_batch(tight) == 3  # of 4: the limit is just missed
    assert "3 images a replica should: --config.global_batch=24 " in remedy(tight)
    assert "the same global batch on more: --topology=v3:2x4" in remedy(tight)
    hopeless = dataclasses.replace(found, hbm_limit=1000)
    assert "not even one image a replica would" in remedy(hopeless)
    assert dataclasses.replace(found, hbm_limit=needed).has_room(train)
    assert dataclasses.replace(found, hbm_limit=None).fits


@needs_libtpu
def test_a_program_that_the_compiler_refuses_is_a_result(v3):
    class Refused:
        def compile(self):
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
                "(21.50G) exceeds available HBM (15.48G)."
            )

    found, _ = v3
    refused = compiled._compile("train", found.run.plan.phases[0], Refused())
    assert refused.said.is_too_large and refused.said.needed == 21.5 * GIB
    made = dataclasses.replace(found.compilation, programs=(refused, found.compilation.programs[1]))
    there = estimate.estimate(found.run, found.target, made)
    assert not there.fits and there.hours is None and there.usd() is None
    assert there.train.hbm_bytes == 21.5 * GIB and there.tightest is there.train
    assert smaller_batch(there) == 2
    document = as_json(there)
    assert document["estimated_step_ms"] is None and document["hours"] is None and document["fits"] is False
    print_report(there, Console(width=100, quiet=True))


@pytest.mark.parametrize(
    ("said", "needed"),
    [
        ("temporaries (21.89G) exceeds available HBM (15.48G).", round(21.89 * GIB)),
        ("Ran out of memory in memory space hbm. Used 512.0M of 15.48G hbm.", 512 << 20),
        ("RESOURCE_EXHAUSTED: out of luck", None),
    ],
)
def test_the_bytes_in_a_refusal(said, needed):
    assert compiled.needed_bytes(said) == needed


def test_another_failure_of_the_compiler_is_one_line():
    class Broken:
        def compile(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: no such tile\nwith a stack")

    with pytest.raises(RunError, match="^the compiler failed on the program 'eval': INTERNAL: no such tile$"):
        compiled._compile("eval", None, Broken())


@needs_libtpu
def test_what_was_compiled_before_is_not_compiled_again(v3, folder, monkeypatch):
    found, _ = v3
    build_tiny_networks(monkeypatch)
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("compiled again"))
    again = compiled.compile_run(found.run, cache=folder, what="", console=QUIET)
    assert again.from_cache == 2 and found.compilation.from_cache == 0
    assert [p.said for p in again.programs] == [p.said for p in found.compilation.programs]


@needs_libtpu
def test_the_cache_knows_programs_apart_and_survives_damage(v3, folder, monkeypatch, tmp_path):
    found, _ = v3
    lowered = SimpleNamespace(as_text=lambda: "module")
    key = cache.key_of(found.run, lowered)
    assert key == cache.key_of(found.run, lowered)
    mesh = SimpleNamespace(devices=found.run.mesh.devices[::-1])
    others = {cache.key_of(found.run, SimpleNamespace(as_text=lambda: "another"))}
    others.add(cache.key_of(dataclasses.replace(found.run, mesh=mesh), lowered))
    monkeypatch.setenv("XLA_FLAGS", "--xla_some_flag=1")
    others.add(cache.key_of(found.run, lowered))
    assert len(others | {key}) == 4
    assert cache.read(tmp_path, key) is None
    said = found.compilation.programs[0].said
    cache.write(tmp_path, key, said)
    assert cache.read(tmp_path, key) == said
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert cache.read(tmp_path, key) is None
    file.write_bytes(b"{}")
    assert cache.read(tmp_path, key) is None


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.default_cache() == Path("/somewhere/efficientnet-pod")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache.default_cache() == Path("/home/me/.cache/efficientnet-pod")


@needs_libtpu
def test_a_chip_without_a_clock_has_a_lower_bound(v3):
    found, _ = v3
    v6e = dataclasses.replace(CHIPS["v6e"], devices=2)
    there = estimate.estimate(found.run, dataclasses.replace(found.target, chip=v6e), found.compilation)
    assert there.train.basis == "roofline" and there.train.compute_seconds is None
    floor = max(there.train.hbm_seconds, there.train.flop_seconds)
    assert there.train.seconds == pytest.approx(floor + there.train.communication_seconds)
    assert "; at least " in answer(there)


def test_sweeps_are_read_or_refused():
    assert parse_sweep("per_replica_batch=16, 32") == ("per_replica_batch", ("16", "32"))
    assert parse_sweep("topology=v3:4x4,v3-128") == ("topology", ("v3:4x4", "v3-128"))
    for sweep, words in (
        ("per_replica=16", "varies 'per_replica'; did you mean 'per_replica_batch'?"),
        ("replicas", "names no values"),
        ("replicas=", "names no values"),
        ("replicas=8,many", "'many' is not a whole number above 0"),
        ("per_replica_batch=0", "'0' is not a whole number above 0"),
    ):
        with pytest.raises(UserError, match=words.replace("?", r"\?")):
            parse_sweep(sweep)


def test_a_sweep_keeps_the_global_batch_of_the_recipe_or_follows_the_replicas():
    target = parse_target("v3:4x4")  # 32 replicas; 64 images each, in groups of 2: 128 normalise together
    recipe = recipe_of(global_batch=2048, bn_group_size=2)

    def made(field, *values):
        return [
            (p.target.name, p.recipe.global_batch, p.recipe.bn_group_size)
            for p in points(recipe, target, field, values)
        ]

    assert made("per_replica_batch", "16", "64", "256") == [
        ("v3:4x4", 512, 8), ("v3:4x4", 2048, 2), ("v3:4x4", 8192, 1)
    ]  # fmt: skip
    machines = [("v3:2x2", 2048, 1), ("v3:8x8", 2048, 8)]
    assert made("replicas", "8", "128") == made("topology", "v3-8", "v3:8x8") == machines


def test_a_sweep_scales_the_batches_of_phases():
    phases = {"small": {"from_epoch": 0.0, "global_batch": 4096}, "large": {"from_epoch": 10.0}}
    recipe = recipe_of(global_batch=2048, bn_group_size=2, phases=phases)
    (point,) = points(recipe, parse_target("v3:4x4"), "per_replica_batch", ("32",))
    assert [phase.global_batch for phase in point.recipe.phases] == [2048, None]


@needs_libtpu
def test_the_fastest_and_the_cheapest_are_those_that_fit(v3):
    found, _ = v3
    hours = {"16": 3.0, "32": 2.0, "64": 1.0, "128": 2.5}
    dollars = {"16": 10.0, "32": 30.0, "64": 5.0, "128": 20.0}

    class Fake(estimate.Estimate):
        fits = property(lambda self: self.run != "64")  # the best one does not fit
        hours = property(lambda self: hours[self.run])

        def usd(self, *, spot=False):
            return dollars[self.run]

    def estimated(recipe, target):
        per_replica = str(recipe.global_batch // target.replicas)
        if per_replica == "128":
            raise UserError("128 is impossible here")
        return Fake(target, per_replica, found.compilation, found.steps, None, 0)

    waiting = points(recipe_of(), found.target, "per_replica_batch", ("16", "32", "64", "128"))
    swept = run_sweep(waiting, estimated)
    fastest, cheapest = best(swept)
    assert (fastest.value, cheapest.value) == ("32", "16")
    assert swept[3].why == "128 is impossible here" and swept[3].found is None
    assert best([swept[3]]) == (None, None)


def run_tiny(*arguments):
    """Runs the command line in a process of its own, with the tiny network for the real one."""
    program = (
        "import sys; sys.path.insert(0, 'tests/support'); import pytest, tiny; "
        "tiny.build_tiny_networks(pytest.MonkeyPatch()); "
        "from efficientnet_pod.cli.main import main; raise SystemExit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "preflight", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@needs_libtpu
def test_the_command_prints_and_writes_what_the_library_says(v3, folder, tmp_path):
    found, _ = v3
    file, hlo = tmp_path / "o.json", tmp_path / "step.hlo"
    flags = [*FLAGS, "--topology=v3-8", f"--json={file}", f"--hlo={hlo}", f"--cache={folder}"]
    ended = run_tiny(*flags)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("fits: ") and "2 of 2 programs came from the cache" in ended.stdout
    assert ended.stderr == "compiling 2 programs for v3:2x2; minutes the first time\n"
    document = json.loads(file.read_text())
    ours = as_json(found)
    changing = ("compile_seconds", "from_cache")
    assert {k: v for k, v in document.items() if k not in changing} == json.loads(
        json.dumps({k: v for k, v in ours.items() if k not in changing})
    )
    assert hlo.read_text() == found.train.compiled.said.text
    assert (tmp_path / "step.eval.hlo").read_text() == found.steps[1].compiled.said.text


@needs_libtpu
def test_a_sweep_on_the_command_line(v3, folder, tmp_path, monkeypatch, capsys):
    found, _ = v3
    build_tiny_networks(monkeypatch)
    monkeypatch.chdir(ROOT)
    file = tmp_path / "o.json"
    flags = [*FLAGS, "--topology=v3:2x2", f"--json={file}", f"--cache={folder}"]
    assert cli.main(["preflight", *flags, "--sweep=topology=v3:2x2,v3:4x8"]) == 0
    printed = capsys.readouterr().out
    table = printed.partition("times are estimates")[0]
    assert "◀ fastest," in table and "cheapest" in table and "impossible" in table and "…" not in table
    assert "v3:4x8: config.global_batch=32 is not a multiple of the 64 replicas" in " ".join(table.split())
    document = json.loads(file.read_text())
    assert [(p["topology"], p["fits"]) for p in document["sweep"]] == [("v3:2x2", True), ("v3:4x8", False)]
    assert document["sweep"][0]["fastest"] and document["sweep"][0]["cheapest"]
    assert document.keys() >= KEYS and document["usd"] == pytest.approx(found.usd())


@needs_libtpu
def test_what_does_not_fit_ends_with_2_after_the_report(v3, folder, tmp_path, monkeypatch, capsys):
    build_tiny_networks(monkeypatch)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(estimate, "hbm_limit", lambda target: 10 << 20)
    file = tmp_path / "o.json"
    assert cli.main(["preflight", *FLAGS, "--topology=v3:2x2", f"--json={file}", f"--cache={folder}"]) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith("does not fit: ")
    assert printed.err.startswith("compiling ") and printed.err.count("\n") == 2
    assert "efficientnet-pod: b5 does not fit v3:2x2; " in printed.err
    assert json.loads(file.read_text())["fits"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "preflight needs --topology, e.g. --topology=v3:16x32"),
        (["--topology=v3:16x31"], "the nearest that can: --topology=v3:16x32"),
        (["--topology=v33:2x2"], "did you mean 'v3'?"),
        (["--topology=v3:2x2", "--sweep=batch=1"], "--sweep=batch=1 varies 'batch'"),
        (["--topology=v3:2x2", "--sweep=replicas=8", "--measure"], "--measure runs one recipe"),
        (["--topology=v3:2x2", "--json=/not/there/o.json"], "there is no folder '/not/there'"),
        (["--topology=cpu:8", "--config.global_batch=33"], "the nearest that is: --config.global_batch="),
        (["--topolgy=v3:2x2"], "topology"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_code_2(capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(ROOT)
    assert cli.main(["preflight", FLAGS[0], *FLAGS[2:], *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("efficientnet-pod: ") and error.count("\n") == 1


def test_a_cpu_is_measured(monkeypatch, capsys, tmp_path):
    build_tiny_networks(monkeypatch, STAGES[:1])
    monkeypatch.chdir(ROOT)
    calls = []
    median = measure._median
    monkeypatch.setattr(measure, "_median", lambda call: calls.append(median(call)) or calls[-1])
    file = tmp_path / "o.json"
    flags = [*FLAGS, "--topology=cpu:8", "--measure", f"--json={file}", f"--cache={tmp_path}"]
    assert cli.main(["preflight", *flags]) == 0
    printed = capsys.readouterr().out
    document = json.loads(file.read_text())
    assert document["measured_step_ms"] == 1000 * calls[0] > 0
    assert document["images_per_second"] == pytest.approx(32 / calls[0], rel=1e-6)
    assert document["estimated_cycles"] is None and document["estimated_step_ms"] is None
    assert document["usd"] is None and document["hours"] > 0 and document["hbm_bytes"] > 0
    assert "a step (measured)" in printed and "reports no cycles" in printed


@needs_cuda_plugin
def test_a_gpu_that_is_not_here_reports_memory_and_collectives(folder):
    found, raw = compile_tiny("cuda:h100x8", folder, STAGES[:1])
    said = raw["train"].memory_analysis()
    assert found.train.hbm_bytes > said.temp_size_in_bytes > 0 and found.fits
    assert found.hbm_limit == 84942979072 * 3 // 4
    assert found.train.seconds is None and found.hours is None and found.train.basis is None
    assert {each.group_size for each in found.train.program.collectives} >= {4, 8}
    assert "neither cycles nor FLOPs" in " ".join(report(found).split())
