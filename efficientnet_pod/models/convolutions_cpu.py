"""Owns the convolutions as XLA's CPU compiler runs them fast: matrix products and shifted multiply-adds.

XLA lowers a depthwise convolution for the CPU, and every gradient with respect to a kernel, to loops which are
neither vectorised nor blocked for the caches. The sums below are the same ones in another order. They run in
float32 whatever the dtype of the arguments, and the result has that dtype.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

# A block of a depthwise kernel's gradient: its arrays stay in a core's level-2 cache (256 kB to 2 MB), and the
# loop around it is long enough to hide the cost of an iteration. 4 to 8 images a block differ by less than 10 %.
_BLOCK_ELEMENTS = 16_384
_BLOCK_IMAGES = 4


def varying_as(array: Array, like: Array) -> Array:
    """Returns the array; inside `shard_map`, typed as varying over every mesh axis over which `like` varies.

    The transpose of this cast is the sum over replicas that the gradient of a replicated kernel needs.
    """
    varying = (jax.typeof(operand).manual_axis_type.varying for operand in (like, array))
    axes = tuple(sorted(frozenset.difference(*varying)))
    return lax.pcast(array, axes, to="varying") if axes else array


class _Window(NamedTuple):
    """One spatial dimension of a "SAME" convolution, without the taps that only ever meet padding."""

    size: int
    taps: int
    skipped: int
    strides: int
    before: int

    @property
    def outputs(self) -> int:
        return -(-self.size // self.strides)

    @property
    def span(self) -> int:
        """Inputs from the first to the last that one tap meets."""
        return self.strides * (self.outputs - 1) + 1

    @property
    def after(self) -> int:
        return self.span + self.taps - 1 - self.size - self.before


def _window(size: int, taps: int, strides: int) -> _Window:
    ((before, _),) = lax.padtype_to_pads((size,), (taps,), (strides,), "SAME")
    span = strides * (-(-size // strides) - 1) + 1
    first = max(0, before - span + 1)
    last = min(taps - 1, size - 1 + before)
    return _Window(size, last - first + 1, first, strides, before - first)
