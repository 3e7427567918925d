"""Images side by side in the channels: the same sums in arrays that fill the 128 lanes of a TPU.

The early layers have few channels and many pixels. A TPU lays channels on 128 lanes and images on 8 sublanes,
so that 32 channels leave three quarters of every load, add and store empty. Four images of 32 channels make
an array of 128: (batch, height, width, channels) becomes (batch / pack, height, width, pack · channels).

To a depthwise convolution, a swish or a gate that is only more channels. A dense kernel becomes
block-diagonal; its zeros cost little, since the 128 × 128 matrix unit was as empty as the lanes. Statistics
and means are folded back, so that parameters, results and checkpoints know nothing of it.
"""

import jax
import jax.numpy as jnp

SUBLANES = 8
MOST = 8  # of 48 channels three full rows of lanes; beyond, block-diagonal kernels cost more than they save


def images_side_by_side(batch: int) -> int:
    """Returns how many images of a replica's batch to put side by side: a power of two, 1 to 8.

    At least eight rows are left, one for each sublane.
    """
    return next(pack for pack in (MOST, 4, 2, 1) if batch % (SUBLANES * pack) == 0 or pack == 1)


def repack(x: jax.Array, old: int, new: int) -> jax.Array:
    """Returns ``x`` with ``new`` instead of ``old`` images side by side, in the same order.

    Args:
      x: (batch / old, height, width, old · channels).
      old: images side by side in ``x``.
      new: a multiple or divisor of ``old`` that divides the batch.
    """
    rows, height, width, channels = x.shape
    if new > old:
        times = new // old
        x = x.reshape(rows // times, times, height, width, channels).transpose(0, 2, 3, 1, 4)
        return x.reshape(rows // times, height, width, times * channels)
    if new < old:
        times = old // new
        x = x.reshape(rows, height, width, times, channels // times).transpose(0, 3, 1, 2, 4)
        return x.reshape(rows * times, height, width, channels // times)
    return x


def block_diagonal(kernel: jax.Array, pack: int) -> jax.Array:
    """Returns the dense kernel (height, width, inputs, outputs) of ``pack`` images that do not mix."""
    if pack == 1:
        return kernel
    height, width, inputs, outputs = kernel.shape
    blocks = jnp.eye(pack, dtype=kernel.dtype)[None, None, :, None, :, None]
    return (blocks * kernel[:, :, None, :, None, :]).reshape(height, width, pack * inputs, pack * outputs)
