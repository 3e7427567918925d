"""JSON lines: files with one JSON object on each line."""

from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from efficientnet_pod.workdir.files import contents_of, is_remote, warn_if_not_written, write_whole
from efficientnet_pod.workdir.redact import redact_strings
from efficientnet_pod.workdir.values import parse_table, to_json

Row = dict[str, Any]


def parse_lines(
    stored: bytes, is_row: Callable[[Row], bool] = lambda row: True
) -> tuple[list[Row], list[int]]:
    """Returns the rows of a file and the numbers of its damaged lines, from 1.

    A line is damaged if ``is_row`` denies that its object is a row of this file. A last line without its end
    is not damaged: it is being written, or a kill tore it.
    """
    rows, damaged, lines = [], [], stored.split(b"\n")
    for number, line in enumerate(lines, start=1):
        row = parse_table(line)
        if row is not None and is_row(row):
            rows.append(row)
        elif number < len(lines):
            damaged.append(number)
    return rows, damaged


def encode_lines(rows: Iterable[Row]) -> bytes:
    """Returns the contents of a file with these rows."""
    return "".join(to_json(row) + "\n" for row in rows).encode()


class OptionalLines:
    """A file of JSON lines that a run can do without: only its first failure is told, as a warning.

    A torn line, from a kill or a full disk, stays on a line of its own: the next one begins behind it. An
    object store cannot append: there the file is read and written anew.
    """

    def __init__(self, file: epath.Path, warn: Callable[[str], None]):
        """Names the file; nothing is touched."""
        self._file, self._warn, self._has_warned = file, warn, False

    def rows(self) -> list[Row]:
        """Returns the rows of the lines that can be read."""
        with warn_if_not_written(self._file, self._warn_once):
            return parse_lines(contents_of(self._file) or b"")[0]
        return []

    def append(self, rows: Iterable[Row]) -> None:
        """Adds lines."""
        added = encode_lines(map(redact_strings, rows))
        with warn_if_not_written(self._file, self._warn_once):
            if is_remote(self._file):
                stored = contents_of(self._file) or b""
                write_whole(self._file, stored + _gap(stored[-1:]) + added)
                return
            with open(self._file, "ab+") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - 1))
                file.write(_gap(file.read(1)) + added)  # to the end, wherever it has read

    def replace(self, rows: Iterable[Row]) -> bool:
        """Replaces all lines; returns whether that succeeded."""
        with warn_if_not_written(self._file, self._warn_once):
            contents = encode_lines(map(redact_strings, rows))
            if contents != (contents_of(self._file) or b""):
                write_whole(self._file, contents)
            return True
        return False

    def _warn_once(self, message: str) -> None:
        if not self._has_warned:
            self._warn(message)
        self._has_warned = True


def _gap(last: bytes) -> bytes:
    """Returns what a new line needs in front, given the last byte of the file, if it has any."""
    return b"" if last in (b"", b"\n") else b"\n"
