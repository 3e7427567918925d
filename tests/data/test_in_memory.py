"""Images prepared once, with the random choices of an epoch drawn at once."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.in_memory import Draws, InMemory
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(image_size=8, augment="pad_crop_flip", max_shift=2, dtype="uint8")
SHARE = HostShare(50)


@pytest.fixture(scope="module")
def digits():
    return open_source("digits")


def taken(source, preprocessing=PREPROCESSING, batches=3, **share):
    share = dataclasses.replace(SHARE, **share)
    stream = InMemory(source, preprocessing, share, seed=3).as_numpy_iterator()
    return list(itertools.islice(stream, batches))


def stored(source):
    """Images and labels as they are stored: 8 x 8 already, so that nothing is resized."""
    examples = list(tf.data.Dataset.range(source.num_train).map(source.train.fetch).as_numpy_iterator())
    return np.stack([e["image"] for e in examples]), np.stack([e["label"] for e in examples])


@pytest.mark.parametrize(("augment", "border"), [("pad_crop_flip", "reflect"), ("shift", "constant")])
def test_an_image_is_the_crop_that_was_drawn_for_it(digits, augment, border):
    preprocessing = dataclasses.replace(PREPROCESSING, augment=augment)
    images, labels = stored(digits)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=border)
    draws = Draws.of(3, 0, digits.num_train, preprocessing)
    (batch,) = taken(digits, preprocessing, batches=1)
    for image, label, number in zip(batch["image"], batch["label"], draws.order[:50], strict=True):
        top, left = draws.top[number], draws.left[number]
        expected = padded[number, top : top + 8, left : left + 8]
        np.testing.assert_array_equal(image, expected[:, ::-1] if draws.flipped[number] else expected)
        assert label == labels[number]
    flipped = draws.flipped.mean()
    assert flipped == pytest.approx(0.5, abs=0.05) if augment == "pad_crop_flip" else flipped == 0
    assert set(draws.top) == set(draws.left) == set(range(5))


def test_the_square_that_is_cut_out_is_that_of_the_policies(digits):
    """From centre - size / 2 to centre + size / 2 - 1, grey."""
    preprocessing = dataclasses.replace(PREPROCESSING, cutout=4)
    plain, cut = taken(digits, batches=1)[0], taken(digits, preprocessing, batches=1)[0]
    draws = Draws.of(3, 0, digits.num_train, preprocessing)
    for before, after, number in zip(plain["image"], cut["image"], draws.order[:50], strict=True):
        row, column = draws.cut[number]
        expected = before.copy()
        expected[max(row - 2, 0) : row + 2, max(column - 2, 0) : column + 2] = 128
        np.testing.assert_array_equal(after, expected)


def test_every_epoch_has_every_image_once_in_another_order_and_with_other_draws(digits):
    count = digits.num_train
    first, second = (Draws.of(3, epoch, count, PREPROCESSING) for epoch in (0, 1))
    for draws in (first, second):
        np.testing.assert_array_equal(np.sort(draws.order), np.arange(count))
    assert (first.order != second.order).mean() > 0.9 and (first.top != second.top).mean() > 0.7
    assert (first.order != Draws.of(4, 0, count, PREPROCESSING).order).mean() > 0.9
    labels = np.concatenate([batch["label"] for batch in taken(digits, batches=30)])[:count]
    np.testing.assert_array_equal(np.sort(labels), np.sort(stored(digits)[1]))


def test_a_run_that_enters_anywhere_sees_what_the_uninterrupted_one_sees(digits):
    """Across the end of an epoch too: 1,437 images are 28.74 batches."""
    all_of_it = taken(digits, batches=31)
    for first in (1, 27, 28, 30):
        (entered,) = taken(digits, batches=1, first_image=50 * first)
        np.testing.assert_array_equal(entered["image"], all_of_it[first]["image"])
        np.testing.assert_array_equal(entered["label"], all_of_it[first]["label"])


def test_the_global_batch_does_not_depend_on_the_number_of_hosts(digits):
    alone = taken(digits, batches=30)
    hosts = [taken(digits, batches=30, devices=(i,), num_devices=2) for i in range(2)]
    for whole, *parts in zip(alone, *hosts, strict=True):
        np.testing.assert_array_equal(whole["image"], np.concatenate([part["image"] for part in parts]))


def test_images_come_in_the_dtype_of_the_link(digits):
    (batch,) = taken(digits, dataclasses.replace(PREPROCESSING, dtype="bfloat16"), batches=1)
    (levels,) = taken(digits, batches=1)
    assert batch["image"].dtype.name == "bfloat16" and batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"].astype(np.uint8), levels["image"])


def test_images_that_do_not_fit_are_refused_in_one_line(digits):
    with pytest.raises(UserError) as refused:
        InMemory(digits, dataclasses.replace(PREPROCESSING, image_size=2048), SHARE, seed=3)
    words = "would keep 17 GiB of images on each host; the limit is 8 GiB"
    assert words in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("fields", [{"augment": "inception_crop"}, {"policy": "randaugment"}])
def test_without_a_recipe_that_checks_it_an_impossible_augmentation_is_an_error(digits, fields):
    with pytest.raises(AssertionError):
        InMemory(digits, dataclasses.replace(PREPROCESSING, **fields), SHARE, seed=3)
