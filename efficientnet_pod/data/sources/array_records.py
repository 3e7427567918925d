"""ArrayRecord files as a split whose examples are fetched by number, inside tf.data."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from efficientnet_pod.data.python_calls import reader
from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.sources.types import Example, FileRange, Indexed
from efficientnet_pod.errors import UserError

_OTHER_FILES = 256  # libraries, sockets and logs that a process has open


def indexed_records(files: Sequence[FileRange], parse: Callable[[tf.Tensor, tf.Tensor], Example]) -> Indexed:
    """Returns the records of the files' ranges, end to end.

    ``parse`` makes undecoded Examples from records (strings of any shape) and their places ``path#number``.

    Raises:
      UserError: a file is missing or remote, or a process may not open so many files here.
    """
    try:
        from array_record.python.array_record_data_source import ArrayRecordDataSource
    except ImportError:
        raise UserError(
            f"'{files[0].path}' is an ArrayRecord file, and the package array_record, which exists for Linux "
            "and macOS, is not installed; use record files (tfrecord) here"
        ) from None
    if "://" in files[0].path:
        raise UserError(
            f"'{files[0].path}' is an ArrayRecord file in an object store, which can be read from a mounted "
            "file system only; mount or copy the folder, or use record files (tfrecord)"
        )
    for file in files:
        if not os.path.exists(file.path):
            raise UserError(f"file '{file.path}' is missing; a split needs all its files; copy it there")
    _allow_open_files(len(files) + _OTHER_FILES)
    # Each file is opened at its first record and stays open.
    source = ArrayRecordDataSource([f"{file.path}[{file.start}:{file.stop}]" for file in files])
    ends = list(accumulate(file.stop - file.start for file in files))
    starts = np.array([0, *ends[:-1]], np.int64)
    first = np.array([file.start for file in files], np.int64)
    paths = np.array([file.path for file in files])

    def read(index: int) -> bytes:
        try:
            return source[index]
        except Exception as error:  # the library does not say which
            number = int(np.searchsorted(starts, index, side="right")) - 1
            place = f"{files[number].path}#{index - starts[number] + first[number]}"
            raise RuntimeError(f"record '{place}' cannot be read: {error}; copy the file anew") from error

    def fetch(index: tf.Tensor) -> Example:
        number = tf.searchsorted(starts, tf.reshape(index, [-1]), side="right") - 1
        number = tf.reshape(number, tf.shape(index))
        record_number = tf.strings.as_string(index - tf.gather(starts - first, number))
        return parse(read_all(index), tf.strings.join([tf.gather(paths, number), record_number], "#"))

    read_all = reader(read)
    return Indexed(ends[-1], fetch, takes_many=True)


def _allow_open_files(count: int) -> None:
    """Raises this process's limit of open files to ``count`` if it is lower."""
    import resource  # not on Windows, where array_record is not either

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < count:
        if hard != unlimited and hard < count:
            raise UserError(
                f"the data set needs {count:,} open files, and this process may open {hard:,}; "
                f"raise the limit with `ulimit -n {count}`"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
