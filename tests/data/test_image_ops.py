"""The image operations against Pillow and TensorFlow's projective kernel, on photographs and on noise."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from photos import photo
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_image

from efficientnet_pod.data.transforms import image_ops
from efficientnet_pod.data.transforms.xla import compiled

HEIGHT, WIDTH = 90, 120


@functools.cache
def images():
    noise = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    dull = 90 + photo(5, HEIGHT, WIDTH) // 5
    flat = np.full((HEIGHT, WIDTH, 3), (7, 0, 255), np.uint8)
    two = np.where(np.arange(WIDTH)[:, None] < 40, 3, np.uint8([200, 9, 4])) * np.ones(
        (HEIGHT, 1, 1), np.uint8
    )
    china = load_sample_image("china.jpg")[100 : 100 + HEIGHT, 200 : 200 + WIDTH]
    return {
        "photo": photo(4, HEIGHT, WIDTH),
        "china": china,
        "noise": noise,
        "dull": dull,
        "flat": flat,
        "two": two,
    }


@functools.cache
def program(op):
    return compiled(op)


def ours(op, pixels, *arguments):
    """Returns what the compiled operation makes of the pixels, its arguments as float32 scalars."""
    result = program(op)(tf.constant(pixels), *(tf.constant(a, tf.float32) for a in arguments))
    assert result.dtype == tf.uint8 and result.shape == pixels.shape
    return np.asarray(result)


def pillow(function, pixels, *arguments):
    return np.asarray(function(Image.fromarray(np.ascontiguousarray(pixels)), *arguments))


@pytest.mark.parametrize("name", images())
@pytest.mark.parametrize("op", ["autocontrast", "equalize", "invert"])
def test_operations_without_argument(op, name):
    pixels = images()[name]
    expected = pillow(getattr(ImageOps, op), pixels)
    np.testing.assert_array_equal(ours(getattr(image_ops, op), pixels), expected)


def test_autocontrast_rounds_as_pillow_at_every_range():
    ramp = np.resize(np.arange(256), HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1)
    for low in range(0, 240, 7):
        # Three ranges at a time, one in each channel.
        pixels = np.clip(ramp, low, np.array([low + 15, (low + 256) // 2, 255 - low // 9])).astype(np.uint8)
        expected = pillow(ImageOps.autocontrast, pixels)
        np.testing.assert_array_equal(ours(image_ops.autocontrast, pixels), expected)


def test_an_operation_gives_the_same_pixels_plain_and_compiled():
    pixels = images()["china"]
    for op, arguments in {"equalize": (), "autocontrast": (), "color": (1.7,), "sharpness": (0.3,)}.items():
        function = getattr(image_ops, op)
        np.testing.assert_array_equal(
            function(tf.constant(pixels), *arguments), ours(function, pixels, *arguments)
        )


def test_equalize_leaves_an_image_of_fewer_pixels_than_levels():
    pixels = photo(8, 10, 12)
    np.testing.assert_array_equal(pillow(ImageOps.equalize, pixels), pixels)
    np.testing.assert_array_equal(ours(image_ops.equalize, pixels), pixels)


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize(bits):
    pixels = images()["noise"]
    expected = pillow(ImageOps.posterize, pixels, bits)
    np.testing.assert_array_equal(ours(image_ops.posterize, pixels, bits), expected)
    np.testing.assert_array_equal(ours(image_ops.posterize, pixels, bits + 0.9), expected)


def test_posterize_to_no_bits_keeps_one_as_the_released_shifts_do():
    pixels = images()["noise"]
    shift = tf.constant(8, tf.uint8)
    released = tf.bitwise.left_shift(tf.bitwise.right_shift(tf.constant(pixels), shift), shift)
    np.testing.assert_array_equal(ours(image_ops.posterize, pixels, 0), released)
    assert set(np.unique(released)) == {0, 128}


@pytest.mark.parametrize("threshold", [0, 1, 76, 128, 255, 256, 300])
def test_solarize(threshold):
    pixels = images()["noise"]
    expected = pillow(ImageOps.solarize, pixels, threshold)
    np.testing.assert_array_equal(ours(image_ops.solarize, pixels, threshold), expected)


@pytest.mark.parametrize("addition", [0, 33, 110, 187, 300, -50])
def test_solarize_add(addition):
    pixels = images()["noise"]
    table = [min(max(i + addition, 0), 255) if i < 128 else i for i in range(256)]
    expected = pillow(lambda image: image.point(table * 3), pixels)
    np.testing.assert_array_equal(ours(image_ops.solarize_add, pixels, addition), expected)


@pytest.mark.parametrize("name", ["china", "noise", "two"])
@pytest.mark.parametrize("op", ["color", "contrast", "brightness", "sharpness"])
def test_enhancements(op, name):
    pixels = images()[name]
    enhance = getattr(ImageEnhance, op.capitalize())
    for level in (*range(11), 1.3, 3.5, 4.5, 7.5, 17, 20, 28):  # those with a half once rounded otherwise
        factor = level / 10 * 1.8 + 0.1
        expected = pillow(lambda image, factor=factor: enhance(image).enhance(factor), pixels)
        np.testing.assert_array_equal(ours(getattr(image_ops, op), pixels, factor), expected)


@pytest.mark.parametrize(("shape", "grey"), [((48, 64), 12), ((224, 224), 196), ((300, 300), 255)])
def test_the_released_contrast_blends_with_a_grey_that_depends_on_the_number_of_pixels(shape, grey):
    pixels = photo(1, *shape)
    released = image_ops.contrast(tf.constant(pixels), 0.0, reference_bugs=True)
    np.testing.assert_array_equal(released, np.full_like(pixels, grey))
    mean = np.asarray(Image.fromarray(pixels).convert("L")).mean()
    np.testing.assert_array_equal(
        image_ops.contrast(tf.constant(pixels), 0.0), np.full_like(pixels, round(mean))
    )


def coefficients(op, argument):
    """Returns a, b, c, d, e, f: output pixel (x, y) is input pixel (a x + b y + c, d x + e y + f), from 0."""
    if op == "rotate":
        cos, sin = np.cos(np.radians(argument)), np.sin(np.radians(argument))
        x, y = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
        return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y
    return {
        "shear_x": (1, argument, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, argument, 1, 0),
        "translate_x": (1, 0, argument, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, argument),
    }[op]


def undecided(a, b, c, d, e, f):
    """Returns which pixels lie within 0.01 of half-way between two: single precision may take either."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    sources = np.stack([a * x + b * y + c, d * x + e * y + f])
    return (np.abs(sources - np.floor(sources) - 0.5) < 0.01).any(0)


MOVES = [
    *(("rotate", angle) for angle in (-30.0, -7.3, 0.0, 12.0, 30.0, 51.0)),
    *(("shear_x", slope) for slope in (-0.3, 0.0, 0.12, 0.51)),
    *(("shear_y", slope) for slope in (-0.3, 0.0, 0.12, 0.51)),
    *(("translate_x", pixels) for pixels in (-45.0, -0.3, 0.0, 12.7, 100.0, 250.0)),
    *(("translate_y", pixels) for pixels in (-45.0, -0.3, 0.0, 12.7, 80.0, 250.0)),
]


@pytest.mark.parametrize("name", ["china", "noise"])
@pytest.mark.parametrize(("op", "argument"), MOVES)
def test_moves(op, argument, name):
    pixels = images()[name]
    a, b, c, d, e, f = coefficients(op, argument)
    sure = ~undecided(a, b, c, d, e, f)
    assert sure.mean() > 0.85
    result = ours(getattr(image_ops, op), pixels, argument)

    # Pillow's coordinates are of corners: the pixel x has its centre at x + 1/2.
    corners = (a, b, c + (1 - a - b) / 2, d, e, f + (1 - d - e) / 2)
    size, affine, nearest = (WIDTH, HEIGHT), Image.Transform.AFFINE, Image.Resampling.NEAREST
    expected = pillow(lambda im: im.transform(size, affine, corners, nearest, fillcolor=(128,) * 3), pixels)
    np.testing.assert_array_equal(result[sure], expected[sure])

    kernel = tf.raw_ops.ImageProjectiveTransformV3(  # the one of the released code
        images=pixels[None],
        transforms=tf.constant([[a, b, c, d, e, f, 0, 0]], tf.float32),
        output_shape=[HEIGHT, WIDTH],
        fill_value=128.0,
        interpolation="NEAREST",
    )[0].numpy()
    np.testing.assert_array_equal(result[sure], kernel[sure])


@pytest.mark.parametrize("degrees", [-30.0, 12.0, 30.0])
def test_rotation_is_pillows(degrees):
    pixels = images()["china"]
    expected = pillow(lambda image: image.rotate(degrees, fillcolor=(128, 128, 128)), pixels)
    sure = ~undecided(*coefficients("rotate", degrees))
    np.testing.assert_array_equal(ours(image_ops.rotate, pixels, degrees)[sure], expected[sure])


@pytest.mark.parametrize(
    ("row", "column", "size"), [(40, 50, 20), (0, 119, 30), (89, 3, 8), (45, 60, 400), (5, 5, 0)]
)
def test_cutout(row, column, size):
    pixels = images()["china"]
    expected, half = pixels.copy(), size // 2
    expected[max(row - half, 0) : row + half, max(column - half, 0) : column + half] = 128
    np.testing.assert_array_equal(image_ops.cutout_at(tf.constant(pixels), row, column, size), expected)
