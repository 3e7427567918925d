"""Undecoded examples of a split as tf.data data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.sources.types import Indexed, Records

# Files read at the same time, one record from each in turn: the order of the data set is the order within
# files, so that a shuffle buffer behind it mixes records that were written far apart.
_FILES_AT_ONCE = 16
_READ_BYTES = 1 << 20  # at a time from each file; 16 files of 110 kB images hold 16 MB


def map_in_parallel(dataset: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    """Returns the data set with the function applied to several elements at once, in their order."""
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def read_part(examples: Indexed | Records, start: int, stop: int) -> tf.data.Dataset:
    """Returns the undecoded Examples number start..stop-1 in stored order."""
    if isinstance(examples, Records):
        return read_records(examples.part(start, stop), None)
    return map_in_parallel(tf.data.Dataset.range(start, stop), examples.fetch)


def read_records(records: Records, shuffle_seed: tf.Tensor | None) -> tf.data.Dataset:
    """Returns the undecoded Examples of record files, each once.

    Without a seed they come in stored order. The seed, an int64 scalar, decides the order of the files, and
    several files are interleaved record by record. If records are damaged or missing, reading stops with an
    error, never with a shorter epoch; ``locate_corruption`` then finds the place.
    """
    table = (
        tf.constant([file.path for file in records.files], tf.string),
        tf.constant([file.start for file in records.files], tf.int64),
        tf.constant([file.stop for file in records.files], tf.int64),
    )
    files = tf.data.Dataset.from_tensor_slices(table)
    if shuffle_seed is not None:
        seed: Any = shuffle_seed  # tf.data takes tensors, which its stubs do not say
        files = files.shuffle(max(len(records.files), 1), seed=seed, reshuffle_each_iteration=False)
    stored = files.interleave(
        lambda *file: _read_file(*file),  # the stubs count the arguments
        cycle_length=1 if shuffle_seed is None else _FILES_AT_ONCE,
        block_length=1,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    stored = stored.apply(tf.data.experimental.assert_cardinality(records.num_examples))
    return map_in_parallel(stored, records.parse)


def _read_file(path: tf.Tensor, start: tf.Tensor, stop: tf.Tensor) -> tf.data.Dataset:
    """Returns (record, place) pairs of one range of one file."""
    records = tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES).skip(start).take(stop - start)
    places = tf.data.Dataset.range(start, stop).map(
        lambda number: tf.strings.join([path, tf.strings.as_string(number)], "#")
    )
    return tf.data.Dataset.zip(records, places)
