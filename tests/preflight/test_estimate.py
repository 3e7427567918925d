"""The estimate of a run, against the compiler's own figures and plain arithmetic."""

import dataclasses
import math

import jax
import pytest
from skips import needs_cuda_plugin, needs_libtpu
from tiny import STAGES
from tiny_preflight import compile_tiny, report

from efficientnet_pod.pod.chips import CHIPS, GIB
from efficientnet_pod.preflight.estimate import estimate_run
from efficientnet_pod.preflight.remedy import remedy, smaller_batch
from efficientnet_pod.preflight.show.report import answer


@needs_libtpu
def test_memory_is_what_the_compiler_counts(v3):
    estimate, executables = v3
    for step in estimate.steps:
        stats = executables[step.name].memory_analysis()
        by_hand = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
        by_hand += stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
        assert step.hbm_bytes == by_hand > 0
    # Sixteen gigabytes a core, less what the runtime keeps.
    assert estimate.hbm_limit == pytest.approx(15.48 * GIB, abs=1) and estimate.fits
    # During the step two batches of 4 images of 32 × 32 × 3 in bfloat16; in an evaluation of 16 at a time
    # the rest of the state as well: of weights (p) and statistics (s) it is given one set, and there are two
    # and the momentum, and two counters.
    train, evaluation = estimate.steps
    assert train.waiting_bytes == 2 * 4 * 32 * 32 * 3 * 2
    batch = 2 * estimate.run.plan.eval_batch // 8 * 32 * 32 * 3 * 2
    params, stats = (
        sum(math.prod(x.shape) for x in jax.tree.leaves(estimate.run.variables[k]))
        for k in ("params", "batch_stats")
    )
    rest = 4 * (2 * params + stats)
    assert 0 <= evaluation.waiting_bytes - batch - rest <= 64


@needs_libtpu
def test_seconds_are_cycles_at_the_clock_and_then_the_collectives(v3, v5e):
    for (estimate, _), clock in ((v3, 940e6), (v5e, 1500e6)):
        for step in estimate.steps:
            assert step.basis == "cycles"
            assert step.compute_seconds == pytest.approx(step.program.estimated_cycles / clock)
            assert step.seconds == pytest.approx(
                step.compute_seconds + sum(filter(None, step.collective_seconds))
            )
    estimate, executables = v3
    cost = executables["train"].cost_analysis()
    assert estimate.train.optimal_seconds == cost["optimal_seconds"]
    # A core of v3 has half a chip's 900 GB/s and 123 TFLOP/s.
    assert estimate.train.hbm_seconds == pytest.approx(cost["bytes accessed"] / 450e9)
    assert estimate.train.flop_seconds == pytest.approx(cost["flops"] / 61.5e12)
    # -1 for each instruction that cannot be rated: no bound at all.
    assert v5e[1]["train"].cost_analysis()["optimal_seconds"] < 0 and v5e[0].train.optimal_seconds is None


@needs_libtpu
def test_hours_and_dollars_are_plain_arithmetic(v3):
    estimate, _ = v3
    train, evaluation = (step.seconds for step in estimate.steps)
    steps = round(90 * 1_281_167 / 32)  # epochs × images / global batch
    evaluations = 18  # every 5 of 90 epochs
    eval_steps = math.ceil(50_000 / 32)
    hours = (steps * train + evaluations * eval_steps * evaluation) / 3600
    assert estimate.hours == pytest.approx(hours, rel=1e-6)
    assert estimate.images_per_second == pytest.approx(32 / train)
    on_demand, spot = estimate.usd(), estimate.usd(spot=True)
    assert (on_demand.least, on_demand.most) == pytest.approx((8.0 * hours, 8.8 * hours))  # of a v3-8
    assert (spot.least, spot.most) == pytest.approx((2.04 * hours, 2.244 * hours))
    there = dataclasses.replace(estimate, zone="europe-west4-a").usd(spot=True)
    assert there.least == there.most == pytest.approx(2.244 * hours)
    # A JPEG takes a core 1.5 ms, its resizing to 32 pixels 0.35 ms × (32 / 224)².
    per_core = 1000 / (1.5 + 0.35 * (32 / 224) ** 2)
    assert estimate.host_cores == math.ceil(32 / train / per_core)


@needs_libtpu
def test_the_gradient_is_reduced_over_all_replicas_and_batch_norm_over_its_groups(v3):
    estimate, _ = v3
    params = jax.tree_util.tree_leaves_with_path(estimate.run.variables["params"])
    sizes = {jax.tree_util.keystr(path): math.prod(leaf.shape) for path, leaf in params}
    # Float32, whatever the convolutions compute in. The compiler may read the biases of squeeze-excite as
    # they were computed, in bfloat16, and add them up in float32.
    gradient_bytes = 4 * sum(sizes.values())
    biases = sum(size for path, size in sizes.items() if "se_" in path and "bias" in path)
    sums = [c for c in estimate.train.program.collectives if c.group_size == 8]
    moved = sum(dict(c.purposes).get("gradients", 0) * c.count for c in sums)
    assert gradient_bytes - 2 * biases <= moved <= gradient_bytes
    groups = {(c.group_size, len(c.groups)) for c in estimate.train.program.collectives}
    assert groups >= {(4, 2), (8, 1)}


@needs_libtpu
def test_what_does_not_fit_is_told_with_what_would(v3):
    estimate, _ = v3
    train = estimate.train
    needed = train.hbm_bytes + train.waiting_bytes
    tight = dataclasses.replace(estimate, hbm_limit=needed - 1)
    assert not tight.fits and not tight.has_room(tight.train)
    assert answer(tight).startswith("does not fit: 0.0")
    assert smaller_batch(tight) == 3  # of 4: the limit is just missed
    assert "3 images a replica should: --config.global_batch=24 " in remedy(tight)
    assert "the same global batch on more: --topology=v3:2x4" in remedy(tight)
    hopeless = dataclasses.replace(estimate, hbm_limit=1000)
    assert "not even one image a replica would" in remedy(hopeless)
    assert remedy(hopeless).endswith(
        "or --config.model.recompute=True: less memory for a third more computing"
    )
    assert dataclasses.replace(estimate, hbm_limit=needed).has_room(train)
    assert dataclasses.replace(estimate, hbm_limit=None).fits


@needs_libtpu
def test_a_chip_without_a_clock_has_a_lower_bound(v3):
    estimate, _ = v3
    v6e = dataclasses.replace(CHIPS["v6e"], devices=2)
    there = estimate_run(estimate.run, dataclasses.replace(estimate.target, chip=v6e), estimate.compilation)
    assert there.train.basis == "roofline" and there.train.compute_seconds is None
    floor = max(there.train.hbm_seconds, there.train.flop_seconds)
    assert there.train.seconds == pytest.approx(floor + there.train.communication_seconds)
    assert "; at least " in answer(there)


@needs_cuda_plugin
def test_a_gpu_that_is_not_here_reports_memory_and_collectives(folder):
    estimate, executables = compile_tiny("cuda:h100x8", folder, STAGES[:1])
    stats = executables["train"].memory_analysis()
    assert estimate.train.hbm_bytes > stats.temp_size_in_bytes > 0 and estimate.fits
    assert estimate.hbm_limit == 84942979072 * 3 // 4
    assert estimate.train.seconds is None and estimate.hours is None and estimate.train.basis is None
    assert {c.group_size for c in estimate.train.program.collectives} >= {4, 8}
    assert "neither cycles nor FLOPs" in " ".join(report(estimate).split())
