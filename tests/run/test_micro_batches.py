"""Eight replicas on eight, four, two devices and on one: the same numbers, but for the order of sums."""

import functools
import re

import jax
import numpy as np
import pytest
from recipes import load
from tiny import CLASSES, batch, build_tiny_networks

from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.agreement import ABANDON, GO, STOP, host_signals, not_halted
from efficientnet_pod.pod.mesh import replicated, to_global
from efficientnet_pod.pod.runtime import Runtime
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run import programs
from efficientnet_pod.run.run import ImageNumbers, run_on
from efficientnet_pod.run.tables import bn_groups_text, describe_devices

REPLICAS, IMAGES, STEPS, LIMIT = 8, 32, 20, 1e-6
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def recipe_of(optimizer, group, **fields):
    """Digits with masks of every kind: dropout, stochastic depth and mixup; averages; float32."""
    config = load("digits.py") | {"platform": "cpu", "global_batch": IMAGES, "bn_group_size": group}
    config |= {"replicas": REPLICAS, "ema_decay": 0.9, "label_smoothing": 0.1, "log_steps": 1} | fields
    config["epochs"] = STEPS * IMAGES / 1437
    config["model"] |= {"dropout": 0.2, "survival_probability": 0.7, "dtype": "float32"}
    config["data"] |= {"mixup": 0.2, "link_dtype": "float32", "class_weights": {"3": 4.0, "7": 0.25}}
    config["optimizer"]["name"] = optimizer
    config["optimizer"]["sgd"] |= {"lr_per_256": 0.1, "momentum": 0.9, "nesterov": True, "l2": 1e-4}
    config["schedule"]["warmup_epochs"] = 0.0
    return read_recipe(config)


@functools.cache
def opened(optimizer, group, devices):
    """Returns a run, its initial state in host memory, and its program."""
    runtime = Runtime("cpu", tuple(jax.devices()[:devices]), "cpu", 0, 1)
    run = run_on(runtime, recipe_of(optimizer, group), open_source("digits"))
    (phase,) = run.plan.phases
    lowered = programs._lowered(run, phase)
    program = programs.TrainProgram(
        *(each.compile(QUICKLY) for each in lowered), micro_batches=run.plan.micro_batches
    )
    return run, jax.device_get(run.init(run.initial_variables())), program


def micro_batches(run, images, commands=()):
    """Yields the parts of a global batch, in its order, each with a command; GO where none is given."""
    size, signals = run.plan.phases[0].micro_batch, host_signals(run.mesh)
    for number, first in enumerate(range(0, IMAGES, size)):
        part = {name: array[first : first + size] for name, array in images.items()}
        command = commands[number] if number < len(commands) else GO
        yield to_global(part, run.mesh) | {"command": signals[command]}


def trained(optimizer, group, devices, steps=STEPS):
    """Returns the losses, and the state at the end by the names of its tensors."""
    run, state, program = opened(optimizer, group, devices)
    state, halted, losses = jax.device_put(state, replicated(run.mesh)), not_halted(run.mesh), []
    for step in range(steps):
        parts = micro_batches(run, batch(IMAGES, seed=step))
        state, outcome = program(state, parts.__next__, halted)
        assert outcome.updated and next(parts, None) is None
        losses.append(float(outcome.counts.loss) / int(outcome.counts.images))
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state))
    return np.array(losses), {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    build_tiny_networks(monkeypatch)


def difference(optimizer, group, devices):
    """Returns the largest relative difference from eight devices: of a loss, or of a part of the state."""
    (losses, state), (own_losses, own) = (trained(optimizer, group, n) for n in (REPLICAS, devices))
    assert state.keys() == own.keys()
    found = [np.abs(own_losses / losses - 1).max()]
    for part in (".params", ".batch_stats", ".opt_state", ".ema"):
        names = [name for name in state if name.startswith(part)]
        both = (np.concatenate([np.ravel(tree[name]) for name in names]) for tree in (state, own))
        before, now = (vector.astype(np.float64) for vector in both)
        found.append(np.linalg.norm(now - before) / np.linalg.norm(before))
    return max(found)


@pytest.mark.parametrize(
    ("optimizer", "group", "devices"), [("sgd", 2, 2), ("lars", 8, 2), ("lars", 4, 4), ("sgd", 1, 1)]
)
def test_the_numbers_do_not_depend_on_the_devices(optimizer, group, devices):
    assert difference(optimizer, group, devices) <= LIMIT


@pytest.mark.long
@pytest.mark.parametrize("devices", [4, 2, 1])
@pytest.mark.parametrize("group", [1, 2, 4, 8])
@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_no_arrangement_changes_the_numbers(optimizer, group, devices):
    assert difference(optimizer, group, devices) <= LIMIT


@pytest.mark.parametrize(("commands", "asked"), [((GO, STOP), 3), ((ABANDON,), 2), ((GO, GO, STOP), 4)])
def test_a_stop_leaves_a_step_after_the_next_micro_batch_and_the_state_as_it_was(commands, asked):
    run, state, program = opened("sgd", 2, 2)
    assert run.plan.micro_batches == 4
    placed = jax.device_put(state, replicated(run.mesh))
    parts = micro_batches(run, batch(IMAGES), commands)
    assert program(placed, parts.__next__, not_halted(run.mesh)) is None
    assert len(list(parts)) == 4 - asked
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(placed), state)


@pytest.mark.parametrize(("command", "updated"), [(STOP, 1), (ABANDON, 0)])
def test_a_stop_with_the_last_micro_batch_is_in_the_outcome(command, updated):
    run, state, program = opened("sgd", 2, 2)
    parts = micro_batches(run, batch(IMAGES), (GO, GO, GO, command))
    ended = program(jax.device_put(state, replicated(run.mesh)), parts.__next__, not_halted(run.mesh))
    assert ended is not None
    new, outcome = ended
    assert (int(outcome.stops) > 0, int(outcome.updated), int(new.step)) == (True, updated, updated)


def test_one_micro_batch_that_is_not_finite_stops_the_whole_update():
    run, state, program = opened("sgd", 2, 2)
    images = batch(IMAGES)
    images["image"][9] = np.nan  # in the second of four parts
    parts = micro_batches(run, images)
    ended = program(jax.device_put(state, replicated(run.mesh)), parts.__next__, not_halted(run.mesh))
    assert ended is not None
    new, outcome = ended
    assert (int(outcome.finite), int(outcome.updated), int(outcome.halted)) == (0, 0, 1)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(new), state)


def test_what_the_devices_are_at_is_told_part_by_part():
    run, state, program = opened("sgd", 2, 2)
    told, parts = [], micro_batches(run, batch(IMAGES))
    placed = jax.device_put(state, replicated(run.mesh))
    program(placed, parts.__next__, not_halted(run.mesh), told.append)
    assert [int(result) for result in told] == [0] * 5  # four parts and the update, none stopped or halted


@pytest.mark.parametrize(
    ("replicas", "devices", "group", "message"),
    [
        (6, 4, 1, "config.replicas=6 is not a multiple of the 4 devices; the nearest that is: --config.repl"),
        (8, 3, 1, "--config.replicas=9; or take 2 devices"),
        (12, 6, 4, "and 6 devices can compute neither one such group at a time nor several"),
        (
            0,
            2,
            8,
            "config.bn_group_size=8 does not divide the 2 replicas, one a device; keep the group: --conf",
        ),
        (8, 2, 3, "config.bn_group_size=3 does not divide the 8 replicas"),
        (16, 4, 1, "global_batch=40 is not a multiple of the 16 replicas; the nearest that is"),
    ],
)
def test_what_no_arrangement_can_keep_is_refused(replicas, devices, group, message):
    recipe = recipe_of("sgd", group, replicas=replicas, global_batch=40 if replicas == 16 else 48)
    runtime = Runtime("cpu", tuple(jax.devices()[:devices]), "cpu", 0, 1)
    with pytest.raises(UserError, match=re.escape(message)):
        run_on(runtime, recipe, ImageNumbers(1437, 360, CLASSES))


def test_a_laptop_plans_the_step_of_1024_replicas():
    recipe = read_recipe(load("supercomputer.py:b5,65536") | {"replicas": 1024, "platform": "cpu"})
    one = Runtime("cpu", tuple(jax.devices()[:1]), "cpu", 0, 1)
    run = run_on(one, recipe, ImageNumbers(1_281_167, 50_000, CLASSES))
    plan = run.plan
    assert (plan.num_replicas, plan.per_replica_batch, plan.bn_batch) == (1024, 64, 1024)
    assert (plan.replicas_at_once, plan.micro_batches, plan.micro_batch) == (16, 64, 1024)
    assert plan.eval_batch == 1024  # as many as a device takes in training
    assert describe_devices(run) == "1,024 on 1 × cpu, 1 host: 64 micro-batches of 1,024 images a device"
    assert bn_groups_text(run) == "64 groups of 16 replicas, 16 of them at once on each device"
