"""AmoebaNet-D against the published sizes and the same network in TensorFlow: logits and a training step."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import images, quickly
from same_logits import assert_same_logits

from efficientnet_pod.models.initial import abstract_variables
from efficientnet_pod.models.registry import create_network
from efficientnet_pod.pod.agreement import GO, host_signals, not_halted
from efficientnet_pod.pod.mesh import BN_MEMBER, create_mesh
from efficientnet_pod.run.state import init_state
from efficientnet_pod.run.train_step import TrainStep, compile_train_step
from efficientnet_pod.workdir.checkpoints.commit import leaves_of

CLASSES = 7


def amoebanet(num_classes=1000, *, auxiliary_weight=0.0, cells=2, filters=256, bn_axis=None, **settings):
    settings = {"auxiliary_weight": auxiliary_weight, **settings}
    model = create_network("amoebanet_d", num_classes=num_classes, bn_axis=bn_axis, settings=settings)
    return model.clone(cells=cells, filters=filters)


def parameters_of(variables) -> int:
    assert set(variables) == {"params", "batch_stats"}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("size", "cells", "parameters"),
    [(224, 2, 46_763_161), pytest.param(299, 4, 84_812_042, marks=pytest.mark.long)],
)
def test_parameters_with_the_second_classifier(size, cells, parameters):
    variables = abstract_variables(amoebanet(1001, auxiliary_weight=0.4, cells=cells), size)
    assert parameters_of(variables) == parameters


def products(jaxpr) -> int:
    """Returns the multiply-adds of convolutions and matrix products, in the forms for accelerators."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":  # of platforms; the last is the default
            total += products(equation.params["branches"][-1].jaxpr)
        elif equation.primitive.name == "conv_general_dilated":
            kernel, output = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
            total += math.prod(kernel[:3]) * math.prod(output)
        elif equation.primitive.name == "dot_general":
            total += math.prod(equation.invars[1].aval.shape) * equation.outvars[0].aval.shape[0]
        else:
            inner = [
                part for part in equation.params.values() if hasattr(part, "eqns") or hasattr(part, "jaxpr")
            ]
            total += sum(products(getattr(part, "jaxpr", part)) for part in inner)
    return total


def test_parameters_and_multiply_adds_are_those_published():
    model = amoebanet()
    variables = abstract_variables(model, 224)
    assert parameters_of(variables) == 46_095_080
    pixels = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    forward = jax.make_jaxpr(lambda variables, x: model.apply(variables, x, train=False))
    assert products(forward(variables, pixels).jaxpr) / 1e9 == pytest.approx(5.72, abs=5e-3)


# --- beside TensorFlow -----------------------------------------------------------------------------------

SIZE, FILTERS, BATCH = 96, 16, 4
OPERATION = {"only": "1x1", "project": "1x1", "reduce": "pre", "expand": "post", "square": "3x3",
             "row": "1x7", "column": "7x1"}  # fmt: skip
LEAVES = {"kernel": "weights", "scale": "gamma", "mean": 0, "var": 1}


def name_there(path: str, cells: int) -> str:
    """Returns the reference's name of one of our tensors, without its leaf."""
    first, *inner, _ = path.split("/")[1:]
    if first in ("stem_conv", "stem_bn"):
        return "stem"
    if first == "classifier":
        return "final"
    if first == "auxiliary":
        return {"project": "aux/proj", "whole": "aux/full", "classifier": "aux/FC"}[
            inner[0].partition("_")[0]
        ]
    group, place = int(first[5]), ord(first[6]) - ord("a")
    if group == 0:
        cell = f"stem_cell_{place}"
    elif group > 1 and place == 0:
        cell = f"reduction_cell_{group - 2}"
    else:
        cell = f"cell_{(group - 1) * cells + place - (group > 1)}"
    if inner[0] == "input":
        return f"{cell}/begin"
    if inner[0] == "before":
        return f"{cell}/prev" + {"even_conv": "/path1", "odd_conv": "/path2"}.get(inner[1], "")
    number, side = inner[0].removeprefix("state").split("_")
    return f"{cell}/comb_{int(number) - 2}/{side}/{OPERATION[inner[1]]}"


def from_there(tensors, statistics, variables, cells):
    """Returns the reference's arrays, by its names, in the shape of our variables; all must have a place."""
    used = set()

    def leaf(path, old):
        *modules, leaf = (key.key for key in path)
        name = name_there("/".join([*modules, leaf]), cells)
        if modules[0] == "batch_stats":
            value = statistics[name][LEAVES[leaf]]
        else:
            biases = "beta" if modules[-1].endswith("bn") else "biases"
            name = f"{name}/{LEAVES.get(leaf, biases)}"
            used.add(name)
            value = tensors[name]
        value = np.asarray(value)
        assert value.shape == old.shape, path
        return value.astype(np.float32)

    converted = jax.tree_util.tree_map_with_path(leaf, variables)
    assert used == set(tensors)
    return converted


class Beside:
    """A network of ours and the reference with the same weights, and statistics of the images."""

    def __init__(self, *, cells, size=SIZE, filters=FILTERS, batch=BATCH):
        pytest.importorskip("tensorflow")
        from amoebanet_reference import Network, Weights

        self.cells, self.pixels = cells, images(batch, size)
        self.weights = Weights(seed=0)
        arguments = (self.weights, CLASSES, 3 * cells, filters)
        self.training, self.evaluation = (Network(*arguments, training=flag) for flag in (True, False))
        self.model = amoebanet(CLASSES, cells=cells, filters=filters, auxiliary_weight=0.4, dropout=0.0)
        self.training(self.pixels)
        self.statistics = dict(self.weights.statistics)
        self.shapes = abstract_variables(self.model, size)
        self.variables = self.ours(self.weights.tensors)

    def ours(self, tensors):
        return from_there(tensors, self.statistics, self.shapes, self.cells)


@pytest.mark.parametrize(
    "how",
    [
        {"cells": 2},
        pytest.param({"cells": 2, "size": 224, "filters": 256, "batch": 2}, marks=pytest.mark.long),
    ],
)
def test_logits_equal_tensorflow(how):
    both = Beside(**how)
    expected, _ = both.evaluation(both.pixels)
    logits = quickly(lambda v, x: both.model.apply(v, x, train=False))(both.variables, both.pixels)
    assert_same_logits(logits, np.asarray(expected))


def keeping_gradients():
    """An optimizer that changes nothing and has the last gradients as its state."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda updates, state, params=None: (jax.tree.map(jnp.zeros_like, updates), updates),
    )


@pytest.mark.long
def test_a_training_step_has_the_gradients_of_both_losses():
    both, labels = Beside(cells=1, batch=8), np.arange(8, dtype=np.int32) % CLASSES
    import tensorflow as tf
    from amoebanet_reference import smoothed_loss, training_loss

    names, tensors = zip(*both.weights.tensors.items(), strict=True)
    with tf.GradientTape() as tape:
        logits, auxiliary = both.training(both.pixels)
        loss = training_loss(logits, auxiliary, labels)
    expected = both.ours(dict(zip(names, tape.gradient(loss, tensors), strict=True)))

    mesh = create_mesh(jax.devices()[:1], 1)
    model = both.model.clone(norm=partial(both.model.norm, axis_name=BN_MEMBER))
    step = TrainStep(
        model, keeping_gradients(), 0.1, 0.0, jax.random.key(0), auxiliary_weight=0.4, normalise=lambda x: x
    )
    untrained = jax.tree.map(jnp.array, both.variables) | {
        "batch_stats": jax.tree.map(jnp.zeros_like, both.variables["batch_stats"])
    }
    state = init_state(untrained, keeping_gradients(), ema=False)
    batch = {"image": both.pixels, "label": labels, "command": host_signals(mesh)[GO]}
    arguments = state, batch, not_halted(mesh)
    compiled = compile_train_step(step, mesh).lower(*arguments).compile({"xla_backend_optimization_level": 0})
    state, outcome = compiled(*arguments)

    assert float(outcome.counts.loss) / 8 == pytest.approx(float(loss), rel=1e-5)
    assert float(loss) > float(tf.reduce_mean(smoothed_loss(logits, labels))) + 0.4
    there = leaves_of(expected["params"])
    differences = {
        path: np.abs(np.asarray(gradient) - there[path]).max() / np.abs(there[path]).max()
        for path, gradient in leaves_of(state.opt_state).items()
        # Batch norm takes away what a kernel of a single input could change: its gradient is zero.
        if there[path].ndim < 4 or there[path].shape[2] > 1
    }
    worst = max(differences, key=lambda path: differences[path])
    print(f"{worst}: {differences[worst]:.1e} of the tensor's largest gradient")
    assert differences[worst] <= 1e-4
    moved = jax.tree.map(lambda new: np.asarray(new) / (1 - 0.9), state.batch_stats)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), moved, both.variables["batch_stats"]
    )
