"""Initial variables, drawn on the host: XLA takes half a minute to compile B0's random kernels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficientnet_pod.models.distributions import Constant, Distribution, Normal, Uniform
from efficientnet_pod.models.layers import classifier_limit, conv_std, depthwise_std

# Leaves whose initial value is not random, unless the network says so.
CONSTANTS = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}


def abstract_variables(model: Any, image_size: int) -> dict[str, Any]:
    """Returns shapes and dtypes of a network's parameters and BN statistics; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)


def initial_variables(model: Any, image_size: int, *, seed: int) -> dict[str, Any]:
    """Returns float32 numpy arrays from the distributions of ``model.init``, the same on every host.

    Each tensor has its own stream, so that a head of another size leaves the other weights as they are. A
    network whose distributions are not TensorFlow's has a method ``initial``: names and shape of a tensor →
    its distribution, or None for TensorFlow's.
    """
    of_network = getattr(model, "initial", lambda names, shape: None)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        names = [key.key for key in path]
        distribution = of_network(names, leaf.shape) or _tensorflow(names, leaf.shape)
        streamed = names[:-1] if names[-1] == "kernel" else names
        return distribution.on_host(np.random.default_rng([seed, *"/".join(streamed).encode()]), leaf.shape)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(model, image_size))


def _tensorflow(names: list[str], shape: tuple[int, ...]) -> Distribution:
    *modules, name = names
    if name in CONSTANTS:
        return Constant(CONSTANTS[name])
    if modules[-1] == "classifier":
        limit = classifier_limit(shape)
        return Uniform(-limit, limit)
    return Normal((depthwise_std if modules[-1] == "depthwise_conv" else conv_std)(shape))
