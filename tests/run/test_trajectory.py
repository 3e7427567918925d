"""Twenty steps of the whole training program against an independent one in float64.

Ours begins at a recipe of configs/: plan, learning rate, network, optimizer and averages are the product's.
"""

import functools

import jax
import numpy as np
import pytest
from recipes import load
from tiny import CLASSES, batch, build_tiny_networks
from whole_program import FAULTS, Blocks, Published

from efficientnet_pod.models.efficientnet import Stage
from efficientnet_pod.optim.masks import path_name
from efficientnet_pod.pod.agreement import GO, host_signals, not_halted
from efficientnet_pod.pod.mesh import replicated, to_global
from efficientnet_pod.pod.runtime import Runtime
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.run import ImageNumbers, run_on

STEPS, IMAGES, TRAINING_IMAGES, WARMUP_EPOCHS = 20, 16, 70, 1.2  # a warm-up of 5 steps, and 4.375 an epoch
RECIPES = {"rmsprop": "imagenet.py:b0", "lars": "supercomputer.py:b5,65536"}
# Learning rates: the highest, and the last of polynomial decay. At fifteen times these rates B0 learns the
# noise, and differences of 1e-7 become 1 in twenty steps, between any two programs.
TWO_BLOCKS_RATES = {"rmsprop": (0.016, 0.0), "lars": (1.0, 0.1)}
B0_RATES = {"rmsprop": (0.001, 0.0), "lars": (0.02, 0.002)}
# A network of two blocks has all that B0 has; the reference has its stages after scaling.
STAGES = (Stage(3, 1, 16, 1, 1), Stage(5, 1, 24, 6, 2))
TWO_BLOCKS = (Blocks(1, 3, 1, 1, 8), Blocks(1, 5, 2, 6, 8))
# Relative to the change since the start. Float32 alone comes to 1e-5, the smallest fault to 2e-4.
LIMIT = 5e-5


def recipe_of(optimizer, rates, size, replicas):
    """The recipe as published, but for the numbers of images and steps, the rate, and what is random."""
    config = load(RECIPES[optimizer])
    config |= {"platform": "cpu", "global_batch": IMAGES, "bn_group_size": replicas}
    config["epochs"] = STEPS * IMAGES / TRAINING_IMAGES
    config["model"] |= {"name": "b0", "dropout": 0.0, "survival_probability": 1.0, "dtype": "float32"}
    config["data"] |= {"image_size": size, "link_dtype": "float32"}
    config["optimizer"][optimizer]["lr_per_256"] = rates[0] * 256 / IMAGES
    config["schedule"] |= {"warmup_epochs": WARMUP_EPOCHS, "end_lr": rates[1]}
    return read_recipe(config)


@functools.cache
def batches(size):
    return [batch(IMAGES, seed, size) for seed in range(STEPS)]


def table(tree):
    """Returns the tensors of a tree by their names, without those of the collections."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {path_name(path).partition("/")[2]: leaf for path, leaf in leaves}


def ours(optimizer, rates, size, replicas):
    """Returns weights and statistics at the start; losses, variables and their averages after the run."""
    runtime = Runtime("cpu", tuple(jax.devices()[:replicas]), "cpu", 0, 1)
    run = run_on(
        runtime, recipe_of(optimizer, rates, size, replicas), ImageNumbers(TRAINING_IMAGES, 8, CLASSES)
    )
    assert run.plan.total_steps == STEPS
    initial = run.initial_variables()
    state, halted, losses = jax.device_put(run.init(initial), replicated(run.mesh)), not_halted(run.mesh), []
    step = run.lower_train_step(run.plan.phases[0]).compile()
    for images in batches(size):
        given = to_global(images, run.mesh) | {"command": host_signals(run.mesh)[GO]}
        state, outcome = step(state, given, halted)
        losses.append(float(outcome.counts.loss) / IMAGES)
    start = [table({name: initial[name]}) for name in ("params", "batch_stats")]
    return start, (np.array(losses), table(state.variables), table(state.ema))


def reference(optimizer, rates, size, start, **options):
    program = Published(
        optimizer,
        peak=rates[0],
        end=rates[1],
        steps_per_epoch=TRAINING_IMAGES / IMAGES,
        warmup_epochs=WARMUP_EPOCHS,
        total_steps=STEPS,
        **options,
    )
    return program.train(*start, [(images["image"], images["label"]) for images in batches(size)])


def differences(one, other, start):
    """Returns the relative differences of the losses, and of the changes of each kind of tensor."""
    start = start[0] | start[1]
    found = {"loss": np.abs(one[0] / other[0] - 1).max()}
    for prefix, a, b in (("", one[1], other[1]), ("averaged ", one[2], other[2])):
        assert a.keys() == b.keys() == start.keys()
        for kind in ("kernel", "bias", "scale", "mean", "var"):
            names = [name for name in start if name.endswith(f"/{kind}")]
            pairs = [[(a[name], b[name]) for name in names], [(b[name], start[name]) for name in names]]
            error, change = (sum(np.sum((np.float64(x) - y) ** 2) for x, y in p) ** 0.5 for p in pairs)
            found[prefix + kind] = error / change
    return found


def show(title, found):
    print(f"| {title} | {' | '.join(f'{value:.1e}' for value in found.values())} |")


@pytest.mark.parametrize(("optimizer", "replicas"), [("rmsprop", 1), ("lars", 8)])
def test_twenty_steps_are_those_of_an_independent_program_and_no_other(optimizer, replicas, monkeypatch):
    build_tiny_networks(monkeypatch, STAGES)
    start, trajectory = ours(optimizer, TWO_BLOCKS_RATES[optimizer], 16, replicas)
    for fault in ("", *FAULTS[optimizer]):
        theirs = reference(optimizer, TWO_BLOCKS_RATES[optimizer], 16, start, stages=TWO_BLOCKS, fault=fault)
        found = differences(trajectory, theirs, start)
        show(f"{optimizer}, {fault or 'no fault'}", found)
        largest = max(found.values())
        assert largest > 3 * LIMIT if fault else largest < LIMIT, (fault, found)


@pytest.mark.long
@pytest.mark.parametrize("optimizer", RECIPES)
def test_b0_at_64_pixels_follows_as_closely_as_float32_can(optimizer):
    """Beside the reference in float32, which is as far from the one in float64 as rounding takes it."""
    rates = B0_RATES[optimizer]
    start, one = ours(optimizer, rates, 64, 1)
    theirs = reference(optimizer, rates, 64, start)
    rounded = differences(reference(optimizer, rates, 64, start, dtype="float32"), theirs, start)
    show(f"{optimizer} | the reference in float32", rounded)
    for replicas, trajectory in {1: one, 8: ours(optimizer, rates, 64, 8)[1]}.items():
        found = differences(trajectory, theirs, start)
        show(f"{optimizer} | ours, replicas: {replicas}", found)
        assert all(found[name] < 3 * rounded[name] for name in found), (found, rounded)
    assert max(rounded.values()) < 2e-3
