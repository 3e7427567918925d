"""The metrics of a run: rows of a file and TensorBoard's events, each step once."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from etils import epath

from efficientnet_pod.errors import RunError
from efficientnet_pod.workdir.files import contents_of, is_remote, reason, require_written, write_whole
from efficientnet_pod.workdir.json_lines import Row, encode_lines, parse_lines
from efficientnet_pod.workdir.tensorboard import TensorBoardEvents, scalars_of
from efficientnet_pod.workdir.values import whole
from efficientnet_pod.workdir.workdir import Workdir

FILE = "metrics.jsonl"


class MetricsLog:
    """Appends rows to ``metrics.jsonl`` and to TensorBoard's events. A context manager that closes both.

    The file has each step once, whatever killed the starts before: rows of steps that will be made again are
    dropped, and so is a last line that was not written to its end. TensorBoard drops them by a mark in the
    events.

    Attributes:
      rows: all rows, those of earlier starts included.
    """

    def __init__(self, workdir: Workdir, *, resumed_step: int, warn: Callable[[str], None] = print):
        """Opens both, without the rows of steps after ``resumed_step``.

        Damaged lines are left out: the file as it was is copied, and ``warn`` gets a line.

        Raises:
          RunError: the file cannot be read or written.
        """
        self._file, self._warn = workdir.path / FILE, warn
        self._folder = str(workdir.path / "tensorboard")
        stored = _contents(self._file)
        self.rows, damaged = parse_lines(stored, is_metrics_row)
        if damaged:
            copy = self._file.parent / f"{FILE}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
            with require_written(copy):
                write_whole(copy, stored)
            warn(
                f"warning: of the lines of {self._file} {len(damaged):,} cannot be read, first line "
                f"{damaged[0]:,}; the others are kept, and the file as it was is {copy.name}"
            )
        self._descriptor: int | None = None  # to append; none in an object store
        self._events: TensorBoardEvents | None = None
        self.drop_after(resumed_step, stored)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def drop_after(self, step: int, stored: bytes | None = None) -> None:
        """Drops the rows of steps after ``step``, which will be made again.

        The file is replaced whole, unless it is ``stored`` (its contents) and has nothing to drop.
        """
        self.close()
        self.rows[:] = [row for row in self.rows if row["step"] <= step]
        contents = encode_lines(self.rows)
        with require_written(self._file):
            if contents != stored:
                write_whole(self._file, contents)
            if not is_remote(self._file):
                self._descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._events = TensorBoardEvents(self._folder, first_step=step + 1, warn=self._warn)

    def write(self, row: Row) -> None:
        """Appends a row with ``step``, ``split`` and scalars; ``metrics.jsonl`` is on disk when this returns.

        Raises:
          RunError: the file cannot be written; a part of the row that was is taken back.
        """
        if self._events is None:
            raise ValueError("the log is closed")
        with require_written(self._file):
            if self._descriptor is None:
                write_whole(self._file, encode_lines([*self.rows, row]))
            else:
                _append(self._descriptor, encode_lines([row]))
        self.rows.append(row)
        self._events.write(row["step"], scalars_of(row))

    def close(self) -> None:
        """Closes both; the events are written out."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        if self._events:
            self._events.close()
        self._descriptor = self._events = None


def is_metrics_row(row: Row) -> bool:
    """Returns whether an object is a row of metrics: it has a step and a split."""
    return whole(row.get("step")) is not None and row.get("split") is not None


def read_metrics(workdir: Workdir) -> list[Row]:
    """Returns the rows of ``metrics.jsonl``; a line torn by a kill or damaged is left out.

    Raises:
      RunError: it cannot be read.
    """
    return parse_lines(_contents(workdir.path / FILE), is_metrics_row)[0]


def _contents(file: epath.Path) -> bytes:
    try:
        return contents_of(file) or b""
    except Exception as error:
        raise RunError(f"'{file}' cannot be read: {reason(error)}; correct that and start again") from error


def _append(descriptor: int, line: bytes) -> None:
    """Writes a line to the end of a file and to the disk, or leaves the file as it was and raises OSError."""
    before = os.fstat(descriptor).st_size
    try:
        written = 0
        while written < len(line):  # a disk that fills up takes a part first
            written += os.write(descriptor, line[written:])
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, before)
        raise
