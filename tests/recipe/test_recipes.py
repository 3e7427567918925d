"""Every recipe at its own scale, against the published numbers; the rates of learning, epoch by epoch."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from recipes import CONFIGS, load

from efficientnet_pod.recipe.plan import resolve
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.run import PUBLISHED_NUMBERS, ImageNumbers, build
from efficientnet_pod.workdir.values import flatten

# Recipe: replicas it was published on, images a step, steps, peak learning rate, BN batch.
# Steps are epochs · images / batch, rounded: 350 · 1,281,167 / 65,536 = 6,842.2.
PUBLISHED = {
    "supercomputer.py:b2,4096,rmsprop": (128, 4096, 109_475, 0.256, 512),
    "supercomputer.py:b2,8192,rmsprop": (256, 8192, 54_737, 0.512, 1024),
    "supercomputer.py:b2,16384,rmsprop": (512, 16384, 27_369, 1.024, 2048),
    "supercomputer.py:b2,16384": (512, 16384, 27_369, 15.104, 1024),
    "supercomputer.py:b2,32768": (1024, 32768, 13_684, 15.104, 1024),
    "supercomputer.py:b5,4096,rmsprop": (128, 4096, 109_475, 0.256, 512),
    "supercomputer.py:b5,32768,lars": (1024, 32768, 13_684, 15.104, 1024),
    "supercomputer.py:b5,65536": (1024, 65536, 6_842, 20.736, 1024),
    "imagenet.py:b0": (32, 4096, 109_475, 0.256, 1024),
    "imagenet.py:b2,autoaugment": (32, 4096, 109_475, 0.256, 1024),
    "imagenet.py:b7": (128, 4096, 109_475, 0.256, 256),
    "imagenet.py:b0,released": (32, 4096, 109_475, 0.256, 1024),
    "imagenet.py:b5,randaugment": (128, 4096, 109_475, 0.256, 256),
    "imagenet.py:b0,ra4": (8, 4096, 1_126_026, 0.002, 512),
    "progressive.py": (32, 4096, 109_475, 0.256, 128),
    "imagenet_v2.py:b3": (32, 4096, 109_475, 0.256, 1024),
    "imagenet_v2.py:s": (32, 4096, 109_475, 0.256, 1024),
    "imagenet_v2.py:l": (32, 4096, 109_475, 0.256, 1024),
    "b0_gpu.py": (1, 4096, 109_475, 0.256, 4096),
    "b0_gpu.py:fast": (1, 4096, 109_475, 0.256, 4096),
    "imagenet18.py:1": (8, 4096, None, 1.0, 512),
    "imagenet18.py:4": (32, 8192, None, 2.0, 256),
    "imagenet18.py:8": (64, 8192, None, 1.92, 128),
    "imagenet18.py:16": (128, 8192, None, 1.88, 64),
    "amoebanet.py:v2-8": (8, 1024, 43_785, 2.56, 128),
    "amoebanet.py:v2-32": (32, 4096, 10_920, 10.24, 128),
    "amoebanet.py:v2-128": (128, 4096, 12_792, 10.24, 32),
    "resnet50.py:goyal": (256, 8192, 14_075, 3.2, 32),
    "resnet50.py:lars,32768": (2048, 32768, 2_502, 29.0, 64),
    "resnet50.py:lars,65536": (2048, 65536, 1_799, 23.081, 64),
    "resnet50.py:cutmix": (4, 256, 1_501_368, 0.1, 64),
    "resnet50.py:mixup": (4, 256, 1_501_368, 0.1, 64),
    "cifar10.py:resnet18": (1, 128, 13_672, 0.1, 128),
    "cifar10.py:resnet9": (1, 512, 2_344, 0.4, 512),
    "cifar10.py:tricks": (1, 512, 977, 1.0, None),
    "digits.py": (8, 128, 314, 0.1, 64),
    "digits.py:raw": (8, 128, 314, 0.1, 64),
    "finetune.py:lite0": (1, 64, 84, 0.005, 64),
    "finetune.py:b3": (1, 64, 84, 0.005, 64),
}


RECALLED = (
    "imagenet.py:b0,ra4", "imagenet.py:b5,randaugment", "imagenet_v2.py:s",
    "resnet50.py:cutmix", "resnet50.py:mixup",
)  # fmt: skip
OURS = ("digits", "b0_gpu", "finetune")  # reproduce nothing that was published


def plan_of(recipe):
    config = load(recipe)
    if config["init"]["lr_factors"]:
        config["init"]["weights"] = "weights"  # for the command to name
    ours = {"digits": ImageNumbers(1437, 360, 10), "folder:/photos": ImageNumbers(540, 360, 18)}
    numbers = (PUBLISHED_NUMBERS | ours)[config["data"]["name"]]
    return resolve(
        read_recipe(config),
        **dataclasses.asdict(numbers),
        num_devices=PUBLISHED[recipe][0],
        num_hosts=math.ceil(PUBLISHED[recipe][0] / 8),
        default_dtype="bfloat16",
    )


def test_every_recipe_is_here():
    assert {name.partition(":")[0] for name in PUBLISHED} == {path.name for path in CONFIGS.glob("*.py")}


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_plan_has_the_published_numbers(recipe):
    _, global_batch, steps, peak_lr, bn_batch = PUBLISHED[recipe]
    plan = plan_of(recipe)
    assert plan.recipe.global_batch == global_batch
    assert plan.peak_lr == pytest.approx(peak_lr, rel=1e-9)
    if steps:
        assert plan.total_steps == steps
        assert plan.total_steps == round(plan.recipe.epochs * plan.num_train / global_batch)
    if bn_batch:
        assert plan.bn_batch == bn_batch
    assert plan.warnings == ()


@pytest.mark.parametrize("recipe", [name for name in PUBLISHED if name.partition(".")[0] not in OURS])
def test_a_recipe_says_what_was_published(recipe):
    notes = " ".join(plan_of(recipe).recipe.notes)
    assert "published" in notes or recipe == "progressive.py"
    assert ("recalled" in notes) == (recipe in RECALLED or recipe.startswith("supercomputer"))


def test_every_feature_has_a_row():
    """Each row sets what it is named after, and differs in nothing else from the row beside it."""
    for row, beside, changed in (
        ("imagenet.py:b0,released", "imagenet.py:b0,autoaugment", {"data.policy_bugs": True}),
        ("b0_gpu.py:fast", "b0_gpu.py", {"data.resize": "fast"}),
        ("digits.py:raw", "digits.py", {"eval_raw": True}),
    ):
        fields, others = dict(flatten(load(row))), dict(flatten(load(beside)))
        assert {name: value for name, value in fields.items() if value != others[name]} == changed
    b5 = plan_of("imagenet.py:b5,randaugment").recipe.data
    assert (b5.policy, b5.policy_layers, b5.policy_magnitude) == ("randaugment", 2, 17)
    for row, alphas in (("cutmix", (0, 1)), ("mixup", (1, 0))):
        recipe = plan_of(f"resnet50.py:{row}").recipe
        assert (recipe.data.mixup, recipe.data.cutmix) == alphas and recipe.optimizer.l2_everywhere


# (epoch, rate, images a step, pixels) of cybertronai/imagenet18_old, train.py, written out by hand.
IMAGENET18 = {
    1: [(2.5, 1.5, 4096, 128), (10, 1.0, 4096, 128), (15, 0.4375, 1792, 224), (20, 0.04375, 1792, 224),
        (30, 0.004375, 1792, 224), (32.5, 0.0025, 1024, 288), (34, 0.00025, 1024, 288)],
    4: [(3, 3.0, 8192, 128), (8, 4.0, 16384, 128), (12, 3.0, 16384, 128), (15, 1.75, 7168, 224),
        (19.5, 0.9625, 7168, 224), (29, 0.0055, 4096, 288)],
    8: [(3, 2.88, 8192, 128), (9, 3.84, 16384, 128), (12.5, 2.88, 16384, 128), (15, 1.92, 8192, 224),
        (20, (1.92 + 0.336) / 2, 14336, 224), (26, (0.336 + 0.0336) / 2, 14336, 224),
        (32, (0.0192 + 0.00192) / 2, 8192, 288)],
    16: [(3, 2.82, 8192, 128), (10, 3.76, 16384, 128), (17, 1.88, 8192, 224), (25, 0.564, 24576, 224),
         (35, 0.0564, 24576, 224), (37.5, 0.0376, 16384, 288), (45, 0.00376, 16384, 288)],
}  # fmt: skip


@pytest.mark.parametrize("machines", IMAGENET18)
def test_imagenet18_learns_at_the_published_rates(machines):
    plan = plan_of(f"imagenet18.py:{machines}")
    learning_rate = build(plan)[-1]
    ends = np.array([phase.last_step for phase in plan.phases])
    epochs = np.array([plan.epoch(step) for step in range(plan.total_steps)])
    for epoch, rate, batch, pixels in IMAGENET18[machines]:
        step = int(np.searchsorted(epochs, epoch))
        phase = plan.phases[int(np.searchsorted(ends, step, side="right"))]
        assert (phase.recipe.global_batch, phase.image_size) == (batch, pixels), epoch
        assert float(learning_rate(step)) == pytest.approx(rate, rel=5e-3), epoch


def test_goyals_rate_rises_from_a_tenth_and_falls_at_30_60_and_80():
    plan = plan_of("resnet50.py:goyal")
    learning_rate = build(plan)[-1]
    steps = [round(epoch * plan.steps_per_epoch) for epoch in (0, 2.5, 5, 29, 31, 59, 61, 79, 81, 89)]
    expected = [0.1, 1.65, 3.2, 3.2, 0.32, 0.32, 0.032, 0.032, 0.0032, 0.0032]
    np.testing.assert_allclose(learning_rate(jnp.array(steps)), expected, rtol=2e-3)


@pytest.mark.parametrize(
    ("row", "epoch", "warmup", "epochs"),
    [("v2-8", 1251, 437, 35), ("v2-32", 312, 936, 35), ("v2-128", 312, 936, 41)],
)
def test_amoebanet_falls_each_epoch_of_whole_steps_from_the_first_on(row, epoch, warmup, epochs):
    plan = plan_of(f"amoebanet.py:{row}")
    assert plan.total_steps == epochs * epoch
    steps = np.arange(plan.total_steps)
    peak = np.float64(0.64 * plan.recipe.global_batch / 256)
    expected = np.where(steps < warmup, peak * steps / warmup, peak * 0.88 ** (steps // epoch))
    np.testing.assert_allclose(
        build(plan)[-1](jnp.array(steps)), np.maximum(expected, 1e-4 * peak), rtol=1e-5
    )
    assert plan.evaluations() == epochs and plan.is_eval_due(epoch) and not plan.is_eval_due(epoch + 1)


@pytest.mark.parametrize(
    ("row", "points"),
    [
        ("resnet18", [(0, 0.0), (7.5, 0.05), (15, 0.1), (22.5, 0.0525), (30, 0.005), (32.5, 0.0025)]),
        ("resnet9", [(0, 0.0), (2.5, 0.2), (5, 0.4), (14.5, 0.2)]),
        ("tricks", [(0, 0.0), (1, 0.5), (2, 1.0), (5, 0.55), (8, 0.1), (9, 0.1)]),
    ],
)
def test_cifar_has_one_cycle(row, points):
    plan = plan_of(f"cifar10.py:{row}")
    learning_rate = build(plan)[-1]
    for epoch, rate in points:
        step = round(epoch * plan.steps_per_epoch)
        assert float(learning_rate(step)) == pytest.approx(rate, abs=4e-3), epoch  # a step is up to 1 %


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("supercomputer.py:b5,1024", "known: b2,4096,rmsprop  b2,8192"),
        ("supercomputer.py:b2,65536", "known: b2,4096,rmsprop"),
        ("imagenet.py:b8", "known: b0  b0,autoaugment"),
        ("imagenet.py:b0,autoaugmnt", "did you mean 'b0,autoaugment'?"),
        ("amoebanet.py:v2-64", "known: v2-8  v2-32  v2-128"),
        ("imagenet18.py:2", "known: 1  4  8  16"),
        ("resnet50.py:adam", "known: goyal  lars,32768  lars,65536  cutmix  mixup"),
        ("cifar10.py:resnet8", "known: resnet18  resnet9  tricks"),
    ],
)
def test_an_unknown_row_is_refused_with_those_there_are(recipe, words):
    with pytest.raises(ValueError, match="the recipe has no") as refused:
        load(recipe)
    assert words in str(refused.value)
