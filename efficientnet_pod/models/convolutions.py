"""The two convolutions of the networks, each as the fast program of the platform that compiles it.

Layout is NHWC for images and HWIO for kernels. Padding is TensorFlow's "SAME", which at stride 2 pads more
after than before; or PyTorch's, alike on both sides ("SYMMETRIC"); or none ("VALID"). TPU and GPU get
`lax.conv_general_dilated` and nothing else. The CPU compiler turns a depthwise convolution and every kernel
gradient into scalar loops, so there the same sums are written as matrix products and shifted multiply-adds.
"""

from collections.abc import Callable
from functools import partial

import jax
from jax import Array, lax

from efficientnet_pod.models import convolutions_cpu
from efficientnet_pod.models.converting import is_converting
from efficientnet_pod.models.convolutions_cpu import Padding


def conv2d(
    x: Array, kernel: Array, *, strides: int | tuple[int, int] = 1, padding: Padding = "SAME"
) -> Array:
    """Returns the convolution of images with a dense kernel, in their common dtype.

    Args:
      x: images, `(batch, height, width, in_channels)`.
      kernel: `(kernel_height, kernel_width, in_channels, out_channels)`, of the dtype of `x`.
      strides: step between outputs along height and width, or one for both.
      padding: "SAME" and "SYMMETRIC" leave ⌈size/strides⌉ pixels. "SYMMETRIC" adds half of the (odd) size
        of the kernel on each side, as PyTorch does. "VALID" adds nothing.
    """
    both = (strides, strides) if isinstance(strides, int) else strides
    if is_converting():
        return _xla(x, kernel, strides=both, padding=padding)
    return _dense(x, convolutions_cpu.varying_as(kernel, x), both, padding)


def depthwise_conv2d(x: Array, kernel: Array, *, strides: int = 1, padding: Padding = "SAME") -> Array:
    """Returns the convolution of each channel with its own filter, in their common dtype.

    Args:
      x: images, `(batch, height, width, channels)`.
      kernel: `(kernel_height, kernel_width, 1, channels)`, of the dtype of `x`.
      strides: step between outputs along height and width.
      padding: "SAME" or "SYMMETRIC", as of :func:`conv2d`.
    """
    if is_converting():
        return _xla(x, kernel, strides=(strides, strides), padding=padding)
    return _depthwise(x, convolutions_cpu.varying_as(kernel, x), strides, padding)


# --- the operation as XLA has it -------------------------------------------------------------------------


def _xla(x: Array, kernel: Array, *, strides: tuple[int, int], padding: Padding = "SAME") -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        [(size // 2, size // 2) for size in kernel.shape[:2]] if padding == "SYMMETRIC" else padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def _gradients(convolution: Callable[..., Array], x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
    return jax.vjp(convolution, x, kernel)[1](dy)


# --- dense -----------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dense(x: Array, kernel: Array, strides: tuple[int, int], padding: Padding) -> Array:
    on_cpu = partial(convolutions_cpu.conv2d, strides=strides, padding=padding)
    xla = partial(_xla, strides=strides, padding=padding)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=xla)


def _dense_backward(
    strides: tuple[int, int], padding: Padding, operands: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    on_cpu = partial(_gradients, partial(convolutions_cpu.conv2d, strides=strides, padding=padding))
    xla = partial(_gradients, partial(_xla, strides=strides, padding=padding))
    return lax.platform_dependent(*operands, dy, cpu=on_cpu, default=xla)


_dense.defvjp(lambda *arguments: (_dense(*arguments), arguments[:2]), _dense_backward)


# --- depthwise -------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x: Array, kernel: Array, strides: int, padding: Padding) -> Array:
    on_cpu = partial(convolutions_cpu.depthwise_conv2d, strides=strides, padding=padding)
    xla = partial(_xla, strides=(strides, strides), padding=padding)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=xla)


def _depthwise_backward(
    strides: int, padding: Padding, operands: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    on_cpu = partial(convolutions_cpu.depthwise_gradients, strides=strides, padding=padding)
    xla = partial(_gradients, partial(_xla, strides=(strides, strides), padding=padding))
    return lax.platform_dependent(*operands, dy, cpu=on_cpu, default=xla)


_depthwise.defvjp(lambda *arguments: (_depthwise(*arguments), arguments[:2]), _depthwise_backward)
