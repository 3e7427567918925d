"""The digits of scikit-learn, and arrays as a split."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.sources.types import Example, Indexed, Source


def open_digits() -> Source:
    """Returns scikit-learn's 8x8 grey digits; RandomState(0)'s order holds out the first 36 of each digit."""
    package = find_spec("sklearn")  # to import it takes a second, for this one table
    assert package and package.origin
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    grey = np.rint(table[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)  # stored as 0..16
    images, labels = np.repeat(grey, 3, axis=-1), table[:, -1].astype(np.int32)
    order = np.random.RandomState(0).permutation(len(labels))  # RandomState: numpy has frozen its streams
    held_out = np.concatenate([order[labels[order] == digit][:36] for digit in range(10)])
    kept = np.setdiff1d(order, held_out)
    return Source(
        name="digits",
        class_names=tuple(str(digit) for digit in range(10)),
        train=indexed_arrays(images[kept], labels[kept]),
        eval=indexed_arrays(images[held_out], labels[held_out]),
    )


def indexed_arrays(images: np.ndarray, labels: np.ndarray) -> Indexed:
    """Returns a split of uint8 images (number, height, width, 3) with int32 labels (number,)."""

    @cache
    def tables() -> tuple[tf.Tensor, tf.Tensor]:
        with tf.init_scope():  # one copy for all graphs
            return tf.constant(images), tf.constant(labels)

    def fetch(index: tf.Tensor) -> Example:
        image_table, label_table = tables()
        return {
            "image": tf.gather(image_table, index),
            "label": tf.gather(label_table, index),
            "name": tf.strings.as_string(index),
        }

    return Indexed(len(labels), fetch, labels=labels)
