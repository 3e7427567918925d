"""The two convolutions of the networks, each as the fast program of the platform that compiles it.

Layout is NHWC for images and HWIO for kernels. Padding is TensorFlow's "SAME", which at stride 2 pads more
after than before, or PyTorch's, alike on both sides. TPU and GPU get `lax.conv_general_dilated` and nothing
else. The CPU compiler turns a depthwise convolution and every kernel gradient into scalar loops, so there the
same sums are written as matrix products and shifted multiply-adds.
"""

from functools import partial

import jax
from jax import Array, lax

from efficientnet_pod.models import convolutions_cpu
from efficientnet_pod.models.converting import is_converting


def conv2d(x: Array, kernel: Array, *, strides: int = 1, symmetric: bool = False) -> Array:
    """Returns the convolution of images with a dense kernel, in their common dtype, of ⌈size/strides⌉ pixels.

    Args:
      x: images, `(batch, height, width, in_channels)`.
      kernel: `(kernel_height, kernel_width, in_channels, out_channels)`, of the dtype of `x`.
      strides: step between outputs along height and width.
      symmetric: pad half of the (odd) kernel's size on each side, as PyTorch does, instead of "SAME".
    """
    if is_converting():
        return _xla(x, kernel, strides=strides, groups=1, symmetric=symmetric)
    return _conv2d(x, convolutions_cpu.varying_as(kernel, x), strides, symmetric)


def depthwise_conv2d(x: Array, kernel: Array, *, strides: int = 1) -> Array:
    """Returns the "SAME" convolution of each channel with its own filter, in their common dtype.

    Args:
      x: images, `(batch, height, width, channels)`.
      kernel: `(kernel_height, kernel_width, 1, channels)`, of the dtype of `x`.
      strides: step between outputs along height and width.
    """
    if is_converting():
        return _xla(x, kernel, strides=strides, groups=x.shape[-1])
    return _depthwise_conv2d(x, convolutions_cpu.varying_as(kernel, x), strides)


# --- the operation as XLA has it -------------------------------------------------------------------------


def _xla(x: Array, kernel: Array, *, strides: int, groups: int, symmetric: bool = False) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        [(size // 2, size // 2) for size in kernel.shape[:2]] if symmetric else "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _xla_gradients(x: Array, kernel: Array, dy: Array, **options: int) -> tuple[Array, Array]:
    return jax.vjp(partial(_xla, **options), x, kernel)[1](dy)


# --- dense -----------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d(x: Array, kernel: Array, strides: int, symmetric: bool) -> Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(convolutions_cpu.conv2d, strides=strides, symmetric=symmetric),
        default=partial(_xla, strides=strides, groups=1, symmetric=symmetric),
    )


def _conv2d_forward(
    x: Array, kernel: Array, strides: int, symmetric: bool
) -> tuple[Array, tuple[Array, Array]]:
    return _conv2d(x, kernel, strides, symmetric), (x, kernel)


def _conv2d_backward(
    strides: int, symmetric: bool, operands: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    def on_cpu(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        convolution = partial(convolutions_cpu.conv2d, strides=strides, symmetric=symmetric)
        return jax.vjp(convolution, x, kernel)[1](dy)

    default = partial(_xla_gradients, strides=strides, groups=1, symmetric=symmetric)
    return lax.platform_dependent(*operands, dy, cpu=on_cpu, default=default)


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


# --- depthwise -------------------------------------------------------------------------------------------


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_conv2d(x: Array, kernel: Array, strides: int) -> Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(convolutions_cpu.depthwise_conv2d, strides=strides),
        default=partial(_xla, strides=strides, groups=x.shape[-1]),
    )


def _depthwise_forward(x: Array, kernel: Array, strides: int) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise_conv2d(x, kernel, strides), (x, kernel)


def _depthwise_backward(strides: int, operands: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    def on_cpu(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        return (
            convolutions_cpu.depthwise_input_gradient(x.shape, kernel, dy, strides=strides),
            convolutions_cpu.depthwise_kernel_gradient(x, kernel.shape, dy, strides=strides),
        )

    default = partial(_xla_gradients, strides=strides, groups=operands[0].shape[-1])
    return lax.platform_dependent(*operands, dy, cpu=on_cpu, default=default)


_depthwise_conv2d.defvjp(_depthwise_forward, _depthwise_backward)
