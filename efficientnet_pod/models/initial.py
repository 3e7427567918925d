"""Initial values: the distribution of each tensor, drawn by JAX for Flax and by numpy on the host."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Constant:
    """One value everywhere."""

    value: float

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Returns the values; the key is not read."""
        return jnp.full(shape, self.value, dtype)

    def on_host(self, stream: np.random.Generator, shape: Shape) -> np.ndarray:
        """Returns the values as numpy; the stream is not read."""
        return np.full(shape, self.value, np.float32)


@dataclasses.dataclass(frozen=True)
class Normal:
    """N(0, std²), not truncated."""

    std: float

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Returns one draw of JAX's."""
        return jax.random.normal(key, shape, dtype) * self.std

    def on_host(self, stream: np.random.Generator, shape: Shape) -> np.ndarray:
        """Returns one float32 draw of numpy's."""
        return stream.standard_normal(shape, np.float32) * np.float32(self.std)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """U(low, high)."""

    low: float
    high: float

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Returns one draw of JAX's."""
        return jax.random.uniform(key, shape, dtype, self.low, self.high)

    def on_host(self, stream: np.random.Generator, shape: Shape) -> np.ndarray:
        """Returns one float32 draw of numpy's."""
        return stream.uniform(self.low, self.high, shape).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Patches:
    """The kernel (height, width, inputs, height · width · inputs) whose outputs are the pixels it sees."""

    def __call__(self, key: jax.Array, shape: Shape, dtype: Any = jnp.float32) -> jax.Array:
        """Returns the kernel; the key is not read."""
        return jnp.eye(math.prod(shape[:-1]), shape[-1], dtype=dtype).reshape(shape)

    def on_host(self, stream: np.random.Generator, shape: Shape) -> np.ndarray:
        """Returns the kernel as numpy; the stream is not read."""
        return np.eye(math.prod(shape[:-1]), shape[-1], dtype=np.float32).reshape(shape)


# A distribution of the values of one tensor; called, it is a Flax initialiser.
Distribution = Constant | Normal | Uniform | Patches


def conv_kernel(shape: Shape) -> Normal:
    """Returns N(0, 2 / (height · width · outputs)) of a dense kernel (height, width, inputs, outputs).

    An (inputs, outputs) kernel counts as 1×1. Source: tensorflow/tpu efficientnet,
    ``conv_kernel_initializer``.
    """
    return Normal(math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1])))


def depthwise_kernel(shape: Shape) -> Normal:
    """Returns N(0, 2 / (height · width)) of a depthwise kernel (height, width, 1, channels).

    The published code counts the channel multiplier, 1, as the outputs: √(2/9) for 3×3. Fan-out of the
    grouped kernel would be 22 times smaller at 512 channels.
    """
    return Normal(math.sqrt(2 / math.prod(shape[:2])))


def classifier_kernel(shape: Shape) -> Uniform:
    """Returns U(±1/√classes) of an (inputs, classes) kernel. Source: ``dense_kernel_initializer``."""
    limit = 1 / math.sqrt(shape[-1])
    return Uniform(-limit, limit)


def torch_default(fan_in: int) -> Uniform:
    """Returns U(±1/√fan_in), PyTorch's default for the weights and biases of a layer.

    Source: torch.nn.Conv2d and torch.nn.Linear, ``kaiming_uniform_`` with a = √5.
    """
    limit = 1 / math.sqrt(fan_in)
    return Uniform(-limit, limit)


def torch_kernel(shape: Shape) -> Uniform:
    """Returns PyTorch's default of a kernel (…, inputs, outputs)."""
    return torch_default(math.prod(shape[:-1]))


def initializer(distribution_of: Callable[[Shape], Distribution]) -> Callable[..., jax.Array]:
    """Returns the Flax initialiser of tensors whose distribution follows from their shape."""
    return lambda key, shape, dtype=jnp.float32: distribution_of(shape)(key, shape, dtype)


# The values of the tensors that are not random, unless the network says otherwise.
CONSTANTS = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1.0}


def abstract_variables(model: Any, image_size: int) -> dict[str, Any]:
    """Returns shapes and dtypes of a network's parameters and BN statistics; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)


def initial_variables(model: Any, image_size: int, *, seed: int) -> dict[str, Any]:
    """Returns float32 numpy arrays from the distributions of ``model.init``, the same on every host.

    They are drawn on the host, because XLA takes half a minute to compile B0's random kernels. Each tensor
    has its own stream, so that a head of another size leaves the other weights as they are. A network whose
    distributions are not TensorFlow's has a method ``initial``: names and shape of a tensor → its
    distribution, or None for TensorFlow's.
    """
    of_network = getattr(model, "initial", lambda names, shape: None)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        names = [key.key for key in path]
        distribution = of_network(names, leaf.shape) or _tensorflow(names, leaf.shape)
        streamed = names[:-1] if names[-1] == "kernel" else names
        return distribution.on_host(np.random.default_rng([seed, *"/".join(streamed).encode()]), leaf.shape)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(model, image_size))


def _tensorflow(names: list[str], shape: Shape) -> Distribution:
    *modules, name = names
    if name in CONSTANTS:
        return Constant(CONSTANTS[name])
    kernels = {"classifier": classifier_kernel, "depthwise_conv": depthwise_kernel}
    return kernels.get(modules[-1], conv_kernel)(shape)
