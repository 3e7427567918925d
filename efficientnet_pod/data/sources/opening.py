"""Where the images come from: opens a data set by its name."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from efficientnet_pod.data.sources.folders import open_folder
from efficientnet_pod.data.sources.imagenet_tfrecords import open_tfrecords
from efficientnet_pod.data.sources.tfds import open_prepared, open_tfds
from efficientnet_pod.data.sources.types import Example, FileRange, Indexed, Records, Source

__all__ = ["Example", "FileRange", "Indexed", "Records", "Source", "open_source"]


def open_source(
    name: str, *, data_dir: str | None = None, train_split: str = "train", eval_split: str = "validation"
) -> Source:
    """Returns the data set called ``name``, checked as far as that is possible without reading it all.

    * ``digits``: the 1,797 digits of scikit-learn, with its own split.
    * ``folder:/path``: ``<split>/<class>/*.jpg``, or ``<class>/*.jpg`` alone, of which a fixed tenth of each
      class is held out.
    * ``tfrecord:/path``: ImageNet's record files as tensorflow/tpu lays them out.
    * ``prepared:/path``: a folder with TFDS metadata, as ``data prepare`` or TFDS itself writes it.
    * anything else: a TFDS name, ``name[/config][:version]``, read from ``data_dir`` (None: TFDS's default).

    Splits of the last three may be slices such as ``train[:99%]``. Raises UserError.
    """
    if name == "digits":
        return _digits()
    for prefix, open_path in _BY_PATH.items():
        if name.startswith(prefix):
            return open_path(name, name.removeprefix(prefix), train_split, eval_split)
    return open_tfds(name, data_dir, train_split, eval_split)


_BY_PATH = {"folder:": open_folder, "tfrecord:": open_tfrecords, "prepared:": open_prepared}


def _digits() -> Source:
    """Returns scikit-learn's 8x8 grey digits; RandomState(0)'s order holds out the first 36 of each digit."""
    from sklearn.datasets import load_digits  # half a second to import, for this source alone

    pixels, labels = (np.asarray(table) for table in load_digits(return_X_y=True))
    grey = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)  # stored as 0..16
    images, labels = np.repeat(grey, 3, axis=-1), labels.astype(np.int32)
    order = np.random.RandomState(0).permutation(len(labels))  # RandomState: numpy has frozen its streams
    held_out = np.concatenate([order[labels[order] == digit][:36] for digit in range(10)])
    kept = np.setdiff1d(order, held_out)
    return Source(
        name="digits",
        class_names=tuple(str(digit) for digit in range(10)),
        train=_in_memory(images[kept], labels[kept]),
        eval=_in_memory(images[held_out], labels[held_out]),
    )


def _in_memory(images: np.ndarray, labels: np.ndarray) -> Indexed:
    image_table, label_table = tf.constant(images), tf.constant(labels)

    def fetch(index: tf.Tensor) -> Example:
        return {
            "image": tf.gather(image_table, index),
            "label": tf.gather(label_table, index),
            "name": tf.strings.as_string(index),
        }

    return Indexed(len(labels), fetch)
