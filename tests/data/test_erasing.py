"""Random erasing: where, how often and how large, against the same draws written out in numpy."""

import numpy as np
import pytest
import tensorflow as tf

from efficientnet_pod.data.transforms.erasing import erased
from efficientnet_pod.data.transforms.preprocess import train_image
from efficientnet_pod.recipe.preprocessing import Preprocessing

HEIGHT, WIDTH, IMAGES = 40, 60, 4000
UNTOUCHED = -1.0  # a level that noise does not have


@pytest.fixture(scope="module")
def boxes():
    """(top, left, height, width) of the rectangle in each image that has one, and the noise in them."""
    image = tf.fill([HEIGHT, WIDTH, 3], UNTOUCHED)
    seeds = tf.data.Dataset.range(IMAGES).map(lambda n: tf.stack([n, 7 * n + 1]))
    found, noise = [], []
    for result in seeds.map(lambda seed: erased(image, seed, probability=0.25)).as_numpy_iterator():
        inside = (result != UNTOUCHED).all(-1)
        assert np.array_equal(inside, (result != UNTOUCHED).any(-1))
        if inside.any():
            rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
            box = (rows[0], columns[0], len(rows), len(columns))
            assert inside.sum() == box[2] * box[3]  # a rectangle, without a hole
            found.append(box)
            noise.append(result[inside])
    return np.array(found), np.concatenate(noise)


def expected_sides():
    """Heights and widths by timm's procedure, drawn by numpy."""
    rng = np.random.default_rng(0)
    sides = []
    while len(sides) < 20_000:
        area = rng.uniform(0.02, 1 / 3) * HEIGHT * WIDTH
        aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
        height, width = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if height < HEIGHT and width < WIDTH:
            sides.append((height, width))
    return np.array(sides)


def test_a_quarter_of_the_images_has_a_rectangle_of_timms_sizes(boxes):
    found, _ = boxes
    assert abs(len(found) / IMAGES - 0.25) < 4 * np.sqrt(0.25 * 0.75 / IMAGES)
    expected = expected_sides()
    for side, extent in ((0, HEIGHT), (1, WIDTH)):
        ours, theirs = found[:, 2 + side], expected[:, side]
        error = np.std(theirs) / np.sqrt(len(ours))
        assert abs(np.mean(ours) - np.mean(theirs)) < 4 * error
        assert abs(np.std(ours) / np.std(theirs) - 1) < 0.1
        # Uniform over the free places: the mean is half of them.
        free = extent - ours
        share = found[:, side][free > 0] / free[free > 0]
        assert abs(np.mean(share) - 0.5) < 0.05 and share.min() < 0.02 and share.max() == 1


def test_the_noise_has_every_level_alike(boxes):
    levels = np.bincount(boxes[1].astype(int).ravel(), minlength=256)
    assert len(levels) == 256 and levels.min() > 0.9 * levels.mean() and levels.max() < 1.1 * levels.mean()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_training_image_is_erased_behind_all_else_and_the_rest_stays(dtype):
    pixels = np.random.default_rng(1).integers(0, 256, (50, 40, 3), np.uint8)
    plain = Preprocessing(image_size=32, policy="randaugment", dtype=dtype)
    seed = tf.constant([3, 4], tf.int64)
    without, once, again = (
        train_image(tf.constant(pixels), seed, each).numpy()
        for each in (plain, *(Preprocessing(**(vars(plain) | {"erasing": 1.0})),) * 2)
    )
    np.testing.assert_array_equal(once, again)
    changed = (once != without).any(-1)
    rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
    assert 0.015 < changed.mean() < 0.36
    assert (
        changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.98
    )  # noise may be the level
