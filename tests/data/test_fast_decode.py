"""The fast decoder against Pillow's antialiased resize of scikit-learn's photographs."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from efficientnet_pod.data.transforms.fast_decode import fast_crop, fast_resize

HEIGHT, WIDTH = 427, 640


def cropped_and_resized(jpeg: bytes, box: tuple[int, ...], size: tuple[int, int]) -> tf.Tensor:
    return fast_resize(fast_crop(tf.constant(jpeg), tf.constant(box), size), size)


@pytest.fixture(scope="module", params=["china.jpg", "flower.jpg"])
def jpeg(request: pytest.FixtureRequest) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(load_sample_image(request.param)).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def antialiased(jpeg: bytes, box: tuple[int, int, int, int], image_size: int) -> np.ndarray:
    top, left, height, width = box
    crop = Image.open(io.BytesIO(jpeg)).crop((left, top, left + width, top + height))
    return np.asarray(crop.resize((image_size, image_size), Image.Resampling.BILINEAR), np.float32)


@pytest.mark.parametrize(
    ("box", "image_size", "levels"),
    [
        ((0, 0, HEIGHT, WIDTH), 224, 2.2),  # both sides shrink
        ((37, 101, 224, 224), 224, 0.05),  # neither
        ((211, 305, 96, 120), 224, 0.5),  # both grow
        ((11, 23, 200, 400), 224, 1.5),  # one grows, one shrinks
        ((27, 53, 397, 559), 96, 3.0),  # the decoder shrinks by 2
        ((27, 59, 397, 555), 48, 3.0),  # by 4
        ((27, 53, 400, 559), 24, 5.0),  # by 8
    ],
)
def test_near_to_pillows_antialiased_resize(
    jpeg: bytes, box: tuple[int, int, int, int], image_size: int, levels: float
):
    image = cropped_and_resized(jpeg, box, (image_size, image_size))
    assert image.dtype == tf.uint8
    expected = antialiased(jpeg, box, image_size)
    difference = np.abs(image.numpy().astype(np.float32) - expected)
    assert difference.mean() < levels
    # Rounding down would change the brightness by half a level, a box at the wrong place the rest. A box that
    # is rounded holds other pixels at its border.
    if min(box[2:]) < 4 * image_size:
        assert abs(image.numpy().mean() - expected.mean()) < 0.4
    for axis, pixels in (0, 1), (0, -1), (1, 1), (1, -1):
        assert 2 * difference.mean() < np.abs(image.numpy() - np.roll(expected, pixels, axis)).mean()


def test_nearer_to_the_antialiased_resize_than_skipping_pixels_is(jpeg: bytes):
    box = (0, 0, HEIGHT, WIDTH)
    pixels = tf.image.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")
    skipping = tf.image.resize(pixels, (224, 224), "bicubic").numpy()
    expected = antialiased(jpeg, box, 224)
    fast = np.abs(fast_resize(pixels, (224, 224)).numpy() - expected).mean()
    assert fast < 0.5 * np.abs(np.clip(skipping, 0, 255) - expected).mean()


def test_grey_and_cmyk_become_rgb():
    for mode in "L", "CMYK":
        stream = io.BytesIO()
        Image.fromarray(load_sample_image("china.jpg")).convert(mode).save(stream, "JPEG")
        image = cropped_and_resized(stream.getvalue(), (0, 0, 400, 600), (64, 64))
        assert image.shape == (64, 64, 3)


def test_any_shape(jpeg: bytes):
    image = cropped_and_resized(jpeg, (0, 0, HEIGHT, WIDTH), (160, 256))
    expected = Image.open(io.BytesIO(jpeg)).resize((256, 160), Image.Resampling.BILINEAR)
    assert np.abs(image.numpy().astype(np.float32) - np.asarray(expected)).mean() < 2.5
