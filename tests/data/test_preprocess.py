"""Crops, resizing and colour against Pillow and numpy transcriptions written here."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from photos import encoded, photo
from PIL import Image

from efficientnet_pod.data.transforms.policies import apply_policy, cutout
from efficientnet_pod.data.transforms.preprocess import eval_image, eval_padding, train_image
from efficientnet_pod.recipe.preprocessing import Preprocessing


def cubic(distance):
    """Returns the weights of cubic convolution with coefficient -0.75 (Keys 1981, equation for general a)."""
    a, x = -0.75, np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resize_matrix(source, target):
    """Returns (target, source): output i samples at i * source / target, the border pixels repeated."""
    matrix = np.zeros((target, source))
    for i in range(target):
        place = i * source / target
        for tap in range(int(place) - 1, int(place) + 3):
            matrix[i, np.clip(tap, 0, source - 1)] += cubic(place - tap)
    return matrix


def resized(pixels, size):
    rows, columns = resize_matrix(pixels.shape[0], size), resize_matrix(pixels.shape[1], size)
    return np.einsum("yh,xw,hwc->yxc", rows, columns, pixels.astype(np.float64))


def draws(image, count, **options):
    """Returns ``count`` random augmentations of one image, (count, size, size, 3), in levels of 0..255."""
    seeds = tf.data.Dataset.from_tensor_slices([(17, i) for i in range(count)])
    images = seeds.map(
        lambda seed: train_image(tf.constant(image), tf.cast(seed, tf.int64), Preprocessing(**options))
    )
    return np.stack(list(images.as_numpy_iterator()))


@pytest.mark.parametrize(
    ("image_size", "padding"), [(224, 32), (240, 34), (260, 37), (300, 43), (380, 54), (456, 65)]
)
def test_evaluation_padding_of_each_variant(image_size, padding):
    assert eval_padding(image_size) == padding


# timm 1.0.31: crop_pct of tf_efficientnet_b0 … b7, three digits of size / (size + 32).
@pytest.mark.parametrize(
    ("image_size", "share"),
    [
        (224, 0.875),
        (240, 0.882),
        (260, 0.89),
        (300, 0.904),
        (380, 0.922),
        (456, 0.934),
        (528, 0.942),
        (600, 0.949),
    ],
)
def test_the_shares_of_timm_are_32_pixels(image_size, share):
    assert eval_padding(image_size, share) == (33 if image_size == 528 else 32)


@pytest.mark.parametrize("shape", [(8, 8), (64, 64), (61, 97), (33, 20)])
def test_the_whole_image_is_resized_by_the_unfiltered_cubic_kernel(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = eval_image(tf.constant(pixels), Preprocessing(image_size=32, augment="shift"))
    # TensorFlow looks its weights up in a table of 1,024 steps: up to 0.3 of 255 on noise.
    np.testing.assert_allclose(image, resized(pixels, 32), atol=0.5)


@pytest.mark.parametrize("shape", [(100, 100), (101, 160), (160, 101), (45, 250)])
@pytest.mark.parametrize(
    ("image_size", "padding", "share"), [(32, 5, {}), (60, 9, {}), (32, 2, {"eval_crop_share": 0.95})]
)
def test_evaluation_resizes_the_central_square(shape, image_size, padding, share):
    pixels = photo(1, *shape)
    side = int(min(shape) * image_size / (image_size + padding))
    preprocessing = Preprocessing(image_size=image_size, augment="inception_crop", **share)
    top, left = ((extent - side + 1) // 2 for extent in shape)
    expected = resized(pixels[top : top + side, left : left + side], image_size)
    for image in (pixels, encoded(pixels, "PNG")):
        cropped = eval_image(tf.constant(image), preprocessing)
        assert cropped.dtype == tf.float32
        np.testing.assert_allclose(cropped, expected, atol=0.5)
    jpeg = encoded(pixels, "JPEG")
    decoded = np.asarray(Image.open(io.BytesIO(jpeg)))[top : top + side, left : left + side]
    cropped = eval_image(tf.constant(jpeg), preprocessing)
    np.testing.assert_allclose(cropped, resized(decoded, image_size), atol=0.5)


def linear_matrix(source, target):
    """Returns (target, source): output i lies at i * source / target, on the line between two pixels."""
    places = np.arange(target) * source / target
    low = places.astype(int)
    matrix = np.zeros((target, source))
    matrix[np.arange(target), low] += 1 - (places - low)
    matrix[np.arange(target), np.minimum(low + 1, source - 1)] += places - low
    return matrix


@pytest.mark.parametrize("shape", [(100, 100), (101, 160), (160, 101), (45, 250)])
@pytest.mark.parametrize("share", [0.875, 0.6])
def test_a_stretched_evaluation_has_the_centre_of_the_original_bilinearly(shape, share):
    pixels = photo(1, *shape)
    preprocessing = Preprocessing(32, resize="bilinear", eval_crop="stretched", eval_crop_share=share)
    begins = [int((extent - extent * share) / 2) for extent in shape]
    (top, left), (height, width) = begins, [e - 2 * b for e, b in zip(shape, begins, strict=True)]
    np.testing.assert_array_equal(
        pixels[top : top + height, left : left + width], tf.image.central_crop(pixels, share)
    )
    part = pixels[top : top + height, left : left + width].astype(np.float64)
    expected = np.einsum("yh,xw,hwc->yxc", linear_matrix(height, 32), linear_matrix(width, 32), part)
    for image in (pixels, encoded(pixels, "PNG")):
        np.testing.assert_allclose(eval_image(tf.constant(image), preprocessing), expected, atol=1e-3)


def test_color_offsets_move_brightness_cb_and_cr_each_by_its_own_draw():
    """The matrix from RGB to luma and colour differences of ITU-R 601-2 finds three uniform numbers."""
    pixels = photo(9, 16, 16) // 4 + 96  # nothing is clipped: offsets reach 32 + 1.772 · 25.5 levels
    options = {"image_size": 16, "augment": "shift", "resize": "bilinear"}
    moved = draws(pixels, 300, **options, color_offsets=True) - pixels.astype(np.float64)
    assert np.ptp(moved, axis=(1, 2)).max() < 1e-3
    to_ycc = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    found = moved[:, 0, 0] @ to_ycc.T
    for values, most in zip(found.T, (32, 25.5, 25.5), strict=True):
        assert 0.95 * most < np.abs(values).max() <= most + 1e-3
        assert abs(values.mean()) < 0.15 * most and values.std() == pytest.approx(most / 3**0.5, rel=0.1)
    assert np.abs(np.corrcoef(found.T) - np.eye(3)).max() < 0.2
    again = draws(pixels, 300, **options, color_offsets=True) - pixels
    np.testing.assert_array_equal(again, moved)
    still = eval_image(tf.constant(pixels), Preprocessing(**options, color_offsets=True))
    np.testing.assert_array_equal(still, pixels)
    white = draws(np.full_like(pixels, 250), 20, **options, color_offsets=True)
    assert white.max() == 255


@pytest.mark.parametrize(
    ("kind", "mode", "channels"),
    [
        ("JPEG", "CMYK", 4),
        ("JPEG", "L", 1),
        ("PNG", "L", 1),
        ("PNG", "LA", 2),
        ("PNG", "RGBA", 4),
        ("PNG", "RGB", 3),
    ],
)
@pytest.mark.parametrize("augment", ["inception_crop", "shift"])
def test_every_colour_model_becomes_rgb(kind, mode, channels, augment):
    data = encoded(photo(2, 56, 40, channels), kind, mode)
    colours = Image.open(io.BytesIO(data))
    # Transparency is dropped, not blended; Pillow's convert does the same.
    expected = tf.constant(np.asarray(colours.convert("RGB")))
    ours, theirs = (
        eval_image(i, Preprocessing(image_size=32, augment=augment)) for i in (tf.constant(data), expected)
    )
    # Pillow multiplies ink and paper with a rounding of its own; all else is the same to the bit.
    np.testing.assert_allclose(ours, theirs, atol=2.5 if mode == "CMYK" else 1e-4)
    train_image(tf.constant(data), tf.constant([0, 0], tf.int64), Preprocessing(32, augment, 2))


def crop_geometry(image):
    """Returns (top, left, height, width, mirrored) of a crop out of an image of coordinates."""
    rows, columns = image[:, 0, 0], image[0, :, 1]
    mirrored = columns[0] > columns[-1]
    columns = columns[::-1] if mirrored else columns
    middle = len(image) // 2  # the first output samples the first pixel, the middle one the middle
    return rows[0], columns[0], 2 * (rows[middle] - rows[0]), 2 * (columns[middle] - columns[0]), mirrored


def test_training_crops_have_the_published_area_and_aspect_ratio_and_half_are_mirrored():
    height, width = 180, 240
    y, x = np.mgrid[:height, :width]
    coordinates = np.stack([y, x, y * 0], -1).astype(np.uint8)
    images = draws(coordinates, 400, image_size=64, augment="inception_crop", max_shift=0)
    tops, lefts, heights, widths, mirrored = np.array([crop_geometry(image) for image in images]).T
    area, ratio = heights * widths / (height * width), widths / heights
    rounding = 0.04  # crops are whole pixels, 50 at the least
    assert 0.08 * (1 - rounding) < area.min() < 0.12 and 0.85 < area.max() < 1.0
    assert 3 / 4 * (1 - rounding) < ratio.min() < 0.78 and 1.28 < ratio.max() < 4 / 3 * (1 + rounding)
    assert (tops > -0.5).all() and (lefts > -0.5).all()
    assert (tops + heights < height + 1).all() and (lefts + widths < width + 1).all()
    assert tops.std() > 20 and lefts.std() > 30
    assert 0.4 < mirrored.mean() < 0.6


def test_where_no_crop_fits_the_central_square_is_taken():
    pixels = photo(3, 400, 6)  # the smallest crop allowed is 12 pixels wide
    centre = eval_image(tf.constant(pixels), Preprocessing(image_size=32, augment="inception_crop"))
    for image in draws(pixels, 8, image_size=32, augment="inception_crop", max_shift=0):
        assert min(np.abs(image - centre).max(), np.abs(image - centre[:, ::-1]).max()) < 1e-3


def test_shift_moves_the_resized_image_over_black_by_each_offset():
    pixels = photo(4, 8, 8)
    still = eval_image(tf.constant(pixels), Preprocessing(image_size=32, augment="shift"))
    black = np.pad(still, ((2, 2), (2, 2), (0, 0)))
    moved = np.stack([black[y : y + 32, x : x + 32] for y in range(5) for x in range(5)])
    seen = set()
    for image in draws(pixels, 150, image_size=32, augment="shift", max_shift=2):
        errors = np.abs(moved - image).max((1, 2, 3))
        assert errors.min() < 1e-3
        seen.add(int(errors.argmin()))
    assert seen == set(range(25))


def test_no_shift_leaves_the_image_as_evaluation_sees_it():
    pixels = photo(5, 8, 8)
    image = draws(pixels, 1, image_size=32, augment="shift", max_shift=0)[0]
    still = eval_image(tf.constant(pixels), Preprocessing(image_size=32, augment="shift"))
    np.testing.assert_allclose(image, still, atol=1e-3)


def test_pad_crop_flip_reflects_at_the_border_and_mirrors_half():
    pixels = photo(6, 32, 32)
    padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)), "reflect").astype(np.float64)
    moved = [padded[y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
    candidates = np.stack(moved + [image[:, ::-1] for image in moved])
    seen = []
    for image in draws(encoded(pixels, "PNG"), 200, image_size=32, augment="pad_crop_flip", max_shift=4):
        errors = np.abs(candidates - image).max((1, 2, 3))
        assert errors.min() < 1e-3
        seen.append(int(errors.argmin()))
    assert len({candidate % 81 for candidate in seen}) > 60  # of 81 offsets, 200 draws meet 74 on average
    assert 80 < sum(candidate < 81 for candidate in seen) < 120


@pytest.mark.parametrize("augment", ["inception_crop", "pad_crop_flip", "shift"])
def test_equal_seeds_give_equal_images_and_others_do_not(augment):
    def draw(*seed):
        key = tf.constant(seed, tf.int64)
        return train_image(tf.constant(photo(8)), key, Preprocessing(32, augment, 4)).numpy()

    np.testing.assert_array_equal(draw(3, 5), draw(3, 5))
    for other in ((3, 6), (4, 5), (5, 3), (3 + 2**32, 5)):
        assert not np.array_equal(draw(3, 5), draw(*other))


@pytest.mark.parametrize(
    "fields",
    [
        {"augment": "inception"},
        {"resize": "fats"},
        {"eval_crop": "stretch"},
        {"policy": "autoaugmnet"},
        {"max_shift": -1},
        {"max_shift": 32},
        {"cutout": 7},
    ],
)
def test_without_a_recipe_that_checks_it_an_impossible_preprocessing_is_an_error(fields):
    with pytest.raises(AssertionError):
        Preprocessing(32, **fields)


@pytest.mark.parametrize("dtype", ["uint8", "bfloat16", "float32"])
def test_the_link_carries_levels_which_uint8_alone_rounds_and_clips(dtype):
    pixels = np.random.default_rng(1).integers(0, 2, (24, 24, 3), dtype=np.uint8) * 255
    exact = eval_image(tf.constant(pixels), Preprocessing(32, "shift")).numpy()
    image = eval_image(tf.constant(pixels), Preprocessing(32, "shift", dtype=dtype))
    assert exact.min() < -10 and exact.max() > 265  # the cubic kernel overshoots
    expected = np.rint(np.clip(exact, 0, 255)) if dtype == "uint8" else exact
    assert image.dtype == dtype
    np.testing.assert_allclose(tf.cast(image, tf.float32), expected, rtol=2**-8 if dtype == "bfloat16" else 0)


@pytest.mark.parametrize(("policy", "bugs"), [("autoaugment", True), ("randaugment", False), ("none", False)])
def test_policy_and_cutout_follow_the_geometry_with_seeds_of_their_own(policy, bugs):
    key = tf.constant([3, 4], tf.int64)
    geometry = Preprocessing(64, dtype="uint8")
    preprocessing = dataclasses.replace(
        geometry, policy=policy, policy_layers=1, policy_magnitude=7.0, policy_bugs=bugs, cutout=16
    )
    exact = train_image(tf.constant(photo(3)), key, dataclasses.replace(geometry, dtype="float32"))
    exact = np.clip(exact, 0, 255)
    image = (np.floor if bugs else np.rint)(exact).astype(np.uint8)  # the released code truncates
    seeds = tf.unstack(tf.random.split(key, 4))
    options = {"layers": 1, "magnitude": 7.0, "reference_bugs": bugs}
    expected = cutout(apply_policy(tf.constant(image), seeds[2], name=policy, **options), seeds[3], size=16)
    augmented = train_image(tf.constant(photo(3)), key, preprocessing)
    assert not np.array_equal(augmented, image)
    np.testing.assert_array_equal(augmented, expected)
    np.testing.assert_array_equal(
        eval_image(tf.constant(photo(3)), preprocessing), eval_image(tf.constant(photo(3)), geometry)
    )


def test_the_fast_variant_crops_what_the_reference_crops_in_other_pixels():
    jpeg = encoded(photo(7, 146, 190), "JPEG")
    same, fast = Preprocessing(64, dtype="uint8"), Preprocessing(64, resize="fast", dtype="uint8")
    for number in range(20):
        key = tf.constant([number, 0], tf.int64)
        ours, reference = (
            train_image(tf.constant(jpeg), key, preprocessing).numpy() for preprocessing in (fast, same)
        )
        error = np.abs(ours.astype(int) - reference).mean()
        mirrored = np.abs(ours[:, ::-1].astype(int) - reference).mean()
        assert 0 < error < 20 and error < mirrored
    box = 2 * 64
    top, left = (146 - box + 1) // 2, (190 - box + 1) // 2
    pillow = Image.open(io.BytesIO(jpeg)).crop((left, top, left + box, top + box))
    expected = np.asarray(pillow.resize((64, 64), Image.Resampling.BOX)).astype(int)
    np.testing.assert_allclose(eval_image(tf.constant(jpeg), fast), expected, atol=1.01)
