"""From one undecoded image to network input: pure TensorFlow functions, random choices keyed by a seed."""

from typing import Literal

import numpy as np
import tensorflow as tf

from efficientnet_pod.errors import UserError, did_you_mean

AUGMENTATIONS = ("inception_crop", "pad_crop_flip", "shift")

MEAN_RGB = (0.485, 0.456, 0.406)  # of ImageNet, pixels in 0..1
STDDEV_RGB = (0.229, 0.224, 0.225)

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"

# The released code used TensorFlow's default, the fast transform: up to 4 levels of 255 off, no faster with
# today's decoder (1.10 to 1.15 ms for a 500x375 photo either way). This one gives Pillow's pixels.
_DCT = "INTEGER_ACCURATE"


def check_augmentation(augment: str, *, image_size: int, max_shift: int) -> None:
    """Raises UserError unless the augmentation exists and its shift suits the image size."""
    if augment not in AUGMENTATIONS:
        raise UserError(f"unknown augmentation '{augment}'{did_you_mean(augment, AUGMENTATIONS)}")
    if not 0 <= max_shift < image_size:
        raise UserError(f"max_shift is {max_shift} pixels; it must be 0..{image_size - 1}, within the image")


def train_image(
    image: tf.Tensor, seed: tf.Tensor, *, image_size: int, augment: str, max_shift: int
) -> tf.Tensor:
    """Returns a randomly augmented, normalised float32 image (image_size, image_size, 3).

    ``image`` is an encoded JPEG or PNG (string scalar) or a uint8 array (height, width, 3); equal ``seed``
    pairs (int64, shape (2,)) give equal results. The augmentations:

    * ``inception_crop``: a crop of 8 to 100 % of the area with aspect ratio 3/4 to 4/3, resized; mirrored in
      half the cases. Source: tensorflow/tpu, models/official/efficientnet/preprocessing.py.
    * ``shift``: the image resized, then moved up to ``max_shift`` output pixels each way over black.
    * ``pad_crop_flip``: likewise but reflected at the border, and mirrored in half the cases; with a shift of
      4 at 32 pixels, the usual one of CIFAR.
    """
    geometry_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
    if augment == "inception_crop":
        image = _random_crop(image, geometry_seed, image_size)
    else:
        image = _resize(_decode(image), image_size)
        border = "CONSTANT" if augment == "shift" else "REFLECT"
        image = _shift(image, geometry_seed, max_shift, border)
    if augment != "shift":
        image = tf.image.stateless_random_flip_left_right(image, flip_seed)
    return _normalise(image, image_size)


def eval_image(image: tf.Tensor, *, image_size: int, augment: str) -> tf.Tensor:
    """Returns the normalised float32 image (image_size, image_size, 3) that suits the training augmentation.

    That is the central square of the released evaluation for ``inception_crop`` and the whole image, resized,
    for the other two, which train on whole images.
    """
    if augment == "inception_crop":
        image = _centre_crop(image, image_size)
    else:
        image = _resize(_decode(image), image_size)
    return _normalise(image, image_size)


def eval_padding(image_size: int) -> int:
    """Returns the pixels that evaluation resizes beyond the crop: 32, 34, 37, 43, 54, 65 for B0 to B5.

    Source: tensorflow/tpu, models/official/efficientnet/preprocessing.py (crop fraction 0.875).
    """
    return round(image_size * (1 / 0.875 - 1))


def require_image(image: tf.Tensor, name: tf.Tensor) -> tf.Tensor:
    """Returns an encoded image that begins as a JPEG or PNG does and, if a JPEG, also ends as one does.

    Otherwise the dataset raises InvalidArgumentError with ``name``. Decoding a crop would accept a truncated
    JPEG as long as the crop lies above the missing part. Arrays are returned as they are.
    """
    if image.dtype != tf.string:
        return image
    is_jpeg = tf.equal(tf.strings.substr(image, 0, 3), _JPEG_MAGIC)
    # Some encoders append a few bytes to the end-of-image marker 0xFFD9, which never occurs in pixel data.
    tail = tf.strings.substr(image, tf.maximum(tf.strings.length(image) - 1024, 0), 1024)
    tail = tf.io.decode_raw(tail, tf.uint8)
    ends = tf.reduce_any((tail[:-1] == 0xFF) & (tail[1:] == 0xD9))
    checks = [
        tf.debugging.Assert(
            is_jpeg | _is_png(image), ["neither a JPEG nor a PNG image; replace or remove it", name]
        ),
        tf.debugging.Assert(
            ends | tf.logical_not(is_jpeg),
            ["truncated JPEG, its end marker is missing; replace or remove it", name],
        ),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(image)


def _random_crop(image: tf.Tensor, seed: tf.Tensor, image_size: int) -> tf.Tensor:
    height, width = _size(image)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.stack([height, width, 3]),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    # The sampler returns the whole image when all attempts fail.
    failed = tf.reduce_all(size[:2] == tf.stack([height, width]))
    box = tf.where(failed, _centre_box(height, width, image_size), tf.concat([begin[:2], size[:2]], 0))
    return _resize(_decode_crop(image, box), image_size)


def _centre_crop(image: tf.Tensor, image_size: int) -> tf.Tensor:
    return _resize(_decode_crop(image, _centre_box(*_size(image), image_size)), image_size)


def _centre_box(height: tf.Tensor, width: tf.Tensor, image_size: int) -> tf.Tensor:
    """Returns (top, left, side, side) of the central square, int32, rounded as the released code rounds."""
    fraction = image_size / (image_size + eval_padding(image_size))
    side = tf.cast(fraction * tf.cast(tf.minimum(height, width), tf.float32), tf.int32)
    side = tf.maximum(side, 1)
    return tf.stack([(height - side + 1) // 2, (width - side + 1) // 2, side, side])


def _is_png(image: tf.Tensor) -> tf.Tensor:
    return tf.equal(tf.strings.substr(image, 0, len(_PNG_MAGIC)), _PNG_MAGIC)


def _size(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (height, width), int32 scalars, of an encoded image or an array, without decoding it."""
    if image.dtype != tf.string:
        size = tf.shape(image)
        return size[0], size[1]

    def png_size() -> tf.Tensor:  # the first chunk of a PNG begins with width and height, at byte 16
        return tf.reverse(
            tf.io.decode_raw(tf.strings.substr(image, 16, 8), tf.int32, little_endian=False), [0]
        )

    size = tf.cond(_is_png(image), png_size, lambda: tf.image.extract_jpeg_shape(image)[:2])
    return size[0], size[1]


def _decode(image: tf.Tensor) -> tf.Tensor:
    """Returns uint8 (height, width, 3): grey and CMYK become RGB, transparency is dropped."""
    if image.dtype != tf.string:
        return image
    return tf.cond(
        _is_png(image),
        lambda: tf.image.decode_png(image, channels=3),
        lambda: tf.image.decode_jpeg(image, channels=3, dct_method=_DCT),
    )


def _decode_crop(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Returns uint8 (height, width, 3) of the box (top, left, height, width), decoding no more of a JPEG."""

    def crop(pixels: tf.Tensor) -> tf.Tensor:
        return tf.slice(pixels, [box[0], box[1], 0], [box[2], box[3], 3])

    if image.dtype != tf.string:
        return crop(image)
    return tf.cond(  # ImageNet has one PNG among its JPEGs, and the JPEG crop rejects it
        _is_png(image),
        lambda: crop(tf.image.decode_png(image, channels=3)),
        lambda: tf.image.decode_and_crop_jpeg(image, box, channels=3, dct_method=_DCT),
    )


def _resize(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Returns float32 (image_size, image_size, 3), by the bicubic kernel of the released training code.

    That is TensorFlow 1's ``resize_bicubic``: cubic coefficient -0.75, output pixel i sampled at i times the
    scale (no half-pixel centres), no antialiasing, overshoot not clipped. TensorFlow 2's ``tf.image.resize``
    has half-pixel centres and -0.5.
    """
    size = (image_size, image_size)
    return tf.raw_ops.ResizeBicubic(
        images=image[None], size=size, align_corners=False, half_pixel_centers=False
    )[0]


def _shift(
    image: tf.Tensor, seed: tf.Tensor, max_shift: int, border: Literal["CONSTANT", "REFLECT"]
) -> tf.Tensor:
    """Returns the image moved by -max_shift..max_shift pixels on each axis, uniformly; ``border`` fills."""
    padded = tf.pad(image, [[max_shift, max_shift], [max_shift, max_shift], [0, 0]], border)
    top, left = tf.unstack(tf.random.stateless_uniform([2], seed, 0, 2 * max_shift + 1, tf.int32))
    return tf.slice(padded, [top, left, 0], tf.shape(image))


def _normalise(image: tf.Tensor, image_size: int) -> tf.Tensor:
    shape = (image_size, image_size, 3)
    # Written out to the full shape: broadcasting three channels takes thrice as long (1.4 ms at 224 pixels).
    mean = tf.constant(np.broadcast_to(255 * np.array(MEAN_RGB, np.float32), shape))
    stddev = tf.constant(np.broadcast_to(255 * np.array(STDDEV_RGB, np.float32), shape))
    return (tf.ensure_shape(image, shape) - mean) / stddev
