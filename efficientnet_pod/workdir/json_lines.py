"""Files of a workdir that a run can do without: where one cannot be written, that is a warning and no end."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from etils import epath

from efficientnet_pod.errors import RunError
from efficientnet_pod.workdir.files import is_remote, reason, write_whole
from efficientnet_pod.workdir.redact import redact_strings

Row = dict[str, Any]


@contextmanager
def warned(file: epath.Path, report: Callable[[str], None]) -> Iterator[None]:
    """Reports, in one line, what a file could not be written for."""
    try:
        yield
    except Exception as error:  # an OSError, or what the library of an object store raises
        why = str(error) if isinstance(error, RunError) else reason(error)
        report(f"warning: '{file}' is not written: {why}; the run goes on without it")


def write_json(file: epath.Path, value: dict[str, Any]) -> None:
    """Writes a table as JSON, whole or not at all, with the secrets in its strings blanked."""
    write_whole(file, (json.dumps(redact_strings(value)) + "\n").encode())


class SoftLines:
    """A file of JSON objects, one a line; whatever fails is reported once.

    A line that a kill has torn, or a full disk, is a damaged line for itself: the next one begins behind it.
    An object store cannot append: there the file is read and written anew.
    """

    def __init__(self, file: epath.Path, report: Callable[[str], None]):
        """Names the file; nothing is touched."""
        self._file, self._report, self._is_reported = file, report, False

    def rows(self) -> list[Row]:
        """Returns what can be read of the lines."""
        stored = b""
        with self._reported():
            stored = self._stored()
        rows = []
        for line in stored.split(b"\n"):
            with suppress(ValueError):  # not UTF-8, or not JSON
                rows.append(json.loads(line))
        return [row for row in rows if isinstance(row, dict)]

    def append(self, rows: Iterable[Row]) -> None:
        """Adds lines."""
        added = "".join(map(_line, rows)).encode()
        with self._reported():
            if is_remote(self._file):
                stored = self._stored()
                write_whole(self._file, stored + _gap(stored[-1:]) + added)
                return
            with open(self._file, "ab+") as opened:
                size = opened.seek(0, 2)
                opened.seek(max(0, size - 1))
                opened.write(_gap(opened.read(1)) + added)  # to the end, wherever it has read

    def replace(self, rows: Iterable[Row]) -> bool:
        """Lets these be the lines; returns whether they are."""
        with self._reported():
            contents = "".join(map(_line, rows)).encode()
            if contents != self._stored():
                write_whole(self._file, contents)
            return True
        return False

    def _stored(self) -> bytes:
        return self._file.read_bytes() if self._file.exists() else b""

    @contextmanager
    def _reported(self) -> Iterator[None]:
        with warned(self._file, self._report_once):
            yield

    def _report_once(self, line: str) -> None:
        if not self._is_reported:
            self._report(line)
        self._is_reported = True


def _gap(last: bytes) -> bytes:
    """Returns what a line needs before it where the last byte of the file is this one, if any."""
    return b"" if last in (b"", b"\n") else b"\n"


def _line(row: Row) -> str:
    return json.dumps(redact_strings(row)) + "\n"
