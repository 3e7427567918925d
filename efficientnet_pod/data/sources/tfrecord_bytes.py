"""TFRecord files as bytes: the number of records in each, and the place of damage."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from efficientnet_pod.data.quiet import reason_of, tf
from efficientnet_pod.data.sources.index_file import read_index, write_index
from efficientnet_pod.data.sources.types import Example, FileRange, Records
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import progress_bar

# A record is its length (uint64, little endian), the masked CRC-32C of these 8 bytes, the data, and the
# masked CRC-32C of the data. Source: tensorflow/core/lib/io/record_writer.h.
_HEADER_BYTES, _FOOTER_BYTES = 12, 4
_THREADS = 16  # waiting for disks and object stores, not computing
_INDEX = "record_counts.json"


def count_records(paths: Sequence[str]) -> dict[str, int]:
    """Returns the number of records of each file of one folder, from the folder's index if it is valid.

    Files whose name and size are not in the index are counted, with a progress bar on a terminal. The index
    is then written anew, into the folder or, if that cannot be written, into the user's cache folder. A local
    file costs one small read a record; a remote file is read through.

    Raises:
      UserError: a file is truncated, or its lengths are damaged.
    """
    folder = os.path.dirname(paths[0])
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = dict(zip(paths, pool.map(lambda path: tf.io.gfile.stat(path).length, paths), strict=True))
        index = read_index(folder, _INDEX)
        names = {path: os.path.basename(path) for path in paths}
        wanted = [path for path in paths if index.get(names[path], {}).get("bytes") != sizes[path]]
        if wanted:
            with progress_bar("counting records", total=len(wanted), unit="files") as advance:
                for path, records in zip(wanted, pool.map(_count, wanted), strict=True):
                    index[names[path]] = {"bytes": sizes[path], "records": records}
                    advance(1)
            write_index(folder, _INDEX, index)
    return {path: index[names[path]]["records"] for path in paths}


def locate_corruption(records: Records) -> str | None:
    """Returns ``"PATH, record N, byte M: reason"`` of the first record that cannot be read, None if all can.

    Each file is read from the front to the last record of its range; data, checksums and parsing are checked.
    Files of another format are not read: the errors of their readers name the place.
    """
    if records.read:
        return None
    with ThreadPoolExecutor(_THREADS) as pool:
        scans = pool.map(lambda file: _scan(file, records.parse), records.files)
        for file, (count, offset, reason) in zip(records.files, scans, strict=True):
            if reason:
                return f"{file.path}, record {count}, byte {offset}: {reason}"
            if count < file.stop:
                return f"{file.path}, record {count}, byte {offset}: the file ends, of {file.stop} records"
    return None


def _count(path: str) -> int:
    try:
        count, offset, reason = _scan(FileRange(path, 0, -1)) if "://" in path else _walk(path)
    except OSError as error:
        raise UserError(f"record file '{path}' cannot be read: {error.strerror}; make it readable") from None
    if reason:
        raise UserError(
            f"record file '{path}' is damaged at record {count}, byte {offset}: {reason}; copy the file anew"
        )
    return count


def _scan(
    file: FileRange, parse: Callable[[tf.Tensor, tf.Tensor], Example] | None = None
) -> tuple[int, int, str]:
    """Returns (records, bytes, reason why no more can be read) of a file, as TensorFlow reads it."""

    def parsed_length(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The label is not used; without it TensorFlow would leave the parsing out.
        label = parse(record, tf.constant(""))["label"] if parse else tf.constant(0)
        return tf.strings.length(record), label

    count = offset = 0
    read = tf.data.TFRecordDataset(file.path, buffer_size=1 << 20)
    lengths = read.take(file.start).map(lambda record: (tf.strings.length(record), tf.constant(0)))
    lengths = lengths.concatenate(read.skip(file.start).take(file.stop - file.start).map(parsed_length))
    try:
        for length, _ in lengths:
            count += 1
            offset += _HEADER_BYTES + int(length) + _FOOTER_BYTES
    except tf.errors.OpError as error:
        return count, offset, _reason(error)
    return count, offset, ""


def _reason(error: tf.errors.OpError) -> str:
    if isinstance(error, tf.errors.NotFoundError):
        return "the file does not exist"
    if "truncated" in error.message:
        return "the record is cut off"
    return "its checksum is wrong" if isinstance(error, tf.errors.DataLossError) else reason_of(error)


def _walk(path: str) -> tuple[int, int, str]:
    """Returns the same as ``_scan`` for a local file, from the lengths alone: the data is not read."""
    headers, offsets, count, offset, reason = [], [], 0, 0, ""
    with open(path, "rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        while offset < size:
            file.seek(offset)
            header = file.read(_HEADER_BYTES)
            if len(header) == _HEADER_BYTES:
                headers.append(header)
                offsets.append(offset)
            end = offset + _HEADER_BYTES + int.from_bytes(header[:8], "little") + _FOOTER_BYTES
            if len(header) < _HEADER_BYTES or end > size:
                reason = "the record is cut off"
                break
            offset = end
            count += 1
    # A damaged length leads the walk astray; its own checksum then shows where that began.
    table = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, _HEADER_BYTES)
    stored = np.ascontiguousarray(table[:, 8:]).view("<u4").ravel()
    wrong = np.flatnonzero(stored != _masked_crc32c(table[:, :8]))
    if len(wrong):
        return int(wrong[0]), offsets[wrong[0]], "the checksum of its length is wrong"
    return count, offset, reason


def _masked_crc32c(rows: np.ndarray) -> np.ndarray:
    """Returns the masked CRC-32C of each row of bytes, uint32.

    Source: RFC 3720, B.4 (the polynomial, reflected: 0x82F63B78) and tensorflow/core/lib/hash/crc32c.h
    (the mask).
    """
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in rows.T:
        crc = table[(crc ^ column) & 0xFF] ^ (crc >> 8)
    crc = ~crc
    return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)
