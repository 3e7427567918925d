"""Undecoded examples of a split as tf.data data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.sources.types import Indexed, Records

# Files read at the same time, one record from each in turn: the order of the data set is the order within
# files, so that a shuffle buffer behind it mixes records that were written far apart.
FILES_AT_ONCE = 16
MOST_TOGETHER = 16  # examples read by one call of Python
_READ_BYTES = 1 << 20  # at a time from each file; 16 files of 110 kB images hold 16 MB


def map_in_parallel(dataset: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    """Returns the data set with the function applied to several elements at once, in their order."""
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def read_part(examples: Indexed | Records, start: int, stop: int) -> tf.data.Dataset:
    """Returns the undecoded Examples number start..stop-1 in stored order."""
    if isinstance(examples, Records):
        return read_records(examples.part(start, stop), None)
    return fetch_each(examples, tf.data.Dataset.range(start, stop), lambda number: number, MOST_TOGETHER)


def fetch_each(
    examples: Indexed, turns: tf.data.Dataset, order: Callable[[tf.Tensor], Any], host_batch: int
) -> tf.data.Dataset:
    """Returns the undecoded Example of each turn, several fetched at once.

    Args:
      examples: the split.
      turns: int64 scalars.
      order: function from a turn, or from turns (n,), to the example's number; or to a pair, the number and
        a tensor that goes with the Example.
      host_batch: turns that belong together. An example that cannot be read fails with those that are read
        by the same call, which are of its batch.
    """

    def example(turn: tf.Tensor) -> Any:
        number = order(turn)
        if isinstance(number, tuple):
            return (examples.fetch(number[0]), *number[1:])
        return examples.fetch(number)

    if not examples.takes_many:
        return map_in_parallel(turns, example)
    together = max(n for n in range(1, MOST_TOGETHER + 1) if host_batch % n == 0)
    return map_in_parallel(turns.batch(together), example).unbatch()


def read_records(records: Records, shuffle_seed: tf.Tensor | None) -> tf.data.Dataset:
    """Returns the undecoded Examples of record files, each once.

    Without a seed they come in stored order. The seed, an int64 scalar, decides the order of the files, and
    several files are interleaved record by record. If records are damaged or missing, reading stops with an
    error, never with a shorter epoch; ``locate_corruption`` then finds the place.
    """
    files_at_once = 1 if shuffle_seed is None else FILES_AT_ONCE
    stored = read_files(FileTable.of([records]).part(0), shuffle_seed, files_at_once)
    return map_in_parallel(stored, records.parse)


@dataclass(frozen=True)
class FileTable:
    """The file ranges of several splits as tensors, so that one traced function reads any of the splits.

    Attributes:
      columns: path, start and stop of each range; the ranges of a split stand side by side.
      bounds: int64 (splits + 1,): ranges before each split, and of all.
      records: int64 (splits,): records of each split.
      read: function to the (record, place) pairs of a range, as of :class:`.Records`.
    """

    columns: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
    bounds: tf.Tensor
    records: tf.Tensor
    read: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.data.Dataset]

    @classmethod
    def of(cls, splits: Sequence[Records]) -> FileTable:
        """Returns the table of these splits."""
        files = [file for split in splits for file in split.files]
        columns = (
            tf.constant([file.path for file in files], tf.string),
            tf.constant([file.start for file in files], tf.int64),
            tf.constant([file.stop for file in files], tf.int64),
        )
        bounds = np.cumsum([0, *(len(split.files) for split in splits)])
        records = [split.num_examples for split in splits]
        read = splits[0].read or _read_file  # of one data set
        return cls(columns, tf.constant(bounds, tf.int64), tf.constant(records, tf.int64), read)

    def part(self, number: int | tf.Tensor) -> FileTable:
        """Returns the table of one split."""
        start, stop = self.bounds[number], self.bounds[number + 1]
        paths, starts, stops = (column[start:stop] for column in self.columns)
        bounds, records = tf.stack([0, stop - start]), self.records[number][None]
        return FileTable((paths, starts, stops), bounds, records, self.read)


def read_files(
    files: FileTable, shuffle_seed: tf.Tensor | None, files_at_once: int, *, in_parallel: bool = True
) -> tf.data.Dataset:
    """Returns the (record, place) pairs of one split, as ``read_records`` does, before they are parsed.

    Reading in parallel takes a thread for each core and opens up to three times ``files_at_once``, ahead.
    """
    ranges = tf.data.Dataset.from_tensor_slices(files.columns)
    if shuffle_seed is not None:
        seed: Any = shuffle_seed  # tf.data takes tensors, which its stubs do not say
        number: Any = tf.maximum(files.bounds[-1], 1)
        ranges = ranges.shuffle(number, seed=seed, reshuffle_each_iteration=False)
    stored = ranges.interleave(
        lambda *file: files.read(*file),  # the stubs count the arguments
        cycle_length=files_at_once,
        block_length=1,
        num_parallel_calls=tf.data.AUTOTUNE if in_parallel else None,
        deterministic=True if in_parallel else None,
    )
    return stored.apply(tf.data.experimental.assert_cardinality(files.records[0]))


def _read_file(path: tf.Tensor, start: tf.Tensor, stop: tf.Tensor) -> tf.data.Dataset:
    """Returns (record, place) pairs of one range of one TFRecord file."""
    records = tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES).skip(start).take(stop - start)
    places = tf.data.Dataset.range(start, stop).map(
        lambda number: tf.strings.join([path, tf.strings.as_string(number)], "#")
    )
    return tf.data.Dataset.zip(records, places)
