"""From an encoded JPEG to a small uint8 crop in the fewest operations: the `fast` variant of decoding.

Its pixels are nearer to an antialiased resize than those of the released code's bicubic kernel, which skips
pixels when it shrinks: over random crops of photographs 0.4 levels of 255 from Pillow's antialiased bilinear,
against 2.5. What each operation costs, and what was tried: records/input.md.
"""

from efficientnet_pod.data.quiet import tf

# The factors by which the JPEG decoder shrinks an image inside its transform.
_RATIOS = (1, 2, 4, 8)


def fast_crop(image: tf.Tensor, box: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Returns a crop of an encoded JPEG, resized to ``size`` = (height, width), as uint8 (height, width, 3).

    ``image`` is a string scalar, ``box`` (top, left, height, width) in pixels, int32, within the image. Where
    the crop is four times the output or more, the decoder shrinks it by 2, 4 or 8 on the way, to twice the
    output at least; the box is then rounded to that many pixels, a quarter of an output pixel at most.
    """
    scale = tf.reduce_min(box[2:] // size)
    which = tf.reduce_sum(tf.cast(scale >= [2 * ratio for ratio in _RATIOS[1:]], tf.int32))
    pixels = tf.switch_case(which, [lambda ratio=ratio: _decode(image, box, ratio) for ratio in _RATIOS])
    return fast_resize(pixels, size)


def fast_resize(pixels: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Returns uint8 pixels (any height, any width, 3) at (*size, 3), also uint8.

    An image that shrinks is averaged over each output pixel's area, one that grows is interpolated linearly:
    both kernels of TensorFlow are single passes, where its antialiased resize takes four times as long.
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
