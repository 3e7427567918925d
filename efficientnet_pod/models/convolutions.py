"""Owns the two convolutions of the networks, each as the fast program of the platform that compiles it.

Layout is NHWC for images and HWIO for kernels; padding is TensorFlow's "SAME", which at stride 2 pads after
more than before. TPU and GPU get `lax.conv_general_dilated` and nothing else. The CPU compiler turns a
depthwise convolution and every kernel gradient into scalar loops, so there the same sums are written as
matrix products and shifted multiply-adds.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax


def conv2d(x: Array, kernel: Array, *, strides: int = 1) -> Array:
    """Returns the "SAME" convolution of images with a dense kernel, in their common dtype.

    Args:
      x: images, `(batch, height, width, in_channels)`.
      kernel: `(kernel_height, kernel_width, in_channels, out_channels)`, of the dtype of `x`.
      strides: step between outputs along height and width.
    """
    return _conv2d(x, _as_varying_as(kernel, x), strides)


def depthwise_conv2d(x: Array, kernel: Array, *, strides: int = 1) -> Array:
    """Returns the "SAME" convolution of each channel with its own filter, in their common dtype.

    Args:
      x: images, `(batch, height, width, channels)`.
      kernel: `(kernel_height, kernel_width, 1, channels)`, of the dtype of `x`.
      strides: step between outputs along height and width.
    """
    return _depthwise_conv2d(x, _as_varying_as(kernel, x), strides)


def _as_varying_as(kernel: Array, x: Array) -> Array:
    """The kernel, seen inside `shard_map` as varying over every mesh axis over which the images vary.

    A custom derivative must return a cotangent of exactly its argument's type; the transpose of this cast is
    the sum over replicas that a replicated kernel's gradient needs.
    """
    varying = (jax.typeof(array).manual_axis_type.varying for array in (x, kernel))
    axes = tuple(sorted(frozenset.difference(*varying)))
    return lax.pcast(kernel, axes, to="varying") if axes else kernel


def _xla_convolution(x: Array, kernel: Array, strides: int, groups: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _xla_backward(x: Array, kernel: Array, dy: Array, *, strides: int, groups: int) -> tuple[Array, Array]:
    return jax.vjp(lambda x, k: _xla_convolution(x, k, strides, groups), x, kernel)[1](dy)


# --- dense -----------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv2d(x: Array, kernel: Array, strides: int) -> Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_conv2d_cpu, strides=strides),
        default=lambda x, k: _xla_convolution(x, k, strides, 1),
    )


def _conv2d_forward(x: Array, kernel: Array, strides: int) -> tuple[Array, tuple[Array, Array]]:
    return _conv2d(x, kernel, strides), (x, kernel)


def _conv2d_backward(strides: int, residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    return lax.platform_dependent(
        *residuals,
        dy,
        cpu=lambda x, k, dy: jax.vjp(partial(_conv2d_cpu, strides=strides), x, k)[1](dy),
        default=partial(_xla_backward, strides=strides, groups=1),
    )


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def _conv2d_cpu(x: Array, kernel: Array, strides: int) -> Array:
    """A matrix product over the patches of the images."""
    height, width, channels_in, channels_out = kernel.shape
    patches = jnp.concatenate(list(_shifted(_pad(x, (height, width), strides), kernel, x, strides)), axis=-1)
    rows = patches.reshape(-1, height * width * channels_in)
    y = rows @ kernel.reshape(-1, channels_out)
    return y.reshape(*patches.shape[:-1], channels_out)


# --- depthwise -------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_conv2d(x: Array, kernel: Array, strides: int) -> Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_depthwise_cpu, strides=strides),
        default=lambda x, k: _xla_convolution(x, k, strides, x.shape[-1]),
    )


def _depthwise_forward(x: Array, kernel: Array, strides: int) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise_conv2d(x, kernel, strides), (x, kernel)


def _depthwise_backward(strides: int, residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    channels = residuals[0].shape[-1]
    return lax.platform_dependent(
        *residuals,
        dy,
        cpu=lambda x, k, dy: jax.vjp(partial(_depthwise_cpu, strides=strides), x, k)[1](dy),
        default=partial(_xla_backward, strides=strides, groups=channels),
    )


_depthwise_conv2d.defvjp(_depthwise_forward, _depthwise_backward)


def _depthwise_cpu(x: Array, kernel: Array, strides: int) -> Array:
    """The sum over the filter's taps of shifted images times one weight per channel."""
    height, width, _, channels = kernel.shape
    taps = kernel.astype(jnp.float32).reshape(height * width, 1, 1, 1, channels)
    padded = _pad(x, (height, width), strides)
    shifted = _shifted(padded, kernel, x, strides)
    y = sum(window.astype(jnp.float32) * tap for window, tap in zip(shifted, taps, strict=True))
    return jnp.asarray(y, x.dtype)


# --- windows ---------------------------------------------------------------------------------------------


def _pad(x: Array, window: tuple[int, int], strides: int) -> Array:
    padding = lax.padtype_to_pads(x.shape[1:3], window, (strides, strides), "SAME")
    return jnp.pad(x, ((0, 0), *padding, (0, 0)))


def _shifted(padded: Array, kernel: Array, x: Array, strides: int):
    """Yields, for each tap of the window in row order, the padded images' values under that tap."""
    out_height, out_width = (-(-size // strides) for size in x.shape[1:3])
    batch, _, _, channels = padded.shape
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            start = (0, row, column, 0)
            stop = (
                batch,
                row + strides * (out_height - 1) + 1,
                column + strides * (out_width - 1) + 1,
                channels,
            )
            yield lax.slice(padded, start, stop, (1, strides, strides, 1))
