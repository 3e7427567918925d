"""Images as a network takes them: normalised on the device from levels of 0..255, and mirrored."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

# ImageNet's, of pixels in 0..1. `recipe.base_config` repeats them, since a recipe imports nothing.
MEAN_RGB = (0.485, 0.456, 0.406)
STDDEV_RGB = (0.229, 0.224, 0.225)


def normalise(
    images: jax.Array, mean_rgb: Sequence[float] = MEAN_RGB, stddev_rgb: Sequence[float] = STDDEV_RGB
) -> jax.Array:
    """Returns float32 images with the mean subtracted and divided by the standard deviation.

    Args:
      images: levels of 0..255, (batch, height, width, 3), of any dtype.
      mean_rgb: mean of pixels in 0..1; ImageNet's, unless weights were trained with another.
      stddev_rgb: standard deviation of pixels in 0..1.
    """
    mean, stddev = (255 * np.array(rgb, np.float32).reshape(1, 1, 1, 3) for rgb in (mean_rgb, stddev_rgb))
    return (images.astype(jnp.float32) - mean) / stddev


def mean_with_mirror(
    logits_of: Callable[[jax.Array], jax.Array], images: jax.Array, *, flip: bool
) -> jax.Array:
    """Returns the logits of images; with ``flip``, their mean with the logits of the mirror images."""
    logits = logits_of(images)
    return (logits + logits_of(images[:, :, ::-1])) / 2 if flip else logits
