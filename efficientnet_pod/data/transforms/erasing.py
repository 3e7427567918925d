"""Random erasing: in some training images a rectangle of noise instead of the pixels."""

from __future__ import annotations

import math

from efficientnet_pod.data.quiet import tf

# Source: timm 1.0.31, data/random_erasing.py, and with it the paper's shares of the area and aspect ratios.
AREAS, ASPECTS, ATTEMPTS = (0.02, 1 / 3), (0.3, 1 / 0.3), 10


def erased(image: tf.Tensor, seed: tf.Tensor, *, probability: float) -> tf.Tensor:
    """Returns the image (height, width, 3), with this probability with a rectangle of noise in it.

    The rectangle has 2 % to a third of the area, uniformly, and an aspect ratio of .3 to 3.33, uniform in its
    logarithm; it lies anywhere inside the image. Of ten rectangles the first that fits is taken. The noise is
    uniform in 0..255, for each pixel and channel. Equal ``seed`` pairs give equal results.

    Source: arXiv 1708.04896; timm, which draws normal noise after the normalisation.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    shape_seed, place_seed, noise_seed = tf.unstack(tf.random.split(seed, 3))
    draws = tf.random.stateless_uniform([ATTEMPTS, 2], shape_seed)
    area = AREAS[0] + (AREAS[1] - AREAS[0]) * draws[:, 0]
    aspect = tf.exp(math.log(ASPECTS[0]) + math.log(ASPECTS[1] / ASPECTS[0]) * draws[:, 1])
    pixels = area * tf.cast(height * width, tf.float32)
    sides = tf.cast(tf.round(tf.sqrt([pixels * aspect, pixels / aspect])), tf.int32)  # (2, attempts)
    fits = (sides[0] < height) & (sides[1] < width)
    side = sides[:, tf.argmax(fits)]  # the first that is true
    chance, *place = tf.unstack(tf.random.stateless_uniform([3], place_seed))
    free = tf.cast(tf.stack([height, width]) - side + 1, tf.float32)
    top, left = tf.unstack(tf.cast(tf.stack(place) * free, tf.int32))
    rows, columns = tf.range(height) - top, tf.range(width) - left
    inside = ((rows >= 0) & (rows < side[0]))[:, None] & ((columns >= 0) & (columns < side[1]))
    is_erased = (chance < probability) & tf.reduce_any(fits)
    noise = tf.cast(tf.random.stateless_uniform(tf.shape(image), noise_seed, 0, 256, tf.int32), image.dtype)
    return tf.where((inside & is_erased)[..., None], noise, image)
