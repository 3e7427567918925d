"""Parquet files in Hugging Face's layout of image data sets, read from the front like record files."""

from __future__ import annotations

import io
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from efficientnet_pod.data.class_names import fault_of
from efficientnet_pod.data.names import printable
from efficientnet_pod.data.python_calls import call_python
from efficientnet_pod.data.quiet import reason_of, tf
from efficientnet_pod.data.sources.split_files import files_of, require_labels
from efficientnet_pod.data.sources.types import (
    Example,
    FileRange,
    Records,
    Source,
    fingerprint_of_files,
)
from efficientnet_pod.errors import UserError

_LAYOUT = (
    "a parquet source holds train-00000-of-00294.parquet … and validation-00000-of-00014.parquet …, with the "
    "columns 'image' (a struct of bytes and path) and 'label' (an integer)"
)
_ROWS = 16  # read at once: a row group holds 100 of ImageNet's images, or 100 MB of them, and is not kept
_BUFFER = 1 << 20  # bytes of each column of an open file
_MOST_OPEN = 512  # as many as one host reads at the same time
_THREADS = 16  # waiting for disks and object stores
_HEAD = 12  # bytes before the image in a record: the label, and the length of the file's name


def open_parquet(name: str, path: str, train_split: str, eval_split: str) -> Source:
    """Returns the images of the Parquet files in the folder ``path``, or in its folder ``data``.

    The files of a split are those whose names begin with its name: ``train-00000-of-00294.parquet``. The
    class names are in the metadata that Hugging Face writes; without them they are the labels' numbers.

    Raises:
      UserError: a file is missing or damaged, has no images or labels, or labels outside the classes.
    """
    files = files_of(path, (train_split, eval_split), ".parquet", _LAYOUT, "parquet:/path")
    with ThreadPoolExecutor(_THREADS) as pool:
        listed = list(dict.fromkeys(file for split in files.values() for file in split))
        footers = dict(zip(listed, pool.map(_footer, listed), strict=True))
    named = {footer.class_names: footer for footer in footers.values()}
    if len(named) > 1:
        one, other, *_ = named.values()
        raise UserError(
            f"file '{one.path}' has {len(one.class_names)} class names, and '{other.path}' has "
            f"{len(other.class_names)} or others; the files of a data set have the same classes; fetch the "
            "files of one version"
        )
    (class_names,), warnings = named, ()
    most = max(footer.last_label for footer in (footers[file] for file in files[train_split]))
    if not class_names:
        class_names = tuple(map(str, range(most + 1)))
        warnings = (f"'{name}' names no classes; they are called 0 to {most}, by the labels",)
    for footer in footers.values():
        require_labels(footer.path, footer.first_label, footer.last_label, len(class_names))
    ranges = {
        split: tuple(FileRange(file, 0, footers[file].rows) for file in files[split] if footers[file].rows)
        for split in files
    }
    readers = _Readers()
    train, held_out = (Records(ranges[split], _parse, readers.records) for split in (train_split, eval_split))
    fingerprint = fingerprint_of_files(train.files, held_out.files)
    return Source(name, tuple(class_names), train, held_out, warnings, fingerprint)


@dataclass(frozen=True)
class _Footer:
    """The facts at the end of a file: class names, none without metadata, rows, and the range of labels."""

    path: str
    class_names: tuple[str, ...]
    rows: int
    first_label: int
    last_label: int


def _opened(path: str) -> Any:
    import pyarrow.parquet as pq  # a fifth of a second to import, for this source alone

    # With a buffer, a row group is read as it is asked for, not whole.
    return pq.ParquetFile(_Remote(path) if "://" in path else path, buffer_size=_BUFFER)


class _Remote(io.RawIOBase):
    """A file in an object store, as pyarrow asks for one: TensorFlow's own lacks some of the methods."""

    def __init__(self, path: str):
        self._file = tf.io.gfile.GFile(path, "rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._file.seek(offset, whence)
        return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()


def _footer(path: str) -> _Footer:
    import pyarrow as pa

    try:
        with _opened(path) as file:
            schema = file.schema_arrow
            fault = _schema_fault(schema, pa)
            if fault:
                raise UserError(f"file '{path}' {fault}; {_LAYOUT}; name a folder of such files")
            first, last = _label_range(file)
            return _Footer(path, _class_names(path, schema), file.metadata.num_rows, first, last)
    except (pa.ArrowException, OSError, tf.errors.OpError) as error:
        raise UserError(
            f"file '{path}' cannot be read as Parquet: {reason_of(error)}; fetch it anew"
        ) from None


def _schema_fault(schema: Any, pa: Any) -> str:
    columns = dict(zip(schema.names, schema.types, strict=True))
    if "label" not in columns or not pa.types.is_integer(columns["label"]):
        is_there = "has the column 'label', which is no integer" if "label" in columns else "has no labels"
        return f"{is_there}; its columns are {', '.join(schema.names)}"
    image = columns.get("image")
    fields = {field.name: field.type for field in image} if image and pa.types.is_struct(image) else {}
    if not any(
        kind(fields.get("bytes", pa.null())) for kind in (pa.types.is_binary, pa.types.is_large_binary)
    ):
        return f"has no column 'image' with the images' bytes; its columns are {', '.join(schema.names)}"
    return ""


def _label_range(file: Any) -> tuple[int, int]:
    """Returns the least and the greatest label, from the statistics of each row group where they are kept.

    A missing label counts as -1. Of a file without rows it is (0, 0).
    """
    column = [file.metadata.schema.column(i).path for i in range(file.metadata.num_columns)].index("label")
    labels = [0] if not file.metadata.num_rows else []
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        if statistics is not None and statistics.has_min_max and statistics.has_null_count:
            labels += [statistics.min, statistics.max, *[-1] * bool(statistics.null_count)]
        else:
            stored = file.read_row_group(group, columns=["label"])["label"].fill_null(-1).to_numpy()
            labels += [stored.min(), stored.max()] if len(stored) else []
    return int(min(labels)), int(max(labels))


def _class_names(path: str, schema: Any) -> tuple[str, ...]:
    """Returns the names in the metadata of Hugging Face, none if there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = tuple(features["label"]["names"])
    except (KeyError, ValueError, TypeError):
        return ()
    if fault := fault_of(tuple(map(str, names))):
        raise UserError(f"file '{path}' cannot be used: {fault}; correct the class names")
    return tuple(printable(name) for name in names)


class _Readers:
    """The open files, each at the row that is to be read next.

    A read takes the reader that stands at its first row, and without one begins a new reader. So a stream may
    enter anywhere, and one that goes on reads each row group once.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[tuple[str, int], Iterator[bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def records(self, path: tf.Tensor, start: tf.Tensor, stop: tf.Tensor) -> tf.data.Dataset:
        """Returns the (record, place) pairs of rows start..stop-1 of one file."""

        def read(row: tf.Tensor) -> tf.Tensor:
            records = call_python(self.read, path, row, tf.minimum(row + _ROWS, stop), stop, dtype=tf.string)
            return tf.ensure_shape(records, (None,))

        places = tf.data.Dataset.range(start, stop).map(
            lambda number: tf.strings.join([path, tf.strings.as_string(number)], "#")
        )
        return tf.data.Dataset.zip(tf.data.Dataset.range(start, stop, _ROWS).map(read).unbatch(), places)

    def read(self, path: bytes, start: int, stop: int, end: int) -> np.ndarray:
        """Returns the records of rows start..stop-1; the reader is kept if ``end`` lies further on."""
        file, records = os.fsdecode(path), np.empty(stop - start, object)  # numpy's strings would lose zeros
        with self._lock:
            reader = self._waiting.pop((file, start), None) or _rows(file, start)
        try:
            records[:] = list(islice(reader, stop - start))
        except Exception as error:  # Arrow has several, and none says which row
            raise RuntimeError(f"file '{file}', rows {start} to {stop - 1}: {reason_of(error)}") from error
        with self._lock:
            if stop < end:
                self._waiting[file, stop] = reader
            while len(self._waiting) > _MOST_OPEN:  # of streams that were left
                self._waiting.popitem(last=False)
        return records


def _rows(path: str, start: int) -> Iterator[bytes]:
    """Yields the records from row ``start`` on; reads no row group before it."""
    with _opened(path) as file:
        ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
        for group in range(int(np.searchsorted(ends, start, "right")), file.num_row_groups):
            row = 0 if group == 0 else int(ends[group - 1])
            for batch in file.iter_batches(_ROWS, row_groups=[group], columns=["image", "label"]):
                yield from _records(batch.slice(max(0, min(start - row, len(batch)))))
                row += len(batch)


def _records(batch: Any) -> Iterator[bytes]:
    """Yields label, name and image of each row, as one string."""
    image, labels = batch.column("image"), batch.column("label").to_pylist()
    fields = dict(zip((field.name for field in image.type), image.flatten(), strict=True))
    names = fields["path"].to_pylist() if "path" in fields else [None] * len(labels)
    images = (value.as_buffer() for value in fields["bytes"])  # not copied
    for data, label, name in zip(images, labels, names, strict=True):
        text = os.fsencode(name or "")
        head = int(label).to_bytes(8, "little", signed=True) + len(text).to_bytes(4, "little")
        yield b"".join((head, text, data or b""))


def _parse(record: tf.Tensor, place: tf.Tensor) -> Example:
    label: Any = tf.io.decode_raw(tf.strings.substr(record, 0, 8), tf.int64)[0]
    length: Any = tf.io.decode_raw(tf.strings.substr(record, 8, 4), tf.int32)[0]
    file = tf.strings.substr(record, _HEAD, length)
    name = tf.cond(length > 0, lambda: tf.strings.join([place, " (", file, ")"]), lambda: place)
    image = tf.strings.substr(record, _HEAD + length, 2**31 - 1)
    return {"image": image, "label": tf.cast(label, tf.int32), "name": name}
