"""Whole runs in phases on a tiny network: records, and resumes before, at and after a change."""

import json
import shutil

import jax
import numpy as np
import pytest
from recipes import load, phased_digits
from tiny import build_tiny_networks

from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.run import open_run
from efficientnet_pod.train.train import train_and_evaluate
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.workdir.metrics_log import read_metrics
from efficientnet_pod.workdir.workdir import Workdir

CONFIG = phased_digits(keep_checkpoints=9)
BATCHES = [128] * 11 + [256] * 6
EVALUATED = [6, 11, 14, 17]  # every 704 images, at the next whole step


@pytest.fixture(scope="module")
def tiny():
    """Tiny networks, whose programs are kept in the workdir though they compile within a second."""
    seconds = "jax_persistent_cache_min_compile_time_secs"
    kept = getattr(jax.config, seconds)
    with pytest.MonkeyPatch.context() as patch:
        build_tiny_networks(patch)
        jax.config.update(seconds, 0)
        yield
        jax.config.update(seconds, kept)


def final_state(config, workdir):
    run = open_run(read_recipe(config))
    with Checkpoints(Workdir(workdir).checkpoints) as checkpoints:
        step = checkpoints.named("latest")
        return step, jax.device_get(checkpoints.restore(step, run.abstract_state()))


def assert_same_bits(one, two):
    assert one[0] == two[0]
    jax.tree.map(np.testing.assert_array_equal, one[1], two[1])


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("phased")
    return workdir, train_and_evaluate(CONFIG, str(workdir))


def test_records_say_what_was_trained(uninterrupted):
    workdir, summary = uninterrupted
    rows = read_metrics(Workdir(workdir))
    trained = [row for row in rows if row["split"] == "train"]
    evals = [row for row in rows if row["split"] == "eval"]
    assert summary["final"]["step"] == len(BATCHES) and summary["final"]["images"] == 360
    assert [row["step"] for row in evals] == EVALUATED
    seen = np.cumsum(BATCHES)
    assert [row["epoch"] for row in evals] == [seen[step - 1] / 1437 for step in EVALUATED]
    assert sum(row["images"] for row in trained) == seen[-1]
    for row in trained:
        phase = (16, 128) if row["step"] <= 11 else (32, 256)
        assert (row["image_size"], row["global_batch"]) == phase
    # By hand: 1.4 steps of warm-up, whole ones only, and a quadratic decay over the 11.5 steps of 256 images.
    rates = {row["step"]: row["learning_rate"] for row in rows}
    for step, rate in rates.items():
        clock = (seen[step - 1] - BATCHES[step - 1]) / 256
        decayed = 0.1 * (1 - max(clock - 1, 1) / (seen[-1] / 256 - 1 + 1)) ** 2
        assert rate == pytest.approx(decayed * BATCHES[step - 1] / 256, rel=1e-5)
    plan = json.loads((workdir / "plan.json").read_text())
    assert [(p["name"], p["last_step"], p["image_size"]) for p in plan["phases"]] == [
        ("small", 11, 16),
        ("large", 17, 32),
    ]


@pytest.mark.parametrize("step", [6, 11, 14])  # before the change, at it, and beyond
def test_a_run_resumes_in_any_phase_to_the_same_bits(tmp_path, capsys, uninterrupted, step):
    workdir = tmp_path / "killed"
    shutil.copytree(uninterrupted[0], workdir)
    (workdir / "summary.json").unlink()
    for later in EVALUATED[EVALUATED.index(step) + 1 :]:
        shutil.rmtree(workdir / "checkpoints" / str(later))
    summary = train_and_evaluate(CONFIG, str(workdir))
    printed = capsys.readouterr().out
    assert f"resumed from step {step} in " in printed
    assert ("phase 'small' from epoch 0.00: 16 px, 128 images a step" in printed) == (step == 6)
    assert "phase 'large' from epoch 0.98: 32 px, 256 images a step; waited " in printed
    assert_same_bits(final_state(CONFIG, workdir), final_state(CONFIG, uninterrupted[0]))
    assert summary["final"]["top1"] == uninterrupted[1]["final"]["top1"]
    rows = read_metrics(Workdir(workdir))
    assert [row["step"] for row in rows if row["split"] == "eval"] == EVALUATED
    assert sum(row["images"] for row in rows if row["split"] == "train") == sum(BATCHES)


def test_phases_that_change_nothing_change_nothing(tiny, tmp_path):
    one = phased_digits(epochs=1.0) | {"phases": {}}
    two = one | {"phases": {"first": {"from_epoch": 0.0}, "second": {"from_epoch": 0.5, "image_size": 32}}}
    train_and_evaluate(one, str(tmp_path / "one"))
    shutil.copytree(tmp_path / "one" / "programs", tmp_path / "two" / "programs")
    train_and_evaluate(two, str(tmp_path / "two"))
    assert_same_bits(final_state(one, tmp_path / "one"), final_state(two, tmp_path / "two"))


def test_the_published_recipe_resolves_as_it_says():
    stages = read_recipe(load("progressive.py")).phases
    assert [s.from_epoch for s in stages] == [0.0, 87.5, 175.0, 262.5]
    assert [s.image_size for s in stages] == [128, 160, 192, 224]
    assert [s.policy_magnitude for s in stages] == pytest.approx([5, 20 / 3, 25 / 3, 10])
    assert [s.min_crop_area for s in stages] == pytest.approx([0.35, 0.26, 0.17, 0.08])
    assert [s.dropout for s in stages] == pytest.approx([0.1, 4 / 30, 5 / 30, 0.2])
