"""What a data set is to the pipeline: splits fetched by number, or read from record files from the front."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# {"image": encoded JPEG or PNG as a string, or uint8 (height, width, 3); "label": int32; "name": string}
Example = dict[str, tf.Tensor]

# Files read at the same time, one record from each in turn: the order of the data set is the order within
# files, so that a shuffle buffer behind it mixes records that were written far apart.
_FILES_AT_ONCE = 16
_READ_BYTES = 1 << 20  # at a time from each file; 16 files of 110 kB images hold 16 MB


@dataclass(frozen=True)
class Indexed:
    """A split whose examples are fetched by number, so that any order costs nothing to enter anywhere.

    ``fetch`` takes an int64 scalar in 0..num_examples-1 and returns the undecoded Example, inside tf.data.
    """

    num_examples: int
    fetch: Callable[[tf.Tensor], Example]

    def part(self, start: int, stop: int) -> tf.data.Dataset:
        """Returns the undecoded Examples number start..stop-1, in this order."""
        return tf.data.Dataset.range(start, stop).map(
            self.fetch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )


@dataclass(frozen=True)
class FileRange:
    """Records number start..stop-1 of one file."""

    path: str
    start: int
    stop: int


@dataclass(frozen=True)
class Records:
    """A split stored as TFRecord files with known numbers of records, which can only be read from the front.

    ``parse`` takes a record (string scalar) and its place ``path#number`` and returns the undecoded Example,
    whose name begins with that place.
    """

    files: tuple[FileRange, ...]
    parse: Callable[[tf.Tensor, tf.Tensor], Example]

    @property
    def num_examples(self) -> int:
        """Records of all files."""
        return sum(file.stop - file.start for file in self.files)

    def share(self, host_index: int, host_count: int) -> Records:
        """Returns one host's part: the parts cover the split, and their lengths differ by at most one."""
        length, longer = divmod(self.num_examples, host_count)
        start = host_index * length + min(host_index, longer)
        return self._slice(start, start + length + (host_index < longer))

    def part(self, start: int, stop: int) -> tf.data.Dataset:
        """Returns the undecoded Examples number start..stop-1 in stored order."""
        return self._slice(start, stop).read(None)

    def read(self, shuffle_seed: tf.Tensor | None) -> tf.data.Dataset:
        """Returns the undecoded Examples, each once.

        They come in stored order where the seed is None. Else the files come in an order that the seed (int64
        scalar) decides, several of them interleaved record by record. Reading stops with an error, never with
        a shorter epoch, where records are damaged or missing; ``locate_corruption`` says where that is.
        """
        table = (
            tf.constant([file.path for file in self.files], tf.string),
            tf.constant([file.start for file in self.files], tf.int64),
            tf.constant([file.stop for file in self.files], tf.int64),
        )
        files = tf.data.Dataset.from_tensor_slices(table)
        if shuffle_seed is not None:
            seed: Any = shuffle_seed  # tf.data takes tensors, which its stubs do not say
            files = files.shuffle(max(len(self.files), 1), seed=seed, reshuffle_each_iteration=False)
        records = files.interleave(
            lambda *file: _read_file(*file),  # the stubs count the arguments
            cycle_length=1 if shuffle_seed is None else _FILES_AT_ONCE,
            block_length=1,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        records = records.apply(tf.data.experimental.assert_cardinality(self.num_examples))
        return records.map(self.parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _slice(self, start: int, stop: int) -> Records:
        return Records(tuple(_overlap(self.files, start, stop)), self.parse)


@dataclass(frozen=True)
class Source:
    """A labelled image data set with a training and an evaluation split; label i means ``class_names[i]``.

    ``warnings`` are sentences for the user about what was found on opening, and does not stop a run.
    ``fingerprint`` (SHA-256, hexadecimal) is that of the names of the files in their order, with labels or
    numbers of records, wherever they lie; empty where there are no files to tell apart. No image is read.
    """

    name: str
    class_names: tuple[str, ...]
    train: Indexed | Records
    eval: Indexed | Records
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""

    @property
    def num_train(self) -> int:
        """Images in the training split."""
        return self.train.num_examples

    @property
    def num_eval(self) -> int:
        """Images in the evaluation split."""
        return self.eval.num_examples

    @property
    def num_classes(self) -> int:
        """Classes of the data set."""
        return len(self.class_names)


def fingerprint_of(entries: Iterable[str]) -> str:
    """Returns the SHA-256, hexadecimal, of the entries in their order; file names need not be UTF-8."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(os.fsencode(entry) + b"\0")  # which no file name holds
    return digest.hexdigest()


def fingerprint_of_files(train: Sequence[FileRange], held_out: Sequence[FileRange]) -> str:
    """Returns the fingerprint of two splits of record files: their names and numbers of records."""
    return fingerprint_of(
        f"{split}/{os.path.basename(file.path)}#{file.start}-{file.stop}"
        for split, files in (("train", train), ("eval", held_out))
        for file in files
    )


def _overlap(files: Sequence[FileRange], start: int, stop: int) -> list[FileRange]:
    """Returns records start..stop-1 of the files' ranges put end to end."""
    found, offset = [], 0
    for file in files:
        first = file.start + max(start - offset, 0)
        last = min(file.start + stop - offset, file.stop)
        if first < last:
            found.append(FileRange(file.path, first, last))
        offset += file.stop - file.start
    return found


def _read_file(path: tf.Tensor, start: tf.Tensor, stop: tf.Tensor) -> tf.data.Dataset:
    """Returns (record, place) pairs of one range of one file."""
    records = tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES).skip(start).take(stop - start)
    places = tf.data.Dataset.range(start, stop).map(
        lambda number: tf.strings.join([path, tf.strings.as_string(number)], "#")
    )
    return tf.data.Dataset.zip(records, places)
