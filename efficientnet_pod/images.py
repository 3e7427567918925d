"""What happens to images on the device: they arrive as levels of 0..255 and are normalised there."""

import jax
import jax.numpy as jnp
import numpy as np

MEAN_RGB = (0.485, 0.456, 0.406)  # of ImageNet, pixels in 0..1
STDDEV_RGB = (0.229, 0.224, 0.225)


def normalise(images: jax.Array) -> jax.Array:
    """Returns float32 images with ImageNet's mean subtracted and divided by its standard deviation.

    Args:
      images: levels of 0..255, (batch, height, width, 3), of any dtype.
    """
    mean, stddev = (255 * np.array(rgb, np.float32).reshape(1, 1, 1, 3) for rgb in (MEAN_RGB, STDDEV_RGB))
    return (images.astype(jnp.float32) - mean) / stddev
