"""Images side by side in the channels: the same sums in arrays that fill the 128 lanes of a TPU.

The early layers have few channels and many pixels. A TPU lays channels on 128 lanes and images on 8 sublanes,
so that 32 channels leave three quarters of every load, add and store empty. Four images of 32 channels make
an array of 128: (batch, height, width, channels) becomes (batch / pack, height, width, pack · channels).

To a depthwise convolution, a swish or a gate that is only more channels. A dense kernel becomes
block-diagonal; its zeros cost little, since the 128 × 128 matrix unit was as empty as the lanes. Statistics
and means are folded back, so that parameters, results and checkpoints know nothing of it.

Row r has the images r, r + rows, r + 2 · rows and so on: neighbours stay neighbours on the sublanes, and
whole tiles move. Were the images of a row neighbours, each tile would have to be taken apart.
"""

import jax
import jax.numpy as jnp
from jax import lax

SUBLANES, LANES = 8, 128
MOST = 8  # of 48 channels three full rows of lanes; beyond, block-diagonal kernels cost more than they save


def images_side_by_side(batch: int, stage: int) -> int:
    """Returns how many images of a replica's batch to put side by side: a power of two, 1 to 8.

    In the stem and the first three stages as many as leave a row for each of the eight sublanes. The next two
    fill the lanes without; but where images alone would fill them, the compiler would put images there, and
    two side by side make it keep to channels, which is faster. Estimated cycles are in records/tpu_step.md.
    ``stage`` is 1 to 7, or 0 for the stem.
    """
    if stage <= 3:
        return next(pack for pack in (MOST, 4, 2, 1) if batch % (SUBLANES * pack) == 0 or pack == 1)
    return 2 if stage <= 5 and batch % LANES == 0 else 1


def repack(x: jax.Array, old: int, new: int) -> jax.Array:
    """Returns ``x`` with ``new`` instead of ``old`` images side by side, in the same order.

    The shape of ``x`` is (batch / old, height, width, old · channels). ``new`` is a multiple or a divisor of
    ``old`` that divides the batch.
    """
    rows, height, width, channels = x.shape
    per_image = channels // old
    if new > old:
        times = new // old
        x = x.reshape(times, rows // times, height, width, old, per_image).transpose(1, 2, 3, 4, 0, 5)
        return x.reshape(rows // times, height, width, times * channels)
    if new < old:
        times = old // new
        x = x.reshape(rows, height, width, new, times, per_image).transpose(4, 0, 1, 2, 3, 5)
        return x.reshape(rows * times, height, width, new * per_image)
    return x


def block_diagonal(kernel: jax.Array, pack: int, *, channels_apart: bool = False) -> jax.Array:
    """Returns the dense kernel (height, width, inputs, outputs) of ``pack`` images that do not mix.

    With ``channels_apart`` an image's inputs lie ``pack`` apart, as :func:`rows_in_pairs` makes them; else
    each image has a run of them. Its outputs are a run in both cases.
    """
    if pack == 1:
        return kernel
    height, width, inputs, outputs = kernel.shape
    image, channel = (3, 2) if channels_apart else (2, 3)  # axes of the inputs; the outputs have 4 and 5
    blocks = jnp.expand_dims(jnp.eye(pack, dtype=kernel.dtype), (0, 1, channel, 5))
    blocks = blocks * jnp.expand_dims(kernel, (image, 4))
    return blocks.reshape(height, width, pack * inputs, pack * outputs)


def rows_in_pairs(x: jax.Array, pack: int) -> jax.Array:
    """Returns (batch / pack, height / 2, width, 2 · channels · pack): rows in the channels too, two by two.

    Of three channels, eight images fill 24 of 128 lanes; with pairs of rows, half as many of these thin rows
    have to be made. An image's channels lie ``pack`` apart here, which is the order that images arrive in: a
    TPU keeps pixels of a row on the lanes where there are but three channels, then images, then channels.

    Args:
      x: (batch, height, width, channels), of even height.
      pack: images side by side.
    """
    batch, height, width, channels = x.shape
    x = x.reshape(pack, batch // pack, height // 2, 2, width, channels).transpose(1, 2, 4, 3, 5, 0)
    return x.reshape(batch // pack, height // 2, width, 2 * channels * pack)


def conv_of_row_pairs(x: jax.Array, kernel: jax.Array, pack: int, *, padding: str = "SAME") -> jax.Array:
    """Returns the convolution of images with ``kernel``, at stride 2.

    With "SAME" padding output row i needs input rows 2i, 2i + 1 and 2i + 2: pair i, and of the next one the
    first row. With "SYMMETRIC" it needs pair i, and of the one before the second row.

    Args:
      x: of :func:`rows_in_pairs`, from images of even height and width.
      kernel: dense, (3, 3, inputs, outputs).
      pack: images side by side.
      padding: "SAME" or "SYMMETRIC", see :mod:`convolutions`.
    """
    _, columns, inputs, outputs = kernel.shape
    nothing, before = jnp.zeros_like(kernel[:1]), padding == "SYMMETRIC"
    rows = [nothing, kernel] if before else [kernel, nothing]
    pairs = jnp.concatenate(rows).reshape(2, 2, columns, inputs, outputs)
    pairs = pairs.transpose(0, 2, 1, 3, 4).reshape(2, columns, 2 * inputs, outputs)
    return lax.conv_general_dilated(
        x,
        block_diagonal(pairs, pack, channels_apart=True),
        (1, 2),
        ((1, 0), (1, 0)) if before else ((0, 1), (0, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
