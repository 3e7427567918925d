"""The orientation in EXIF against Pillow's: the pixels that are seen, and what a copy keeps."""

import io

import numpy as np
import pytest
import tensorflow as tf
from photos import encoded, noted, photo
from PIL import Image, ImageOps

from efficientnet_pod.data.prepare import limit_short_side
from efficientnet_pod.data.transforms.orientation import noted_orientation
from efficientnet_pod.data.transforms.preprocess import eval_image, train_image
from efficientnet_pod.recipe.preprocessing import Preprocessing


def pixels_of(data: bytes, *, is_upright: bool) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        shown = ImageOps.exif_transpose(image) if is_upright else image
        return np.asarray(shown.convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "options",
    [
        {"augment": "inception_crop"},
        {"augment": "inception_crop", "resize": "fast"},
        {"augment": "pad_crop_flip", "max_shift": 3},
    ],
    ids=["crop", "fast crop", "whole"],
)
def test_photos_are_seen_upright_if_exif_is_respected_and_as_stored_if_not(orientation, options):
    data, key = noted(orientation), tf.constant([3, 5], tf.int64)
    plain = Preprocessing(16, **options)
    for exif in ("ignored", "respected"):
        preprocessing = Preprocessing(16, exif=exif, **options)
        pixels = tf.constant(pixels_of(data, is_upright=exif == "respected"))
        tolerance = 1 if "resize" in options else 1e-3  # levels
        for shape in ((16, 16), (16, 24)):
            seen, expected = (
                eval_image(tf.constant(data), preprocessing, shape),
                eval_image(pixels, plain, shape),
            )
            np.testing.assert_allclose(np.float32(seen), np.float32(expected), atol=tolerance)
        seen, expected = (
            train_image(tf.constant(data), key, preprocessing),
            train_image(pixels, key, plain),
        )
        np.testing.assert_allclose(np.float32(seen), np.float32(expected), atol=tolerance)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_other_formats_note_it_too(kind):
    data = noted(6, kind)
    preprocessing = Preprocessing(16, exif="respected")
    expected = eval_image(tf.constant(pixels_of(data, is_upright=True)), preprocessing)
    np.testing.assert_allclose(eval_image(tf.constant(data), preprocessing), expected, atol=1e-3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        encoded(photo(1), "JPEG"),
        encoded(photo(1), "PNG"),
        noted(0),
        noted(9),
        noted(6).replace(b"Exif\0\0MM\0*", b"Exif\0\0MM\0\0"),
        noted(6)[:40],
        noted(6).replace(b"Exif\0\0MM\0*\0\0\0\x08", b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    ],
    ids=range(9),
)
def test_what_notes_nothing_sensible_is_upright(data):
    assert noted_orientation(data) == 1


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_smaller_copy_notes_the_same(orientation):
    data = noted(orientation)
    smaller = limit_short_side(tf.constant(data), resize=30, quality=95).numpy()
    assert noted_orientation(smaller) == orientation
    with Image.open(io.BytesIO(data)) as image:
        resized = image.resize((45, 30), Image.Resampling.BICUBIC)
    assert np.abs(np.float32(pixels_of(smaller, is_upright=False)) - np.asarray(resized)).mean() < 3
    tf.image.decode_jpeg(smaller)
