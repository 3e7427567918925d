"""Derived numbers against hand-computed ones, and every refusal with its remedy."""

import dataclasses
import json

import numpy as np
import pytest
from recipes import load

from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.plan import resolve
from efficientnet_pod.recipe.reading import read_recipe

IMAGENET = {"num_train": 1_281_167, "num_eval": 50_000, "num_classes": 1000}
DIGITS = {"num_train": 1437, "num_eval": 360, "num_classes": 10}


def plan(path, numbers, replicas, **fields):
    recipe = dataclasses.replace(read_recipe(load(path)), **fields)
    return resolve(recipe, **numbers, num_devices=replicas, num_hosts=1, default_dtype="bfloat16")


def test_paper_scale():
    b5 = plan("supercomputer.py:b5,65536", IMAGENET, 1024)
    assert (b5.per_replica_batch, b5.bn_batch, b5.image_size, b5.dropout) == (64, 1024, 456, 0.4)
    assert b5.steps_per_epoch == pytest.approx(19.549, abs=1e-3)
    assert (b5.total_steps, b5.warmup_steps) == (6842, 840)
    assert b5.peak_lr == pytest.approx(20.736)
    assert (b5.eval_batch, b5.compute_dtype) == (50_176, "bfloat16")  # 49 images on each of 1,024 replicas
    assert sum(b5.is_eval_due(step) for step in range(1, b5.total_steps + 1)) == 70


def test_published_b0():
    b0 = plan("imagenet.py:b0", IMAGENET, 32)
    assert (b0.per_replica_batch, b0.total_steps, b0.image_size) == (128, 109_475, 224)
    assert b0.peak_lr == pytest.approx(0.256)


def test_digits():
    digits = plan("digits.py", DIGITS, 8)
    assert (digits.per_replica_batch, digits.bn_batch, digits.eval_batch, digits.eval_steps) == (
        16,
        64,
        128,
        3,
    )
    assert digits.is_eval_due(digits.total_steps)
    assert digits.warnings == ()


def test_plan_is_json():
    """A file of a workdir: its names and their order stay."""
    digits = plan("digits.py", DIGITS, 8)
    written = json.loads(json.dumps(digits.as_dict()))
    assert " ".join(written) == (
        "recipe num_train num_eval num_classes num_replicas num_devices num_hosts micro_batches image_size "
        "dropout compute_dtype link_dtype host_batch per_replica_batch bn_batch eval_batch eval_steps "
        "eval_shapes steps_per_epoch total_steps warmup_steps steps_between_evals peak_lr phases warnings"
    )
    assert " ".join(written["phases"][0]) == (
        "name first_step last_step first_image image_size dropout host_batch per_replica_batch bn_batch"
    )
    assert written["recipe"]["optimizer"]["name"] == "lars" and written["eval_shapes"] == [[32, 32, 3]]
    assert written["num_train"] == 1437 and written["peak_lr"] == digits.peak_lr


def test_evaluation_shorter_than_a_step_is_at_every_step():
    huge = plan("digits.py", DIGITS, 8, global_batch=65_536, eval_epochs=1.0)
    assert huge.total_steps == 1 and huge.is_eval_due(1)


@pytest.mark.parametrize(
    "fields, words",
    [
        (
            {"global_batch": 100},
            r"global_batch=100 is not a multiple of the 8 replicas.*global_batch=(96|104)",
        ),
        ({"global_batch": 3}, r"global_batch=3 .*global_batch=8"),
        ({"bn_group_size": 3}, r"bn_group_size=3 does not divide the 8 replicas.*bn_group_size=(2|4)"),
        ({"bn_group_size": 16}, r"bn_group_size=16 .*bn_group_size=8"),
        ({"epochs": 0.0}, r"config\.epochs=0\.0 must be above 0"),
        ({"ema_decay": 1.0}, r"config\.ema_decay=1\.0 must be"),
        ({"log_steps": 0}, r"config\.log_steps=0 must be"),
    ],
)
def test_impossible_numbers_are_refused_with_the_remedy(fields, words):
    with pytest.raises(UserError, match=words):
        plan("digits.py", DIGITS, 8, **fields)


@pytest.mark.parametrize(
    "change, words",
    [
        (("model", "name", "b9"), r"model\.name='b9'"),
        (("model", "dtype", "float31"), r"model\.dtype='float31' is unknown; did you mean 'float32'"),
        (("model", "survival_probability", 0.0), r"model\.survival_probability=0\.0 must be"),
        (("optimizer", "name", "larz"), r"optimizer\.name='larz' is unknown; did you mean 'lars'"),
        (("schedule", "name", "polynomal"), r"did you mean 'polynomial'"),
        (("data", "imagesize", 3), r"config\.data has no field 'imagesize'.*did you mean 'image_size'"),
    ],
)
def test_impossible_recipes_are_refused(change, words):
    section, field, value = change
    config = load("digits.py")
    config[section][field] = value
    with pytest.raises(UserError, match=words):
        resolve(read_recipe(config), **DIGITS, num_devices=8, num_hosts=1, default_dtype="float32")


def test_missing_fields_are_named():
    config = load("digits.py")
    del config["seed"]
    with pytest.raises(UserError, match=r"config\.seed is missing"):
        read_recipe(config)


SMALL = {"from_epoch": 0.0, "image_size": 16, "global_batch": 128, "dropout": 0.1}
LARGE = {"from_epoch": 10.5, "label_smoothing": 0.2, "mixup": 0.2}


def phased(phases, path="digits.py", numbers=DIGITS, **fields):
    config = load(path) | {"global_batch": 256} | fields
    config["phases"] = phases
    return resolve(read_recipe(config), **numbers, num_devices=8, num_hosts=2, default_dtype="float32")


def test_phases_cover_every_step_and_count_images():
    """By hand: 10.5 epochs of 1,437 images are 117.9 steps of 128; 28 less 118 such, 98.2 of 256."""
    digits = phased({"large": LARGE, "small": SMALL})  # in the order of their epochs, not of their names
    small, large = digits.phases
    assert (small.name, small.first_step, small.last_step, small.first_image) == ("small", 0, 118, 0)
    assert (large.name, large.first_step, large.last_step) == ("large", 118, 216)
    assert large.first_image == 118 * 128 and digits.total_steps == 216
    assert (small.image_size, small.host_batch, small.per_replica_batch, small.bn_batch) == (16, 64, 16, 64)
    assert (large.image_size, large.host_batch, large.per_replica_batch, large.bn_batch) == (32, 128, 32, 128)
    assert (small.dropout, large.dropout) == (0.1, 0.2)
    assert (small.recipe.label_smoothing, large.recipe.label_smoothing, large.recipe.data.mixup) == (
        0.1,
        0.2,
        0.2,
    )
    assert (digits.image_size, digits.eval_batch) == (32, 256)  # one evaluation for all phases
    seen = np.cumsum([0] + [128] * 118 + [256] * 98)
    assert [digits.images_seen(step) for step in range(217)] == seen.tolist()
    assert digits.epoch(217 - 1) == seen[-1] / 1437
    assert [digits.phase_of(step).name for step in (1, 118, 119, 216)] == ["small", "small", "large", "large"]


def test_evaluation_is_due_by_images_in_every_phase():
    digits = phased({"small": SMALL, "large": LARGE}, eval_epochs=7.0)
    seen = np.cumsum([0] + [128] * 118 + [256] * 98)
    due = [int(np.argmax(seen >= epoch * 1437)) for epoch in (7, 14, 21)] + [216]
    assert [step for step in range(1, 217) if digits.is_eval_due(step)] == due


@pytest.mark.parametrize("eval_epochs", [0.01, 0.1, 0.31, 1.0, 7.0, 28.0, 100.0])
@pytest.mark.parametrize("phased_run", [False, True])
def test_evaluations_are_counted_as_they_fall_due(eval_epochs, phased_run):
    fields = {"eval_epochs": eval_epochs}
    digits = (
        phased({"small": SMALL, "large": LARGE}, **fields)
        if phased_run
        else plan("digits.py", DIGITS, 8, **fields)
    )
    due = [step for step in range(1, digits.total_steps + 1) if digits.is_eval_due(step)]
    assert digits.evaluations() == len(due)


def test_a_run_without_phases_has_one():
    (only,) = plan("digits.py", DIGITS, 8).phases
    assert (only.first_step, only.last_step, only.image_size, only.bn_batch) == (0, 314, 32, 64)
    assert only.recipe == read_recipe(load("digits.py"))


def test_plan_with_phases_is_json():
    written = json.loads(json.dumps(phased({"small": SMALL, "large": LARGE}).as_dict()))
    assert [phase["last_step"] for phase in written["phases"]] == [118, 216]


@pytest.mark.parametrize(
    "small, large, words",
    [
        (
            {"from_epoch": 1.0},
            {},
            r"phases\.small\.from_epoch=1 .* must be 0: --config\.phases\.small\.from_epoch=0",
        ),
        ({}, {"from_epoch": 28.0}, r"phases\.large\.from_epoch=28 .*below config\.epochs=28"),
        ({}, {"from_epoch": 0.0}, r"phases\.large\.from_epoch=0 is where phase 'small' begins too"),
        (
            {},
            {"from_epoch": 27.95},
            r"phases\.large lasts from epoch 27\.95 to 28, which is no whole step of 256",
        ),
        (
            {"global_batch": 100},
            {},
            r"phases\.small\.global_batch=100 .*--config\.phases\.small\.global_batch=(96|104)",
        ),
        (
            {"survival_probability": 0.0},
            {},
            r"config\.phases\.small\.survival_probability=0\.0 must be at least 1e-06 and at most 1",
        ),
        (
            {"min_crop_area": 2.0},
            {},
            r"config\.phases\.small\.min_crop_area=2\.0 must be at least 1e-06 and at most 1",
        ),
        (
            {"image_size": 2},
            {},
            r"config\.phases\.small\.image_size=2 pixels must be above config\.data\.max_shift=3",
        ),
        ({"imagesize": 2}, {}, r"config\.phases\.small has no field 'imagesize'; did you mean 'image_size'"),
        ({"from_epoch": None}, {}, r"config\.phases\.small\.from_epoch is missing"),
        ({"from_epoch": "0"}, {}, r"phases\.small\.from_epoch='0' must be at least 0"),
        ({"global_batch": 128.0}, {}, r"phases\.small\.global_batch=128\.0 must be a whole number"),
    ],
)
def test_impossible_phases_are_refused(small, large, words):
    with pytest.raises(UserError, match=words) as refused:
        phased({"small": SMALL | small, "large": LARGE | large})
    assert "\n" not in str(refused.value)


def test_a_phase_must_be_a_table():
    with pytest.raises(UserError, match=r"config\.phases\.image_size is 16; it must be a table"):
        phased({"image_size": 16})


def test_the_smallest_bn_batch_of_the_phases_is_warned_of():
    warned = phased({"small": SMALL | {"global_batch": 24}, "large": LARGE}).warnings
    assert warned[0].startswith("12 images normalise together")


def test_small_bn_batches_are_warned_of():
    assert (
        "8 images normalise together"
        in plan("digits.py", DIGITS, 8, global_batch=64, bn_group_size=1).warnings[0]
    )
