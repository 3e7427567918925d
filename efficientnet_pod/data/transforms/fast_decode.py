"""The ``fast`` variant of decoding: a small uint8 crop of an encoded JPEG in the fewest operations.

Over random crops of photographs its pixels are 0.4 levels of 255 from Pillow's antialiased bilinear resize.
The released code's bicubic kernel, which skips pixels when it shrinks, is at 2.5. records/input.md has the
cost of each operation and of the alternatives.
"""

from __future__ import annotations

from efficientnet_pod.data.quiet import tf

# The factors by which the JPEG decoder shrinks an image inside its transform.
_RATIOS = (1, 2, 4, 8)


def fast_crop(image: tf.Tensor, box: tf.Tensor, size: tuple[int | tf.Tensor, int | tf.Tensor]) -> tf.Tensor:
    """Returns a crop of an encoded JPEG for ``fast_resize`` to ``size``, as uint8 (height, width, 3).

    ``image`` is a string scalar, ``box`` (top, left, height, width) in pixels, int32, within the image. If
    the crop is four times the output or more, the decoder shrinks it by 2, 4 or 8, to twice the output or
    more. The box is then rounded to that many pixels, which is at most a quarter of an output pixel.
    """
    scale = tf.reduce_min(box[2:] // size)
    number = tf.reduce_sum(tf.cast(scale >= [2 * ratio for ratio in _RATIOS[1:]], tf.int32))
    return tf.switch_case(number, [lambda ratio=ratio: _decode(image, box, ratio) for ratio in _RATIOS])


def fast_resize(pixels: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Returns uint8 pixels (any height, any width, 3) at (*size, 3), also uint8.

    An image that shrinks is averaged over each output pixel's area; one that grows is interpolated linearly.
    Both kernels are single passes; TensorFlow's antialiased resize takes four times as long.
    """
    shrinks = tf.reduce_prod(tf.shape(pixels)[:2]) > size[0] * size[1]
    resized = tf.cond(
        shrinks,
        lambda: tf.raw_ops.ResizeArea(images=pixels[None], size=size),
        lambda: tf.raw_ops.ResizeBilinear(images=pixels[None], size=size, half_pixel_centers=True),
    )
    # Both stay within 0 and 255, so that rounding needs no clipping.
    return tf.ensure_shape(tf.cast(resized[0] + 0.5, tf.uint8), (*size, 3))


def _decode(image: tf.Tensor, box: tf.Tensor, ratio: int) -> tf.Tensor:
    if ratio > 1:  # the decoder counts in pixels of the shrunken image
        begin, end = (box[:2] + ratio // 2) // ratio, (box[:2] + box[2:] + ratio // 2) // ratio
        box = tf.concat([begin, end - begin], 0)
    # INTEGER_FAST is a full level farther from the exact transform, and saves a thirtieth of the time.
    return tf.image.decode_and_crop_jpeg(image, box, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")
