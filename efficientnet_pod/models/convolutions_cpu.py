"""The convolutions in a form that XLA's CPU compiler makes fast: matrix products and shifted multiply-adds.

XLA lowers a depthwise convolution for the CPU, and every gradient with respect to a kernel, to loops that are
neither vectorised nor blocked for the caches. The sums here are the same ones in another order. They run in
float32 whatever the dtype of the arguments, and the results have that dtype.
"""

from collections.abc import Iterator
from functools import reduce
from itertools import product
from operator import add
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

# One iteration of the kernel gradient's loop updates 64 kB of partial sums, which stay in the level-2 cache
# with the pixels they come from, by the products of a few images, so that each sum is seldom loaded.
_BLOCK_PIXELS = 16_384
_BLOCK_IMAGES = 4

Padding = Literal["SAME", "SYMMETRIC", "VALID"]  # see `convolutions`


def varying_as(array: Array, like: Array) -> Array:
    """Returns the array; inside `shard_map`, typed as varying over every mesh axis over which `like` varies.

    The transpose of this cast is the sum over replicas that the gradient of a replicated array needs.
    """
    varying = (jax.typeof(operand).manual_axis_type.varying for operand in (like, array))
    axes = tuple(sorted(frozenset.difference(*varying)))
    return lax.pcast(array, axes, to="varying") if axes else array


class _Window(NamedTuple):
    """One spatial dimension of a convolution, without the taps that meet nothing but padding."""

    size: int
    strides: int
    outputs: int
    taps: int
    skipped: tuple[int, int]  # taps of the whole kernel before and after these
    before: int  # padding; negative where a stride skips the first inputs

    @classmethod
    def of(cls, size: int, taps: int, strides: int, padding: Padding) -> "_Window":
        outputs = -(-(size - taps + 1 if padding == "VALID" else size) // strides)
        ((before, _),) = lax.padtype_to_pads((size,), (taps,), (strides,), "SAME")
        if padding != "SAME":  # after the last input comes whatever the last output reaches
            before = taps // 2 if padding == "SYMMETRIC" else 0
        first = max(0, before - strides * (outputs - 1))
        last = min(taps - 1, size - 1 + before)
        return cls(size, strides, outputs, last - first + 1, (first, taps - 1 - last), before - first)

    @property
    def padding(self) -> tuple[int, int]:
        reach = self.strides * (self.outputs - 1) + self.taps
        return self.before, reach - self.size - self.before

    def phase(self, phase: int) -> list[tuple[int, int]]:
        """The (tap, output - input // strides) pairs which reach the inputs at `phase` modulo the stride."""
        reached = (divmod(phase + self.before - tap, self.strides) for tap in range(self.taps))
        return [(tap, offset) for tap, (offset, rest) in enumerate(reached) if rest == 0]


def _windows(
    x: Array, kernel: Array, strides: tuple[int, int], *, padding: Padding = "SAME"
) -> list[_Window]:
    """The windows of height and width."""
    sizes = zip(x.shape[1:3], kernel.shape[:2], strides, strict=True)
    return [_Window.of(size, taps, step, padding) for size, taps, step in sizes]


def _padded(x: Array, *padding: tuple[int, int]) -> Array:
    """The images in float32, padded in height and width.

    The barrier makes XLA write them to memory: fused into its readers, a pad costs more than it saves.
    """
    config = [(0, 0, 0), *((before, after, 0) for before, after in padding), (0, 0, 0)]
    return lax.optimization_barrier(lax.pad(x.astype(jnp.float32), jnp.float32(0), config))


def _under_taps(x: Array, rows: _Window, columns: _Window) -> Iterator[tuple[tuple[int, int], Array]]:
    """Each tap of the kernel, and for each output the value of the padded images that the tap meets."""
    padded = _padded(x, rows.padding, columns.padding)
    batch, _, _, channels = x.shape
    height, width = (window.strides * (window.outputs - 1) + 1 for window in (rows, columns))
    for i, j in product(range(rows.taps), range(columns.taps)):
        stop = (batch, i + height, j + width, channels)
        yield (i, j), lax.slice(padded, (0, i, j, 0), stop, (1, rows.strides, columns.strides, 1))


def conv2d(x: Array, kernel: Array, *, strides: tuple[int, int], padding: Padding = "SAME") -> Array:
    """Returns the dense convolution as a matrix product over the patches of the images."""
    rows, columns = _windows(x, kernel, strides, padding=padding)
    kernel = _cropped(kernel, rows, columns)
    patches = x.astype(jnp.float32)
    if kernel.shape[:2] != (1, 1) or strides != (1, 1):
        patches = jnp.concatenate([values for _, values in _under_taps(x, rows, columns)], axis=-1)
    y = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(*patches.shape[:-1], -1).astype(x.dtype)


def depthwise_conv2d(x: Array, kernel: Array, *, strides: int, padding: Padding = "SAME") -> Array:
    """Returns the sum over the kernel's taps of the shifted images, each times one weight per channel."""
    rows, columns = _windows(x, kernel, (strides, strides), padding=padding)
    weights = _cropped(kernel, rows, columns)[:, :, None, None]
    products = (values * weights[tap] for tap, values in _under_taps(x, rows, columns))
    return reduce(add, products).astype(x.dtype)


def depthwise_gradients(
    x: Array, kernel: Array, dy: Array, *, strides: int, padding: Padding = "SAME"
) -> tuple[Array, Array]:
    """Returns the gradients of `depthwise_conv2d` with respect to the images and the kernel."""
    windows = _windows(x, kernel, (strides, strides), padding=padding)
    return _input_gradient(kernel, dy, *windows), _kernel_gradient(x, dy, *windows)


def _input_gradient(kernel: Array, dy: Array, rows: _Window, columns: _Window) -> Array:
    """The gradient of `depthwise_conv2d` with respect to the images.

    Inputs that are congruent modulo the stride meet the same taps: each such phase is a convolution of `dy`
    at stride 1, and their results interleave. At stride 1 the one phase is the kernel, flipped.
    """
    weights = _cropped(kernel, rows, columns)[:, :, None, None]
    margins = [_margins(window) for window in (rows, columns)]
    padded = _padded(dy, *margins)
    (top, _), (left, _) = margins
    batch, height, width, channels = dy.shape
    strides = rows.strides

    def phase(row: int, column: int) -> Array:
        total = jnp.zeros(dy.shape, jnp.float32)
        for (i, down), (j, right) in product(rows.phase(row), columns.phase(column)):
            start = (0, top + down, left + right, 0)
            window = lax.slice(padded, start, (batch, start[1] + height, start[2] + width, channels))
            total = total + window * weights[i, j]
        return total

    phases = [jnp.stack([phase(row, column) for column in range(strides)], axis=3) for row in range(strides)]
    dx = jnp.stack(phases, axis=2).reshape(batch, height * strides, width * strides, channels)
    return dx[:, : rows.size, : columns.size].astype(dy.dtype)


def _margins(window: _Window) -> tuple[int, int]:
    """The padding of `dy` within which every phase finds the outputs it reads."""
    offsets = [offset for phase in range(window.strides) for _, offset in window.phase(phase)]
    return max(0, -min(offsets)), max(0, max(offsets))


def _kernel_gradient(x: Array, dy: Array, rows: _Window, columns: _Window) -> Array:
    """The gradient of `depthwise_conv2d` with respect to the kernel.

    A loop over blocks of the images, and within it over the taps, adds products to one block of partial sums
    for each tap. Only the last reduction crosses pixels: all before it goes element by element, in vectors.
    """
    padded = _padded(x, rows.padding, columns.padding)
    dy = dy.astype(jnp.float32)
    batch, height, width, channels = dy.shape
    block_height = _divisor(height, _BLOCK_PIXELS // (width * channels))
    summed = _divisor(batch, _BLOCK_IMAGES)
    abreast = _divisor(batch // summed, _BLOCK_PIXELS // (block_height * width * channels))
    blocks_down = height // block_height
    taps, strides = rows.taps * columns.taps, rows.strides
    block = (abreast, block_height, width, channels)
    reach = (abreast, *(strides * (outputs - 1) + 1 for outputs in (block_height, width)), channels)

    def add_products(sums: Array, index: Array) -> tuple[Array, None]:
        place, tap = index // taps, index % taps
        image, row = place // blocks_down * summed * abreast, place % blocks_down * block_height
        total = lax.dynamic_index_in_dim(sums, tap, keepdims=False)
        for first in range(0, summed * abreast, abreast):
            start = (image + first, row * strides + tap // columns.taps, tap % columns.taps, 0)
            window = lax.dynamic_slice(padded, start, reach)[:, ::strides, ::strides]
            total = total + window * lax.dynamic_slice(dy, (image + first, row, 0, 0), block)
        return lax.dynamic_update_index_in_dim(sums, total, tap, 0), None

    zeros = varying_as(jnp.zeros((taps, *block), jnp.float32), padded)
    iterations = batch // (summed * abreast) * blocks_down * taps
    sums, _ = lax.scan(add_products, zeros, jnp.arange(iterations))
    gradient = sums.sum((1, 2, 3)).reshape(rows.taps, columns.taps, 1, channels)
    return jnp.pad(gradient, (rows.skipped, columns.skipped, (0, 0), (0, 0))).astype(x.dtype)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of the number that is at most `most`, and 1 if there is none."""
    return max((d for d in range(1, min(number, most) + 1) if number % d == 0), default=1)


def _cropped(kernel: Array, rows: _Window, columns: _Window) -> Array:
    """The taps of a kernel that meet images somewhere, in float32."""
    (i, _), (j, _) = rows.skipped, columns.skipped
    return kernel[i : i + rows.taps, j : j + columns.taps].astype(jnp.float32)
