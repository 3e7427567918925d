"""The distributions of initial values, each drawn by JAX for Flax and by numpy on the host."""

import dataclasses
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Distribution(Protocol):
    """What the initial values of one tensor are drawn from; called, it is a Flax initialiser."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        """Returns one draw of JAX's."""
        ...

    def on_host(self, stream: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Returns one float32 draw of numpy's."""
        ...


@dataclasses.dataclass(frozen=True)
class Constant:
    """One value everywhere."""

    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        """Returns the values; the key is not read."""
        return jnp.full(shape, self.value, dtype)

    def on_host(self, stream: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the values as numpy; the stream is not read."""
        return np.full(shape, self.value, np.float32)


@dataclasses.dataclass(frozen=True)
class Normal:
    """N(0, std²), not truncated."""

    std: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        """Returns one draw of JAX's."""
        return jax.random.normal(key, shape, dtype) * self.std

    def on_host(self, stream: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Returns one draw of numpy's."""
        return stream.standard_normal(shape, np.float32) * np.float32(self.std)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """U(low, high)."""

    low: float
    high: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        """Returns one draw of JAX's."""
        return jax.random.uniform(key, shape, dtype, self.low, self.high)

    def on_host(self, stream: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Returns one draw of numpy's."""
        return stream.uniform(self.low, self.high, shape).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Patches:
    """The kernel (height, width, inputs, height · width · inputs) whose outputs are the pixels it sees."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        """Returns the kernel; the key is not read."""
        return jnp.eye(math.prod(shape[:-1]), shape[-1], dtype=dtype).reshape(shape)

    def on_host(self, stream: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the kernel as numpy; the stream is not read."""
        return np.eye(math.prod(shape[:-1]), shape[-1], dtype=np.float32).reshape(shape)


def torch_default(fan_in: int) -> Uniform:
    """Returns U(±1/√fan_in), from which PyTorch draws the weights and biases of a layer unless it is told.

    Source: torch.nn.Conv2d and torch.nn.Linear, ``kaiming_uniform_`` with a = √5.
    """
    limit = 1 / math.sqrt(fan_in)
    return Uniform(-limit, limit)
