"""Every field of a recipe has its range, by the definitions; overrides that a recipe does not read."""

import copy
import json
import math

import pytest
from recipes import load

from efficientnet_pod.cli.flags import overrides_of, parse_flags
from efficientnet_pod.cli.main import main
from efficientnet_pod.errors import UserError
from efficientnet_pod.optim.optimizers import OPTIMIZERS
from efficientnet_pod.optim.ranges import Choices, Range
from efficientnet_pod.recipe.base_config import base_config
from efficientnet_pod.recipe.fields import PHASE, all_fields, reference, without_effect
from efficientnet_pod.recipe.plan import resolve
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.workdir.values import flatten

DIGITS = {"num_train": 1437, "num_eval": 360, "num_classes": 10}
CONFIG = load("digits.py") | {"phases": {"one": {"from_epoch": 0.0}}}
FIELDS = {field.name: field for field in all_fields()}
NUMBERS = {name: field.allowed for name, field in FIELDS.items() if isinstance(field.allowed, Range)}
TABLES = {"data.mean_rgb": 3, "data.stddev_rgb": 3}  # with the numbers they hold
HOSTILE = (math.nan, math.inf, -math.inf, -1, 0, 2**63, 1e-300)


def with_value(name, value):
    """Returns a config whose field has the value, in pairs or triples where the field holds these."""
    config = copy.deepcopy(CONFIG)
    *tables, last = name.replace(PHASE, "phases.one").split(".")
    if name in TABLES:
        value = (0.5, value, 0.5)
    if name == "schedule.knots":
        config["schedule"] |= {"name": "piecewise", "warmup_epochs": 0.0}
        value = ((0.0, 0.0), (0.5, value), (1.0, 0.0))
    if name == "data.class_weights":
        value = {"0": value}
    if name == "init.lr_factors":
        config["init"]["weights"], value = "weights", (("classifier", value),)
    if len(tables) == 2 and tables[0] == "optimizer":
        config["optimizer"]["name"] = tables[1]
    table = config
    for part in tables:
        table = table[part]
    table[last] = value
    return config


def values_of(allowed):
    kind = int if allowed.whole else float
    below, above = allowed.least - 1, allowed.most + 1
    return (*HOSTILE, kind(below), kind(above), kind(allowed.least), kind(allowed.most))


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_in_its_range_or_refused_in_one_line(name):
    allowed = NUMBERS[name]
    for value in values_of(allowed):
        try:
            recipe = read_recipe(with_value(name, value))
        except UserError as error:
            full = name.replace(PHASE, "phases.one")
            assert not allowed.holds(value), (value, error)
            assert str(error).startswith(f"config.{full}=") and "\n" not in str(error), error
            assert str(allowed) in str(error)
            continue
        assert allowed.holds(value), value
        try:  # the plan takes every number of the range, or says why not together with the others
            plan = resolve(recipe, **DIGITS, num_devices=8, num_hosts=1, default_dtype="float32")
        except UserError as error:
            assert "\n" not in str(error)
        else:
            json.dumps(plan.as_dict(), allow_nan=False)


def test_more_steps_than_devices_count_are_refused():
    recipe = read_recipe(CONFIG | {"epochs": 100_000.0, "phases": {}, "global_batch": 8})
    numbers = DIGITS | {"num_train": 1_281_167}
    with pytest.raises(
        UserError, match="are 16,014,587,500 steps, and devices count to 2,147,483,647; lower --c"
    ):
        resolve(recipe, **numbers, num_devices=8, num_hosts=1, default_dtype="float32")


def test_every_field_of_a_config_is_in_the_reference():
    text = reference()
    neutral = dict(flatten(base_config().to_dict()))
    assert {name for name in FIELDS if not name.startswith(PHASE)} == set(neutral)
    for name, field in FIELDS.items():
        assert f"  --config.{name}" in text
        number = isinstance(neutral.get(name), int | float) and not isinstance(neutral.get(name), bool)
        assert isinstance(field.allowed, Range) or not number, name
        for value in [neutral[name]] if number or isinstance(field.allowed, Choices) else []:
            assert field.allowed.holds(value), name


def test_help_lists_the_fields_with_their_ranges(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = capsys.readouterr().out
    assert (
        "  --config.epochs=90.0\n    passes over the training images; may be a fraction; above 0 and"
        in printed
    )
    assert "  --config.phases.NAME.from_epoch\n" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--config.epochs=inf"],
            "config.epochs=inf must be above 0 and at most 100,000; set --config.epochs",
        ),
        (["--config.schedule.warmup_epochs=inf"], "config.schedule.warmup_epochs=inf must be at least 0"),
        (
            ["--config.optimizer.lars.lr_per_256=inf"],
            "config.optimizer.lars.lr_per_256=inf must be at least 0",
        ),
        (["--config.global_batch=-8"], "config.global_batch=-8 must be a whole number, at least 1"),
        (["--config.seed=-1"], "config.seed=-1 must be a whole number, at least 0"),
        ([f"--config.seed={2**63}"], "config.seed=9223372036854775808 must be a whole number"),
        (["--config.data.mean_rgb=(float('nan'),.5,.5)"], "config.data.mean_rgb"),
        (["--replicas=0"], "--replicas=0: it must be a whole number, at least 1 and at most 2,147,483,647"),
        (["--replica-rate=nan"], "--replica_rate=nan: it must be above 0 and at most 1,000,000,000"),
    ],
)
def test_from_the_command_line_it_is_one_line_and_exit_code_2(
    capsys, monkeypatch, pytestconfig, arguments, words
):
    monkeypatch.chdir(pytestconfig.rootpath)
    assert main(["plan", "--config=configs/digits.py", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "Traceback" not in error


def test_values_of_another_type_are_refused():
    for name, value in (
        ("eval_flip", "yes"),
        ("data.name", 3),
        ("seed", "3"),
        ("seed", True),
        ("platform", 1),
    ):
        with pytest.raises(UserError, match=f"^config.{name}="):
            read_recipe(with_value(name, value))
    with pytest.raises(UserError, match="^config.model is 3; it must be a table"):
        read_recipe(CONFIG | {"model": 3})


READ = {  # a choice, a field that it makes the recipe read, and a choice with which it does not
    "optimizer.rmsprop.decay": ("optimizer.name", "rmsprop", "lars"),
    "optimizer.sgd.nesterov": ("optimizer.name", "sgd", "lars"),
    "schedule.decay_rate": ("schedule.name", "exponential", "polynomial"),
    "schedule.end_lr": ("schedule.name", "exponential", "constant"),
    "data.policy_magnitude": ("data.policy", "randaugment", "autoaugment"),
    "data.policy_bugs": ("data.policy", "autoaugment", "none"),
    "data.min_crop_area": ("data.augment", "inception_crop", "shift"),
    "data.max_shift": ("data.augment", "shift", "inception_crop"),
    "eval_raw": ("ema_decay", 0.9, 0.0),
    "data.data_dir": ("data.name", "imagenet2012", "folder:/photos"),
    "phases.one.policy_layers": ("data.policy", "randaugment", "none"),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("with_choice", [True, False])
def test_an_override_without_effect_is_one_warning(name, with_choice):
    choice, read, unread = READ[name]
    config = with_value(choice, read if with_choice else unread)
    config["optimizer"]["name"] = (
        config["optimizer"]["name"] if choice != "optimizer.name" else (read if with_choice else unread)
    )
    recipe = read_recipe(config)
    plan = resolve(recipe, **DIGITS, num_devices=8, num_hosts=1, default_dtype="float32")
    warnings = plan.with_warnings(without_effect(recipe, [name, choice, "seed"])).warnings
    if with_choice:
        assert warnings == ()
    else:
        (warning,) = warnings
        assert warning.startswith(f"without effect: config.{name} (read only w")
        assert f"config.{choice}" in warning and ";" not in warning


def warnings_of(*overrides):
    values = parse_flags("plan", ["--config=configs/digits.py", *overrides], config=True)
    recipe = read_recipe(values.config.to_dict())
    plan = resolve(recipe, **DIGITS, num_devices=8, num_hosts=1, default_dtype="float32")
    return plan.with_warnings(without_effect(recipe, overrides_of(values))).warnings


def test_only_what_was_set_on_the_command_line_can_be_without_effect(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
    overrides = ["--config.optimizer.rmsprop.decay=0.5", "--config.data.policy_magnitude=10"]
    assert warnings_of(*overrides) == (
        "without effect: config.optimizer.rmsprop.decay (read only with config.optimizer.name=rmsprop); "
        "config.data.policy_magnitude (read only with config.data.policy=randaugment)",
    )
    # The recipe's own numbers of the optimizer that it is switched from are nobody's override.
    assert warnings_of("--config.optimizer.name=sgd", "--config.optimizer.sgd.l2=0.1") == ()


@pytest.mark.parametrize("name", ["resnet9", "resnet9_whitened"])
def test_images_that_pools_leave_nothing_of_are_refused(name):
    config = copy.deepcopy(CONFIG)
    config["model"] |= {"name": name, "survival_probability": 1.0}
    for size in (7, 8):
        config["data"]["image_size"] = size
        numbers = {"num_devices": 8, "num_hosts": 1, "default_dtype": "float32"}
        if size == 8:
            assert resolve(read_recipe(config), **DIGITS, **numbers).image_size == 8
            continue
        with pytest.raises(
            UserError, match="config.data.image_size=7 is too small for ResNet-9.* the least: --"
        ):
            resolve(read_recipe(config), **DIGITS, **numbers)


def test_optimizers_are_listed_by_their_names():
    assert {name.split(".")[1] for name in FIELDS if name.startswith("optimizer.")} == {"name", *OPTIMIZERS}


def fine_tuned(**fields):
    config = load("finetune.py:lite0") | fields
    config["init"]["weights"] = "weights"
    numbers = {"num_train": 96, "num_eval": 32, "num_classes": 4}
    recipe = read_recipe(config)
    return resolve(recipe, **numbers, num_devices=1, num_hosts=1, default_dtype="float32").warnings


def test_few_steps_and_large_batches_from_trained_weights_are_warned_of():
    """By hand: 10 epochs of 96 images are 15 steps of 64, 10 × 50 / 15 = 33.3 epochs are 50 of them."""
    (few,) = fine_tuned()
    assert few.startswith("15 steps from trained weights; below 50 ") and "--config.epochs=34, or" in few
    assert fine_tuned(epochs=34.0) == ()
    assert fine_tuned(global_batch=16) == ()  # 60 steps
    (large,) = fine_tuned(global_batch=128, epochs=100.0)
    assert large.startswith("a batch of 128 images is larger than the set of 96")
