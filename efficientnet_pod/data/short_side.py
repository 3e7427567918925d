"""Images with a limited short side, for copies of data sets: resized, or kept byte for byte."""

from __future__ import annotations

import tensorflow as tf

from efficientnet_pod.data.preprocess import PNG_MAGIC, size_of


def limit_short_side(image: tf.Tensor, *, resize: int, quality: int) -> tf.Tensor:
    """Returns an encoded image whose short side is at most ``resize`` pixels.

    ``image`` is an encoded JPEG or PNG, returned byte for byte where it is small enough, though decoded to
    see that it can be, or a uint8 array (height, width, 3), which then becomes a PNG. A larger one becomes a
    JPEG of this ``quality``, 1..100. Raises InvalidArgumentError for what cannot be decoded.
    """
    pixels, is_array = _decode(image), image.dtype != tf.string
    return tf.cond(
        tf.reduce_min(tf.shape(pixels)[:2]) > resize,
        lambda: tf.io.encode_jpeg(shorten(pixels, resize), quality=quality, format="rgb"),
        lambda: tf.io.encode_png(pixels) if is_array else image,
    )


def shorten(pixels: tf.Tensor, resize: int) -> tf.Tensor:
    """Returns uint8 (height, width, 3) with a short side of ``resize`` pixels: bicubic, antialiased."""
    sides = tf.shape(pixels)[:2]
    scale = resize / tf.cast(tf.reduce_min(sides), tf.float64)
    size = tf.cast(tf.round(scale * tf.cast(sides, tf.float64)), tf.int32)
    resized = tf.image.resize(pixels, size, method="bicubic", antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(resized, 0.0, 255.0)), tf.uint8)


def _decode(image: tf.Tensor) -> tf.Tensor:
    """Returns uint8 (height, width, 3), after a look at the size, which refuses what is no image or huge."""
    if image.dtype != tf.string:
        return image
    with tf.control_dependencies(size_of(image)):
        return tf.cond(
            tf.equal(tf.strings.substr(image, 0, len(PNG_MAGIC)), PNG_MAGIC),
            lambda: tf.image.decode_png(image, channels=3),
            lambda: tf.image.decode_jpeg(image, channels=3, dct_method="INTEGER_ACCURATE"),
        )
