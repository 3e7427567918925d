"""One undecoded image to pixels of the network's size, in TensorFlow; random by a seed alone."""

from __future__ import annotations

from typing import Any, Literal

from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.transforms.erasing import erased
from efficientnet_pod.data.transforms.fast_decode import fast_crop, fast_resize
from efficientnet_pod.data.transforms.orientation import orientation_of, stored_box, upright, upright_size
from efficientnet_pod.data.transforms.other_formats import decode_other, other_size
from efficientnet_pod.data.transforms.policies import apply_policy, cutout
from efficientnet_pod.recipe.preprocessing import EVAL_CROP_SHARE, Preprocessing

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"

# A file of a few kilobytes can claim any size. Pillow warns from here on, a quarter of a gigabyte of pixels.
MAX_PIXELS = 89_478_485

# The released code used TensorFlow's default, the fast transform, whose pixels differ from these by up to 14
# levels of 255 (15.6 after the bicubic resize; 1.08 in the mean). It is no faster with today's decoder (1.10
# to 1.15 ms for a 500x375 photo either way). This one gives Pillow's pixels.
_DCT = "INTEGER_ACCURATE"


def train_image(image: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Returns a randomly augmented image (image_size, image_size, 3) of ``preprocessing.dtype``.

    ``image`` is an encoded JPEG, PNG, WebP, GIF, BMP or AVIF (string scalar) or a uint8 array (height, width,
    3); equal ``seed`` pairs (int64, shape (2,)) give equal results.

    Raises InvalidArgumentError for an image that cannot be used.
    """
    geometry_seed, flip_seed, policy_seed, cutout_seed, color_seed = tf.unstack(tf.random.split(seed, 5))
    shape = (preprocessing.image_size, preprocessing.image_size)
    if preprocessing.augment == "inception_crop":
        image = _random_crop(image, geometry_seed, preprocessing)
    else:
        image = _resize(_decode_upright(image, preprocessing), shape, preprocessing)
        border = "CONSTANT" if preprocessing.augment == "shift" else "REFLECT"
        image = _shift(image, geometry_seed, preprocessing.max_shift, border)
    if preprocessing.augment != "shift":
        image = tf.image.stateless_random_flip_left_right(image, flip_seed)
    if preprocessing.color_offsets:
        image = _offset_colors(image, color_seed)
    if preprocessing.policy != "none" or preprocessing.cutout:
        image = in_levels(tf.ensure_shape(image, (*shape, 3)), truncated=preprocessing.policy_bugs)
        image = apply_policy(
            image,
            policy_seed,
            name=preprocessing.policy,
            layers=preprocessing.policy_layers,
            magnitude=preprocessing.policy_magnitude,
            reference_bugs=preprocessing.policy_bugs,
        )
        image = cutout(image, cutout_seed, size=preprocessing.cutout) if preprocessing.cutout else image
    if preprocessing.erasing:
        # A stream beside the five, which stay as they were before there was erasing.
        erasing_seed: Any = tf.random.fold_in(seed, 5)
        image = erased(image, erasing_seed, probability=preprocessing.erasing)
    return _finish(image, preprocessing, shape)


def eval_image(
    image: tf.Tensor, preprocessing: Preprocessing, shape: tuple[int, int] | None = None
) -> tf.Tensor:
    """Returns the image (height, width, 3) of ``preprocessing.dtype`` that suits the training augmentation.

    For ``inception_crop`` it is the centre crop of the released evaluation, or the stretched one. The other
    augmentations train on whole images, so it is the whole image, resized. ``shape`` is (height, width);
    None: ``image_size`` squared.
    """
    shape = shape or (preprocessing.image_size, preprocessing.image_size)
    if preprocessing.augment == "inception_crop":
        orientation = orientation_of(image, preprocessing.exif)
        size = size_of(image, orientation)
        box = stored_box(_centre_box(*size, preprocessing, shape), size, orientation)
        image = _decode_crop_resize(image, orientation, box, shape, preprocessing)
    else:
        image = _resize(_decode_upright(image, preprocessing), shape, preprocessing)
    return _finish(image, preprocessing, shape)


def eval_padding(image_size: int, share: float = EVAL_CROP_SHARE) -> int:
    """Returns the pixels of the resized image around evaluation's crop: 32, 34, 37, 43, 54, 65 for B0 to B5.

    ``share`` is the crop's of the shorter side. Source of its default: tensorflow/tpu,
    models/official/efficientnet/preprocessing.py.
    """
    return round(image_size * (1 / share - 1))


def _random_crop(image: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    orientation = orientation_of(image, preprocessing.exif)
    height, width = size_of(image, orientation)
    shape = (preprocessing.image_size, preprocessing.image_size)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.stack([height, width, 3]),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(preprocessing.min_crop_area, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    # The sampler returns the whole image when all attempts fail. The released code finds out by comparing
    # shapes, and fails to for a grey JPEG, whose header has one channel: it squashes the whole image to a
    # square. Here a grey image gets the centre crop, as any other one does.
    failed = tf.reduce_all(size[:2] == tf.stack([height, width]))
    box = tf.where(
        failed,
        _centre_box(height, width, preprocessing, shape),
        tf.concat([begin[:2], size[:2]], 0),
    )
    box = stored_box(box, (height, width), orientation)
    return _decode_crop_resize(image, orientation, box, shape, preprocessing)


def _centre_box(
    height: tf.Tensor, width: tf.Tensor, preprocessing: Preprocessing, shape: tuple[int, int]
) -> tf.Tensor:
    """Returns (top, left, height, width), int32: the largest centred box of this shape, less the padding.

    A square is rounded as in the released code. A box to be stretched has the image's own shape.
    """
    if preprocessing.eval_crop == "stretched":
        # Source: tf.image.central_crop, in double precision.
        share = preprocessing.eval_crop_share
        extents = [tf.cast(extent, tf.float64) for extent in (height, width)]
        begin = [tf.cast((extent - extent * share) / 2, tf.int32) for extent in extents]
        return tf.stack([*begin, height - 2 * begin[0], width - 2 * begin[1]])
    size = preprocessing.image_size
    fraction = size / (size + eval_padding(size, preprocessing.eval_crop_share))
    scale = tf.minimum(tf.cast(height, tf.float32) / shape[0], tf.cast(width, tf.float32) / shape[1])
    if shape[0] == shape[1]:  # dividing and multiplying again would round
        sides = [tf.cast(fraction * tf.cast(tf.minimum(height, width), tf.float32), tf.int32)] * 2
    else:
        sides = [tf.cast(fraction * scale * side, tf.int32) for side in shape]
    sides = [tf.maximum(side, 1) for side in sides]
    begin = [(extent - side + 1) // 2 for extent, side in zip((height, width), sides, strict=True)]
    return tf.stack([*begin, *sides])


def size_of(image: tf.Tensor, orientation: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (height, width), int32 scalars, of an encoded image or an array, without decoding it.

    They are those of the upright image if the orientation is given, else as stored. Raises
    InvalidArgumentError unless the image is of a known format and has at most MAX_PIXELS.
    """
    if image.dtype != tf.string:
        size = tf.shape(image)
        return size[0], size[1]

    def png_size() -> tf.Tensor:  # the first chunk of a PNG begins with width and height, at byte 16
        return tf.reverse(
            tf.io.decode_raw(tf.strings.substr(image, 16, 8), tf.int32, little_endian=False), [0]
        )

    def jpeg_size() -> tf.Tensor:
        return tf.image.extract_jpeg_shape(image)[:2]

    def torn_jpeg_size() -> tf.Tensor:
        # Refused here: the decoder prints a line of its own about a torn JPEG, which names no file.
        pairs = tf.cast(tf.io.decode_raw(image, tf.uint8), tf.int32)
        is_end = pairs[:-1] * 256 + pairs[1:] == int.from_bytes(JPEG_END, "big")
        has_end = tf.raw_ops.Assert(condition=tf.reduce_any(is_end), data=["a torn JPEG"], summarize=3)
        with tf.control_dependencies([has_end]):
            return jpeg_size()

    is_jpeg, is_png = _is(image, JPEG_MAGIC), _is(image, PNG_MAGIC)
    number = tf.cast(is_jpeg, tf.int32) * (1 + tf.cast(_ends(image), tf.int32)) + 3 * tf.cast(
        is_png, tf.int32
    )
    size = tf.switch_case(number, [lambda: other_size(image), torn_jpeg_size, jpeg_size, png_size])
    height, width = tf.unstack(tf.ensure_shape(size, [2]))
    # The op itself: tf.debugging.Assert wraps it in a conditional, which costs more than the comparison.
    message = f"an image of more than {MAX_PIXELS:,} pixels"
    is_small = tf.raw_ops.Assert(condition=height <= MAX_PIXELS // width, data=[message], summarize=3)
    with tf.control_dependencies([is_small]):
        height, width = tf.identity(height), tf.identity(width)
    return upright_size(height, width, orientation)


def _is(image: tf.Tensor, magic: bytes) -> tf.Tensor:
    return tf.equal(tf.strings.substr(image, 0, len(magic)), magic)


def _ends(image: tf.Tensor) -> tf.Tensor:
    """Returns whether the last bytes of an encoded image are a JPEG's end marker."""
    tail = tf.strings.length(image) - len(JPEG_END)
    return tf.equal(tf.strings.substr(image, tf.maximum(tail, 0), len(JPEG_END)), JPEG_END)


def decode(image: tf.Tensor) -> tf.Tensor:
    """Returns uint8 (height, width, 3) of a whole image: grey and CMYK become RGB, transparency is dropped.

    16 bits a channel are reduced to the upper 8. The pixels are as stored, whatever EXIF says. Arrays are
    returned unchanged.

    Raises InvalidArgumentError for an image that cannot be decoded or has more than MAX_PIXELS.
    """
    if image.dtype != tf.string:
        return image
    with tf.control_dependencies(size_of(image)):  # refused before memory is taken
        return _decode_whole(image)


def _decode_whole(image: tf.Tensor) -> tf.Tensor:
    return tf.cond(
        _is(image, JPEG_MAGIC) | _is(image, PNG_MAGIC),
        lambda: tf.image.decode_jpeg(image, channels=3, dct_method=_DCT),  # a PNG too, decided by content
        lambda: decode_other(image),
    )


def _decode_upright(image: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    return upright(decode(image), orientation_of(image, preprocessing.exif))


def _decode_crop_resize(
    image: tf.Tensor,
    orientation: tf.Tensor | None,
    box: tf.Tensor,
    size: tuple[int, int],
    preprocessing: Preprocessing,
) -> tf.Tensor:
    """Returns the box (top, left, height, width) of the stored image, upright and resized.

    No more of a JPEG is decoded. The box must come from ``size_of``, which refuses other files. A decoder
    that is asked for a crop does not notice that rows below it are missing. A JPEG that does not end with the
    end marker is therefore decoded whole: either it has bytes after the marker, or it is truncated, which
    raises InvalidArgumentError.
    """

    def crop(pixels: tf.Tensor) -> tf.Tensor:
        return tf.slice(pixels, [box[0], box[1], 0], [box[2], box[3], 3])

    def crop_jpeg() -> tf.Tensor:
        if preprocessing.resize == "fast":
            return fast_crop(image, box, upright_size(*size, orientation))
        return tf.image.decode_and_crop_jpeg(image, box, channels=3, dct_method=_DCT)

    if image.dtype != tf.string:
        return _resize(crop(image), size, preprocessing)
    pixels = tf.cond(  # ImageNet has one PNG among its JPEGs, and the JPEG crop rejects it
        _is(image, JPEG_MAGIC) & _ends(image), crop_jpeg, lambda: crop(_decode_whole(image))
    )
    return _resize(upright(pixels, orientation), size, preprocessing)


def _resize(image: tf.Tensor, size: tuple[int, int], preprocessing: Preprocessing) -> tf.Tensor:
    """Returns the image at this size: uint8 if ``fast``, else float32 by a kernel of TensorFlow 1.

    Its kernels sample output pixel i at i times the scale (no half-pixel centres), without antialiasing. The
    released one is ``resize_bicubic``: cubic coefficient -0.75, overshoot not clipped. TensorFlow 2's
    ``tf.image.resize`` has half-pixel centres and -0.5.
    """
    if preprocessing.resize == "fast":
        return fast_resize(image, size)
    if preprocessing.resize == "bilinear":
        return tf.raw_ops.ResizeBilinear(images=image[None], size=size)[0]
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


def _offset_colors(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 levels with random numbers added to brightness (±32), to Cb and to Cr (±25.5), clipped.

    Cb and Cr are the colour differences of JPEG. Source: tensorflow/tpu models/official/amoeba_net,
    inception_preprocessing.py, ``distort_color_fast``.
    """
    most = tf.constant([32, 25.5, 25.5])
    brightness, cb, cr = tf.unstack(tf.random.stateless_uniform([3], seed, -most, most))
    offsets = [1.402 * cr, -0.344136 * cb - 0.714136 * cr, 1.772 * cb]
    return tf.clip_by_value(tf.cast(image, tf.float32) + (brightness + tf.stack(offsets)), 0.0, 255.0)


def _finish(image: tf.Tensor, preprocessing: Preprocessing, shape: tuple[int, int]) -> tf.Tensor:
    image = tf.ensure_shape(image, (*shape, 3))
    return tf.cast(in_levels(image) if preprocessing.dtype == "uint8" else image, preprocessing.dtype)


def in_levels(image: tf.Tensor, *, truncated: bool = False) -> tf.Tensor:
    """Returns uint8, limited to 0..255 and rounded to the nearest level, or ``truncated``."""
    if image.dtype == tf.uint8:
        return image
    levels = tf.clip_by_value(image, 0.0, 255.0)
    return tf.cast(levels if truncated else tf.round(levels), tf.uint8)
