"""Data sets as the pipeline sees them: a source and its two splits. Importable without TensorFlow."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:  # takes seconds to import
    import tensorflow as tf

# The flags that name a split, for messages.
SPLIT_FLAGS = "--config.data.train_split=…, --config.data.eval_split=… (of evaluate: --split=…)"

# {"image": encoded image as a string, or uint8 (height, width, 3); "label": int32; "name": string}
Example: TypeAlias = "dict[str, tf.Tensor]"


@dataclass(frozen=True)
class Indexed:
    """A split whose examples are fetched by number, so that they can be read in any order from any place.

    Attributes:
      num_examples: number of examples.
      fetch: function from an int64 scalar in 0..num_examples-1 to the undecoded Example, inside tf.data.
      takes_many: whether ``fetch`` also takes numbers (n,) and returns n of everything. Where Python reads, a
        call costs more than the reading of an image.
      labels: int32 (num_examples,), where they are known without reading the examples; else None.
    """

    num_examples: int
    fetch: Callable[[tf.Tensor], Example]
    takes_many: bool = False
    labels: np.ndarray | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class FileRange:
    """Records number start..stop-1 of one file."""

    path: str
    start: int
    stop: int


@dataclass(frozen=True)
class Records:
    """A split in files with known numbers of records, which are read from the front.

    Attributes:
      files: parts of files, in stored order.
      parse: function from a record (string scalar) and its place ``path#number`` to the undecoded Example,
        whose name begins with that place.
      read: function from path, start and stop to the (record, place) pairs of a range of a file, whose errors
        name the place; None for TFRecord files.
    """

    files: tuple[FileRange, ...]
    parse: Callable[[tf.Tensor, tf.Tensor], Example]
    read: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.data.Dataset] | None = None

    @property
    def num_examples(self) -> int:
        """Records of all files."""
        return sum(file.stop - file.start for file in self.files)

    def share(self, number: int, count: int) -> Records:
        """Returns one of ``count`` parts: they cover the split, and their lengths differ by at most one."""
        length, longer = divmod(self.num_examples, count)
        start = number * length + min(number, longer)
        return self.part(start, start + length + (number < longer))

    def shares(self, numbers: Iterable[int], count: int) -> Records:
        """Returns several of ``count`` parts as one; what is stored side by side is one range."""
        files: list[FileRange] = []
        for file in (file for number in numbers for file in self.share(number, count).files):
            start = file.start
            if files and (files[-1].path, files[-1].stop) == (file.path, start):
                start = files.pop().start
            files.append(FileRange(file.path, start, file.stop))
        return replace(self, files=tuple(files))

    def part(self, start: int, stop: int) -> Records:
        """Returns the records number start..stop-1 of the split."""
        ranges, offset = [], 0
        for file in self.files:
            first = file.start + max(start - offset, 0)
            last = min(file.start + stop - offset, file.stop)
            if first < last:
                ranges.append(FileRange(file.path, first, last))
            offset += file.stop - file.start
        return replace(self, files=tuple(ranges))


@dataclass(frozen=True)
class Source:
    """A labelled image data set with a training and an evaluation split.

    Attributes:
      name: ``config.data.name`` of the data set.
      class_names: name of each label.
      train: training split.
      eval: evaluation split.
      warnings: sentences for the user about files that were left out on opening.
      fingerprint: SHA-256, hexadecimal, of the files' names and order, with labels or numbers of records. It
        does not depend on the folder, and no image is read for it. Empty for a source without files.
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

    def relabelled(self, class_names: Sequence[str], labels: Sequence[int]) -> Source:
        """Returns the same images under other labels: ``labels`` by the present one, of ``class_names``."""
        from efficientnet_pod.data.quiet import tf

        def relabel(example: Example) -> Example:
            return example | {"label": tf.gather(tf.constant(labels, tf.int32), example["label"])}

        def split(part: Indexed | Records) -> Indexed | Records:
            if isinstance(part, Indexed):
                known = None if part.labels is None else np.asarray(labels, np.int32)[part.labels]
                return replace(part, fetch=lambda index: relabel(part.fetch(index)), labels=known)
            return replace(part, parse=lambda record, place: relabel(part.parse(record, place)))

        train, held_out = split(self.train), split(self.eval)
        return replace(self, class_names=tuple(class_names), train=train, eval=held_out)


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
