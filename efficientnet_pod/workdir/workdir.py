"""The files of a workdir: config, plan, data, metrics and summary, written by host 0."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from etils import epath

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.files import cannot_write, is_remote, reason, write_whole
from efficientnet_pod.workdir.redact import redact_strings
from efficientnet_pod.workdir.tensorboard import TensorBoardEvents


class Workdir:
    """The folder of one run. Only one host calls the writing methods, or reads while they may be called."""

    def __init__(self, path: epath.PathLike):
        """Names the folder; nothing is touched."""
        given = epath.Path(path)
        # Orbax refuses a relative folder; `absolute` would take gs:// for one.
        self.path = given if given.is_absolute() else given.absolute()

    @property
    def checkpoints(self) -> epath.Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    @property
    def programs(self) -> epath.Path:
        """Where the compiled programs are."""
        return self.path / "programs"

    def read(self, name: str) -> dict[str, Any]:
        """Returns the contents of a JSON file, which is a table.

        Raises:
          UserError: there is none, or it is damaged.
        """
        file = self.path / name
        if not file.exists():
            raise UserError(f"no {name} in '{self.path}'; --workdir must name the folder of a run")
        try:
            table = json.loads(file.read_bytes())
        except ValueError:
            table = None
        if not isinstance(table, dict):
            raise UserError(
                f"{name} in '{self.path}' is damaged: it is not a table in JSON; restore it or choose "
                "another --workdir"
            )
        return table

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Writes a JSON file as :meth:`write_text` does; secrets in its strings are blanked."""
        self.write_text(name, json.dumps(redact_strings(value), indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Writes a file whole or not at all, as it is given.

        Raises:
          RunError: it cannot be written.
        """
        _write_whole(self.path / name, text.encode())

    def summary(self) -> dict[str, Any] | None:
        """Returns what ``summary.json`` holds; None if there is none or it is damaged."""
        try:
            return self.read("summary.json")
        except UserError:
            return None

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the rows of ``metrics.jsonl``; a line torn by a kill or damaged is left out.

        Raises:
          RunError: it cannot be read.
        """
        return _parse(_contents(self.path / "metrics.jsonl"))[0]


class MetricsLog:
    """Appends rows to ``metrics.jsonl`` and to TensorBoard's events. A context manager that closes both.

    The file has each step once, whatever killed the starts before: rows of steps that will be made again are
    dropped, and so is a last line that was not written to its end. TensorBoard drops them by a mark in the
    events.

    Attributes:
      rows: all of them, those of earlier starts included.
    """

    def __init__(self, workdir: Workdir, *, resumed_step: int, report: Callable[[str], None] = print):
        """Opens both, without the rows of steps after ``resumed_step``.

        Lines that are damaged are left out, after a copy of the file as it is and a line to ``report``.

        Raises:
          RunError: the file cannot be read or written.
        """
        self._file, self._report = workdir.path / "metrics.jsonl", report
        self._folder = str(workdir.path / "tensorboard")
        stored = _contents(self._file)
        rows, damaged = _parse(stored)
        if damaged:
            aside = self._file.parent / f"metrics.jsonl.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
            _write_whole(aside, stored)
            report(
                f"warning: of the lines of {self._file} {len(damaged):,} cannot be read, first line "
                f"{damaged[0]:,}; the others are kept, and the file as it was is {aside.name}"
            )
        self.rows = rows
        self._append: int | None = None
        self._events: Any = None
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
        text = "".join(map(_line, self.rows)).encode()
        if text != stored:
            _write_whole(self._file, text)
        if not is_remote(self._file):
            try:
                self._append = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            except OSError as error:
                raise RunError(cannot_write(self._file, error)) from error
        self._events = TensorBoardEvents(self._folder, first_step=step + 1, report=self._report)

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row with ``step``, ``split`` and scalars; ``metrics.jsonl`` is on disk when this returns.

        Raises:
          RunError: the file cannot be written; a part of the row that was is taken back.
        """
        if self._events is None:
            raise ValueError("the log is closed")
        if self._append is None:  # an object store cannot append
            _write_whole(self._file, "".join(map(_line, [*self.rows, row])).encode())
        else:
            try:
                _append(self._append, _line(row).encode())
            except OSError as error:
                raise RunError(cannot_write(self._file, error)) from error
        self.rows.append(row)
        names = [name for name in row if name not in ("step", "split")]
        self._events.write(row["step"], {f"{row['split']}/{name}": row[name] for name in names})

    def close(self) -> None:
        """Closes both; the events are written out."""
        if self._append is not None:
            os.close(self._append)
        if self._events:
            self._events.close()
        self._append = self._events = None


def _append(opened: int, line: bytes) -> None:
    """Writes a line to the end of a file and to the disk, or leaves the file as it was and raises OSError."""
    before = os.fstat(opened).st_size
    try:
        written = 0
        while written < len(line):  # a disk that fills up takes a part first
            written += os.write(opened, line[written:])
        os.fsync(opened)
    except OSError:
        os.ftruncate(opened, before)
        raise


def _write_whole(file: epath.Path, contents: bytes) -> None:
    try:
        write_whole(file, contents)
    except Exception as error:  # an OSError, or what the library of an object store raises
        raise RunError(cannot_write(file, error)) from error


def _contents(file: epath.Path) -> bytes:
    """Returns the bytes of a file, none if there is no file."""
    try:
        return file.read_bytes() if file.exists() else b""
    except Exception as error:
        raise RunError(f"'{file}' cannot be read: {reason(error)}; mend that and start again") from error


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _parse(stored: bytes) -> tuple[list[dict[str, Any]], list[int]]:
    """Returns the rows of a metrics file and the numbers of its damaged lines, from 1.

    A last line without its end is no damage: a kill tore it, and its step has not been recorded.
    """
    rows, damaged = [], []
    lines = stored.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:  # not UTF-8, or not JSON
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int) and "split" in row:
            rows.append(row)
        elif number < len(lines):
            damaged.append(number)
    return rows, damaged
