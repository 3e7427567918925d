"""From one undecoded image to pixels of the network's size: TensorFlow functions, random by a seed alone."""

from dataclasses import dataclass, fields
from typing import Literal

import tensorflow as tf

from efficientnet_pod.data.transforms.fast_decode import fast_crop, fast_resize
from efficientnet_pod.data.transforms.policies import apply_policy, check_policy, cutout
from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.recipe.recipe import AUGMENTATIONS, RESIZES, DataSettings

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"

# A few kilobytes can claim any size. Pillow warns from here on: a quarter of a gigabyte, three bytes a pixel.
MAX_PIXELS = 89_478_485

# The released code used TensorFlow's default, the fast transform: up to 4 levels of 255 off, no faster with
# today's decoder (1.10 to 1.15 ms for a 500x375 photo either way). This one gives Pillow's pixels.
_DCT = "INTEGER_ACCURATE"


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image on the host.

    Attributes:
      image_size: height and width of the result, in pixels.
      augment: geometry of a training image: ``inception_crop``, a crop of ``min_crop_area`` to 100 % of the
        area with aspect ratio 3/4 to 4/3, resized, mirrored in half the cases (source: tensorflow/tpu,
        models/official/efficientnet/preprocessing.py); ``shift``, the image resized, then moved up to
        ``max_shift`` pixels each way over black; ``pad_crop_flip``, likewise but reflected at the border, and
        mirrored in half the cases: with a shift of 4 at 32 pixels, the usual one of CIFAR.
      max_shift: in pixels of the result.
      min_crop_area: as a share of the image's.
      policy: ``none``, ``autoaugment`` or ``randaugment``, applied after the geometry to rounded levels.
      policy_layers: of ``randaugment``.
      policy_magnitude: of ``randaugment``.
      policy_bugs: repeat the faults of the released policies; see :mod:`policies`.
      cutout: side of a grey square over a random place, in pixels; 0 for none.
      resize: ``reference``, the bicubic kernel of the released code, or ``fast``, averaged where the image
        shrinks and linear where it grows, in whole levels; see :mod:`fast_decode`.
      dtype: of the result, ``uint8``, ``bfloat16`` or ``float32``; levels of 0..255 in each. The bicubic
        kernel overshoots, which uint8 clips and the others keep, as the released code does.
    """

    image_size: int
    augment: str = "inception_crop"
    max_shift: int = 0
    min_crop_area: float = 0.08
    policy: str = "none"
    policy_layers: int = 2
    policy_magnitude: float = 10.0
    policy_bugs: bool = False
    cutout: int = 0
    resize: str = "reference"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Raises UserError for what is impossible."""
        if self.augment not in AUGMENTATIONS:
            raise UserError(
                f"unknown augmentation '{self.augment}'{did_you_mean(self.augment, AUGMENTATIONS)}"
            )
        if self.resize not in RESIZES:
            raise UserError(f"unknown resize '{self.resize}'{did_you_mean(self.resize, RESIZES)}")
        if not 0 <= self.max_shift < self.image_size:
            raise UserError(
                f"max_shift is {self.max_shift} pixels; it must be 0..{self.image_size - 1}, within the image"
            )
        if not 0 < self.min_crop_area <= 1:
            raise UserError(f"min_crop_area is {self.min_crop_area}; it must be above 0 and at most 1")
        check_policy(self.policy, layers=self.policy_layers, magnitude=self.policy_magnitude)
        if self.cutout < 0 or self.cutout % 2:
            raise UserError(f"cutout is {self.cutout} pixels; it must be 0 or a positive even number")

    @classmethod
    def of(cls, data: DataSettings, *, image_size: int, dtype: str) -> "Preprocessing":
        """Returns what a recipe asks for; the other fields have the names of the recipe's."""
        names = {field.name for field in fields(cls)} - {"image_size", "dtype"}
        return cls(image_size=image_size, dtype=dtype, **{name: getattr(data, name) for name in names})


def train_image(image: tf.Tensor, seed: tf.Tensor, how: Preprocessing) -> tf.Tensor:
    """Returns a randomly augmented image (image_size, image_size, 3) of ``how.dtype``.

    ``image`` is an encoded JPEG or PNG (string scalar) or a uint8 array (height, width, 3); equal ``seed``
    pairs (int64, shape (2,)) give equal results. An image that cannot be used raises InvalidArgumentError.
    """
    geometry_seed, flip_seed, policy_seed, cutout_seed = tf.unstack(tf.random.split(seed, 4))
    shape = (how.image_size, how.image_size)
    if how.augment == "inception_crop":
        image = _random_crop(image, geometry_seed, how)
    else:
        image = _resize(decode(image), shape, how)
        border = "CONSTANT" if how.augment == "shift" else "REFLECT"
        image = _shift(image, geometry_seed, how.max_shift, border)
    if how.augment != "shift":
        image = tf.image.stateless_random_flip_left_right(image, flip_seed)
    if how.policy != "none" or how.cutout:
        image = in_levels(tf.ensure_shape(image, (*shape, 3)))
        image = apply_policy(
            image,
            policy_seed,
            name=how.policy,
            layers=how.policy_layers,
            magnitude=how.policy_magnitude,
            reference_bugs=how.policy_bugs,
        )
        image = cutout(image, cutout_seed, size=how.cutout) if how.cutout else image
    return _finish(image, how, shape)


def eval_image(image: tf.Tensor, how: Preprocessing, shape: tuple[int, int] | None = None) -> tf.Tensor:
    """Returns the image (height, width, 3) of ``how.dtype`` that suits the training augmentation.

    That is the centre of the released evaluation for ``inception_crop`` and the whole image, resized, for the
    other two, which train on whole images. ``shape`` is (height, width); None: ``image_size`` squared.
    """
    shape = shape or (how.image_size, how.image_size)
    if how.augment == "inception_crop":
        box = _centre_box(*size_of(image), how.image_size, shape)
        image = _decode_crop_resize(image, box, shape, how)
    else:
        image = _resize(decode(image), shape, how)
    return _finish(image, how, shape)


def eval_padding(image_size: int) -> int:
    """Returns the pixels that evaluation resizes beyond the crop: 32, 34, 37, 43, 54, 65 for B0 to B5.

    Source: tensorflow/tpu, models/official/efficientnet/preprocessing.py (crop fraction 0.875).
    """
    return round(image_size * (1 / 0.875 - 1))


def _random_crop(image: tf.Tensor, seed: tf.Tensor, how: Preprocessing) -> tf.Tensor:
    height, width = size_of(image)
    shape = (how.image_size, how.image_size)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.stack([height, width, 3]),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(how.min_crop_area, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    # The sampler returns the whole image when all attempts fail.
    failed = tf.reduce_all(size[:2] == tf.stack([height, width]))
    box = tf.where(
        failed, _centre_box(height, width, how.image_size, shape), tf.concat([begin[:2], size[:2]], 0)
    )
    return _decode_crop_resize(image, box, shape, how)


def _centre_box(height: tf.Tensor, width: tf.Tensor, image_size: int, shape: tuple[int, int]) -> tf.Tensor:
    """Returns (top, left, height, width), int32: the largest centred box of the shape's proportions, less the
    padding.

    A square is rounded as the released code rounds it.
    """
    fraction = image_size / (image_size + eval_padding(image_size))
    scale = tf.minimum(tf.cast(height, tf.float32) / shape[0], tf.cast(width, tf.float32) / shape[1])
    if shape[0] == shape[1]:  # dividing and multiplying again would round
        sides = [tf.cast(fraction * tf.cast(tf.minimum(height, width), tf.float32), tf.int32)] * 2
    else:
        sides = [tf.cast(fraction * scale * side, tf.int32) for side in shape]
    sides = [tf.maximum(side, 1) for side in sides]
    begin = [(extent - side + 1) // 2 for extent, side in zip((height, width), sides, strict=True)]
    return tf.stack([*begin, *sides])


def _is_png(image: tf.Tensor) -> tf.Tensor:
    return tf.equal(tf.strings.substr(image, 0, len(PNG_MAGIC)), PNG_MAGIC)


def size_of(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (height, width), int32 scalars, of an encoded image or an array, without decoding it.

    Raises InvalidArgumentError for what is neither JPEG nor PNG, and beyond MAX_PIXELS.
    """
    if image.dtype != tf.string:
        size = tf.shape(image)
        return size[0], size[1]

    def png_size() -> tf.Tensor:  # the first chunk of a PNG begins with width and height, at byte 16
        return tf.reverse(
            tf.io.decode_raw(tf.strings.substr(image, 16, 8), tf.int32, little_endian=False), [0]
        )

    size = tf.cond(_is_png(image), png_size, lambda: tf.image.extract_jpeg_shape(image)[:2])
    height, width = tf.unstack(tf.ensure_shape(size, [2]))
    # The op itself: tf.debugging.Assert wraps it in a conditional, which costs more than the comparison.
    message = f"an image of more than {MAX_PIXELS:,} pixels"
    is_small = tf.raw_ops.Assert(condition=height <= MAX_PIXELS // width, data=[message], summarize=3)
    with tf.control_dependencies([is_small]):
        return tf.identity(height), tf.identity(width)


def decode(image: tf.Tensor) -> tf.Tensor:
    """Returns uint8 (height, width, 3) of a whole image: grey and CMYK become RGB, transparency is dropped.

    Of 16 bits a channel the upper 8 are kept. The orientation that a camera notes in EXIF is ignored, as the
    released code and TFDS ignore it. Arrays are returned as they are; what cannot be decoded, or is huge,
    raises InvalidArgumentError.
    """
    if image.dtype != tf.string:
        return image
    with tf.control_dependencies(size_of(image)):  # refused before memory is taken
        return tf.image.decode_jpeg(image, channels=3, dct_method=_DCT)  # a PNG too, decided by content


def _decode_crop_resize(
    image: tf.Tensor, box: tf.Tensor, size: tuple[int, int], how: Preprocessing
) -> tf.Tensor:
    """Returns the box (top, left, height, width) of the image, resized, decoding no more of a JPEG.

    The box must come from ``size_of``, which refuses what is no image. A decoder that is asked for a crop
    does not notice that the rows below are missing. A JPEG whose last bytes are not the end marker is
    therefore decoded whole: it either has bytes after the marker, or it is truncated, which raises
    InvalidArgumentError.
    """

    def crop(pixels: tf.Tensor) -> tf.Tensor:
        return _resize(tf.slice(pixels, [box[0], box[1], 0], [box[2], box[3], 3]), size, how)

    def crop_jpeg() -> tf.Tensor:
        if how.resize == "fast":
            return fast_crop(image, box, size)
        pixels = tf.image.decode_and_crop_jpeg(image, box, channels=3, dct_method=_DCT)
        return _resize(pixels, size, how)

    if image.dtype != tf.string:
        return crop(image)
    is_jpeg = tf.equal(tf.strings.substr(image, 0, len(JPEG_MAGIC)), JPEG_MAGIC)
    is_complete = is_jpeg & tf.equal(tf.strings.substr(image, -len(JPEG_END), len(JPEG_END)), JPEG_END)
    return tf.cond(  # ImageNet has one PNG among its JPEGs, and the JPEG crop rejects it
        is_complete,
        crop_jpeg,
        lambda: crop(tf.image.decode_jpeg(image, channels=3, dct_method=_DCT)),
    )


def _resize(image: tf.Tensor, size: tuple[int, int], how: Preprocessing) -> tf.Tensor:
    """Returns (height, width, 3) of that size: uint8 if ``fast``, else float32 by the released kernel.

    That is TensorFlow 1's ``resize_bicubic``: cubic coefficient -0.75, output pixel i sampled at i times the
    scale (no half-pixel centres), no antialiasing, overshoot not clipped. TensorFlow 2's ``tf.image.resize``
    has half-pixel centres and -0.5.
    """
    if how.resize == "fast":
        return fast_resize(image, size)
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


def _finish(image: tf.Tensor, how: Preprocessing, shape: tuple[int, int]) -> tf.Tensor:
    image = tf.ensure_shape(image, (*shape, 3))
    return tf.cast(in_levels(image) if how.dtype == "uint8" else image, how.dtype)


def in_levels(image: tf.Tensor) -> tf.Tensor:
    """Returns uint8, limited to 0..255 and rounded to the nearest level."""
    if image.dtype == tf.uint8:
        return image
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), tf.uint8)
