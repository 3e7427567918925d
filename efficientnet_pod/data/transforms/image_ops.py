"""The sixteen operations of AutoAugment and RandAugment: Pillow's colours, the released code's geometry.

Each function takes an image (height, width, 3), uint8 with a static shape, and returns one like it. Arguments
may be Python numbers or scalar tensors. The functions are plain TensorFlow; policies.py has XLA compile them,
which turns up to ten passes over the image into one loop and gives the same pixels.
"""

from __future__ import annotations

import math
from typing import TypeAlias

from efficientnet_pod.data.quiet import tf

Number: TypeAlias = "float | tf.Tensor"

FILL = 128  # grey level of pixels from outside the image and of Cutout's square, as in the released code


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Returns each channel stretched linearly to 0..255. Source: Pillow, ``ImageOps.autocontrast``."""
    extremes = tf.reduce_min(image, [0, 1]), tf.reduce_max(image, [0, 1])
    low, high = (tf.reshape(tf.cast(extreme, tf.float64), [3, 1]) for extreme in extremes)
    levels = tf.range(256, dtype=tf.float64)
    # Pillow's arithmetic, to the bit: double precision, two roundings. The bound never binds; without it the
    # compiler makes one rounding of product and sum (a fused multiply-add), which misses whole numbers.
    scale = 255 / tf.maximum(high - low, 1)
    stretched = tf.minimum(levels * scale, 255.0 * 255.0) - low * scale
    table = tf.where(high > low, tf.clip_by_value(stretched, 0, 255), levels)
    return _look_up(tf.cast(table, tf.uint8), image)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Returns each channel with a flat histogram. Source: Pillow, ``ImageOps.equalize``."""
    channel = tf.constant([0, 256, 512])
    bins = tf.reshape(tf.cast(image, tf.int32) + channel, [-1])
    # The raw kernel: tf.math.bincount first searches the bins for their extremes, and takes 3 times as long.
    no_weights = tf.constant([], tf.int32)
    histogram = tf.reshape(tf.raw_ops.DenseBincount(input=bins, size=768, weights=no_weights), [3, 256])
    levels = tf.range(256)
    brightest = tf.reduce_max(tf.where(histogram > 0, levels, 0), axis=1)
    step = (tf.reduce_sum(histogram, 1) - tf.gather(histogram, brightest, batch_dims=1))[:, None] // 255
    below = tf.cumsum(histogram, axis=1, exclusive=True)
    table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    return _look_up(tf.cast(tf.where(step > 0, table, levels), tf.uint8), image)


def invert(image: tf.Tensor) -> tf.Tensor:
    """Returns 255 minus the image."""
    return 255 - image


def posterize(image: tf.Tensor, bits: Number) -> tf.Tensor:
    """Returns the image with all but its ``bits`` highest bits zero; ``bits`` is limited to 1..8.

    TensorFlow's kernels limit shifts in the same way, so the released code also keeps one bit when it asks
    for none; Pillow would return black.
    """
    low_bits = 8 - tf.clip_by_value(tf.cast(bits, tf.int32), 1, 8)
    mask = tf.cast(256 - tf.bitwise.left_shift(1, low_bits), tf.uint8)
    return tf.bitwise.bitwise_and(image, mask)


def solarize(image: tf.Tensor, threshold: Number) -> tf.Tensor:
    """Returns the image with all levels from ``threshold`` (truncated to a whole number) on inverted."""
    return tf.where(tf.cast(image, tf.int32) < tf.cast(threshold, tf.int32), image, 255 - image)


def solarize_add(image: tf.Tensor, addition: Number) -> tf.Tensor:
    """Returns the image with ``addition`` (truncated) added to all levels below 128, limited to 0..255."""
    added = tf.clip_by_value(tf.cast(image, tf.int32) + tf.cast(addition, tf.int32), 0, 255)
    return tf.where(image < 128, tf.cast(added, tf.uint8), image)


def color(image: tf.Tensor, factor: Number) -> tf.Tensor:
    """Returns the image blended with its grey version; factor 0 is grey. Source: ``ImageEnhance.Color``."""
    return _blend(tf.expand_dims(_grey(image), -1), image, factor)


def contrast(image: tf.Tensor, factor: Number, *, reference_bugs: bool = False) -> tf.Tensor:
    """Returns the image blended with its mean grey; factor 0 is flat. Source: ``ImageEnhance.Contrast``."""
    height, width = _extent(image)
    pixels = height * width
    if reference_bugs:  # the sum of the histogram over 256 is not the mean level but the pixels / 256
        mean = tf.constant(min(pixels // 256, 255))
    else:
        mean = (2 * tf.reduce_sum(_grey(image)) + pixels) // (2 * pixels)
    return _blend(mean, image, factor)


def brightness(image: tf.Tensor, factor: Number) -> tf.Tensor:
    """Returns the image times ``factor``, limited to 0..255. Source: Pillow, ``ImageEnhance.Brightness``."""
    return _blend(tf.constant(0), image, factor)


def sharpness(image: tf.Tensor, factor: Number) -> tf.Tensor:
    """Returns the image blended with a smoothed one; factor 0 is smooth. Source: ``ImageEnhance.Sharpness``.

    The filter has weights of 1 and, at its centre, 5, over 13; the outermost pixels stay. Pillow rounds the
    filtered levels; the released code truncated them.
    """
    height, width = _extent(image)
    rows = tf.reshape(image, [height, 3 * width])  # neighbours are three columns apart
    values = tf.cast(rows, tf.int32)
    centre = values[1:-1, 3:-3]
    windows = [values[y : y + height - 2, 3 * x : 3 * (x + width - 2)] for y in range(3) for x in range(3)]
    smooth = (2 * (tf.add_n(windows) + 4 * centre) + 13) // 26
    inner = _blend(smooth, centre, factor)
    middle = tf.concat([rows[1:-1, :3], inner, rows[1:-1, -3:]], axis=1)
    return tf.reshape(tf.concat([rows[:1], middle, rows[-1:]], axis=0), image.shape)


def rotate(image: tf.Tensor, degrees: Number) -> tf.Tensor:
    """Returns the image rotated about its centre, counter-clockwise for positive ``degrees``."""
    radians = tf.cast(degrees, tf.float32) * (math.pi / 180)
    cos, sin = tf.cos(radians), tf.sin(radians)
    height, width = _extent(image)
    x, y = (width - 1) / 2, (height - 1) / 2
    return _affine(image, (cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y))


def shear_x(image: tf.Tensor, slope: Number) -> tf.Tensor:
    """Returns the image with row y moved ``slope * y`` pixels to the left, rows counted from 0."""
    return _affine(image, (1.0, slope, 0.0), (0.0, 1.0, 0.0))


def shear_y(image: tf.Tensor, slope: Number) -> tf.Tensor:
    """Returns the image with column x moved ``slope * x`` pixels up, columns counted from 0."""
    return _affine(image, (1.0, 0.0, 0.0), (slope, 1.0, 0.0))


def translate_x(image: tf.Tensor, pixels: Number) -> tf.Tensor:
    """Returns the image moved ``pixels`` to the left."""
    return _affine(image, (1.0, 0.0, pixels), (0.0, 1.0, 0.0))


def translate_y(image: tf.Tensor, pixels: Number) -> tf.Tensor:
    """Returns the image moved ``pixels`` up."""
    return _affine(image, (1.0, 0.0, 0.0), (0.0, 1.0, pixels))


def cutout_at(image: tf.Tensor, row: tf.Tensor, column: tf.Tensor, size: Number) -> tf.Tensor:
    """Returns the image with a grey square of side 2 * int(size / 2) around (row, column), int32 scalars.

    It covers rows row - side / 2 to row + side / 2 - 1 and the same range of columns, cut off at the border.
    """
    half = tf.cast(tf.cast(size, tf.float32) / 2, tf.int32)
    height, width = _extent(image)
    y, x = tf.range(height) - row, tf.range(width) - column
    inside = ((y >= -half) & (y < half))[:, None] & ((x >= -half) & (x < half))
    return tf.where(inside[..., None], tf.constant(FILL, tf.uint8), image)


def _extent(image: tf.Tensor) -> tuple[int, int]:
    height, width = image.shape[:2]
    assert height is not None and width is not None, "an image of static shape"
    return height, width


def _look_up(tables: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Returns the image through one table for each channel, (3, 256) uint8."""
    return tf.gather(tf.reshape(tables, [-1]), tf.cast(image, tf.int32) + tf.constant([0, 256, 512]))


def _grey(image: tf.Tensor) -> tf.Tensor:
    """Returns the luma (height, width), int32 in 0..255, in Pillow's 16-bit fixed point (ITU-R 601-2)."""
    red, green, blue = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    return tf.bitwise.right_shift(19595 * red + 38470 * green + 7471 * blue + 32768, 16)


def _blend(origin: tf.Tensor, image: tf.Tensor, factor: Number) -> tf.Tensor:
    """Returns origin + factor * (image - origin), limited to 0..255 and truncated, as uint8.

    Limiting the difference rather than the sum gives the same, and keeps the compiler from making one
    rounding of product and sum (a fused multiply-add), which gives another level than Pillow now and then.
    """
    origin, image = tf.cast(origin, tf.float32), tf.cast(image, tf.float32)
    change = tf.cast(factor, tf.float32) * (image - origin)
    return tf.cast(origin + tf.clip_by_value(change, -origin, 255 - origin), tf.uint8)


def _affine(image: tf.Tensor, x_row: tuple, y_row: tuple) -> tf.Tensor:
    """Returns the image whose pixel (x, y) is the input's at (a x + b y + c, d x + e y + f), nearest or FILL.

    Coordinates are those of pixel centres counted from 0, as in TensorFlow's ImageProjectiveTransform, which
    the released code uses; Pillow counts pixel corners. Only shears differ, by half their slope in pixels.
    """
    height, width = _extent(image)
    x = tf.range(width, dtype=tf.float32)[None, :]
    y = tf.range(height, dtype=tf.float32)[:, None]
    source_x, source_y = (tf.cast(tf.floor(a * x + b * y + c + 0.5), tf.int32) for a, b, c in (x_row, y_row))
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    nearest = tf.clip_by_value(source_y, 0, height - 1) * width + tf.clip_by_value(source_x, 0, width - 1)
    moved = tf.gather(tf.reshape(image, [-1, 3]), nearest)
    return tf.where(inside[..., None], moved, tf.constant(FILL, tf.uint8))
