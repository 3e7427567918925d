"""Random weights that tests write, read and convert."""

import dataclasses

import jax
import numpy as np

from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.weights.paths import unflatten
from efficientnet_pod.weights.trained import Trained, untrained
from efficientnet_pod.workdir.checkpoints.commit import leaves_of


def random_weights(network="b0", classes=5, kernel_noise=0.1):
    """Returns weights in which no two tensors are alike, so that none can stand for another."""
    tensors = leaves_of(initial_variables(untrained(network, classes), 64, seed=3))
    rng = np.random.default_rng(0)
    noisy = {
        path: (array + rng.normal(0, 0.1 if array.ndim == 1 else kernel_noise, array.shape)).astype(
            np.float32
        )
        for path, array in tensors.items()
    }
    return Trained(network, unflatten(noisy), (), 64)


def with_statistics(given, size):
    """Returns the weights with batch norm's statistics of eight images of noise, so that images matter."""
    levels = np.random.default_rng(1).integers(0, 256, (8, size, size, 3)).astype(np.float32)
    model = given.model.clone(norm=lambda **options: given.model.norm(**options, momentum=0.0))
    _, updated = jax.jit(
        lambda x: model.apply(
            given.variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
        )
    )(given.normalise(levels))
    return dataclasses.replace(given, variables={**given.variables, **jax.device_get(updated)})


ANIMALS = ("cat", "cow", "dog")


def random_resnet9(names=ANIMALS, **fields):
    """Returns ResNet-9 with random weights for images of 32 pixels."""
    model = untrained("resnet9", len(names))
    variables = initial_variables(model, 32, seed=1)
    variables["params"]["classifier"]["kernel"] = 9 * np.asarray(variables["params"]["classifier"]["kernel"])
    return Trained("resnet9", variables, tuple(names), 32, **fields)
