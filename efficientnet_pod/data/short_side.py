"""Images with a limited short side, for copies of data sets: resized, or kept byte for byte."""

from __future__ import annotations

from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.transforms.preprocess import decode, in_levels


def limit_short_side(image: tf.Tensor, *, resize: int, quality: int) -> tf.Tensor:
    """Returns an encoded image whose short side is at most ``resize`` pixels.

    ``image`` is an encoded JPEG or PNG, returned byte for byte where it is small enough, though decoded to
    see that it can be, or a uint8 array (height, width, 3), which then becomes a PNG. A larger one becomes a
    JPEG of this ``quality``, 1..100. Raises InvalidArgumentError for what cannot be decoded.
    """
    pixels, is_array = decode(image), image.dtype != tf.string
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
    return in_levels(tf.image.resize(pixels, size, method="bicubic", antialias=True))
