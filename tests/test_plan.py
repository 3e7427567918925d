"""Derived numbers against hand-computed ones, and every refusal with its remedy."""

import dataclasses
import json

import pytest
from recipes import load

from efficientnet_pod.errors import UserError
from efficientnet_pod.plan import resolve
from efficientnet_pod.recipe import read_recipe

IMAGENET = {"num_train": 1_281_167, "num_eval": 50_000, "num_classes": 1000}
DIGITS = {"num_train": 1437, "num_eval": 360, "num_classes": 10}


def plan(path, numbers, replicas, **fields):
    recipe = dataclasses.replace(read_recipe(load(path)), **fields)
    return resolve(recipe, **numbers, num_replicas=replicas, num_hosts=1, default_dtype="bfloat16")


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
        32,
        128,
        256,
        2,
    )
    assert digits.is_eval_due(digits.total_steps)
    assert digits.warnings == ()


def test_plan_is_json():
    assert (
        json.loads(json.dumps(plan("digits.py", DIGITS, 8).as_dict()))["recipe"]["optimizer"]["name"]
        == "lars"
    )


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
        resolve(read_recipe(config), **DIGITS, num_replicas=8, num_hosts=1, default_dtype="float32")


def test_missing_fields_are_named():
    config = load("digits.py")
    del config["seed"]
    with pytest.raises(UserError, match=r"config\.seed is missing"):
        read_recipe(config)


def test_small_bn_batches_are_warned_of():
    assert (
        "8 images normalise together"
        in plan("digits.py", DIGITS, 8, global_batch=64, bn_group_size=1).warnings[0]
    )
