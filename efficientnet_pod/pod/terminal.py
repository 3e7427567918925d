"""Text for terminals: consoles, tables, a progress bar, and numbers in words."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

NOT_KNOWN = "–"
_GIB, _MIB = 1 << 30, 1 << 20
_LONGEST_LINE = 100_000  # columns; a file has no width


def console(*, stderr: bool = False, quiet: bool = False, file: IO[str] | None = None) -> Console:
    """Returns a console that prints text unchanged: no markup in it, no colours for numbers, no line breaks.

    A quiet one, for all hosts but the first, prints nothing. In a file, a pipe or a notebook the rows of a
    table are lines, too, however long. ``file`` takes the place of standard output.
    """
    plain = _Console(
        file=file,
        stderr=stderr,
        quiet=quiet,
        highlight=False,
        soft_wrap=True,
        markup=False,
        emoji=False,
        # A notebook says that it is a terminal, and shows the bar's moves of the cursor as they are.
        force_terminal=False if Console().is_jupyter else None,
        force_jupyter=False,
    )
    if not plain.is_terminal:
        plain.width = _LONGEST_LINE
    return plain


class _Console(Console):
    """A console that leaves no blanks at the ends of the lines in a file."""

    def print(self, *objects: Any, **options: Any) -> None:
        if self.is_terminal or self.quiet:
            return super().print(*objects, **options)
        with self.capture() as captured:
            super().print(*objects, **options)
        self.file.write("\n".join(line.rstrip(" ") for line in captured.get().split("\n")))
        self.file.flush()


def table(*names: str, left: int = 1) -> Table:
    """Returns an empty table without lines.

    Args:
      names: names of the columns; without any there is no header, and rows may have any number of cells.
      left: number of columns of words at the left; the others hold numbers and are aligned to the right.
    """
    empty = Table(*names, box=None, pad_edge=False, header_style="dim", show_header=bool(names))
    for column in empty.columns[left:]:
        column.justify, column.no_wrap = "right", True
    return empty


def bar_columns() -> tuple[ProgressColumn, ...]:
    """Returns the columns of a progress bar whose tasks have a field ``rate``."""
    return (
        _Description(),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )


class _Description(ProgressColumn):
    """What goes on; of a task with a field ``since``, also the seconds since that time.monotonic()."""

    def render(self, task: Task) -> Text:
        since = task.fields.get("since")
        return Text(task.description + ("" if since is None else f" {time.monotonic() - since:.0f} s"))


@contextmanager
def progress_bar(
    title: str, *, total: int, unit: str, done: int = 0, on: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """Shows a bar with rate and time left, on a terminal only; yields a function that adds units.

    Args:
      title: text in front of the bar.
      total: number of units of the whole work.
      unit: name of the units, in the plural.
      done: number of units done before this start.
      on: console of the bar; standard error by default.
    """
    on = on or console(stderr=True)
    with Progress(*bar_columns(), console=on, disable=not on.is_terminal, transient=True) as bar:
        task, start, moved = bar.add_task(title, total=total, completed=done, rate=""), time.monotonic(), 0

        def advance(units: int) -> None:
            nonlocal moved
            moved += units
            rate = moved / max(time.monotonic() - start, 1e-3)
            bar.update(task, advance=units, rate=f"{rate:,.0f} {unit}/s")

        yield advance


def plural(n: int, noun: str, nouns: str = "") -> str:
    """Returns e.g. ``"1 host"``, ``"1,024 replicas"``, ``"2 batches"``."""
    return f"{n:,} {noun if n == 1 else nouns or noun + 's'}"


def whole_number(value: float | None) -> str:
    """Returns e.g. ``"1,281,167"``."""
    return NOT_KNOWN if value is None else f"{value:,.0f}"


def three_digits(value: float | None) -> str:
    """Returns e.g. ``"1.23"``, ``"12.3"``, ``"1,235"``."""
    if value is None:
        return NOT_KNOWN
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def significant(value: float | None, digits: int = 4) -> str:
    """Returns a number to ``digits`` significant digits, e.g. ``"0.01234"``, ``"1,024"``."""
    if value is None:
        return NOT_KNOWN
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:,.{digits}g}"


def byte_size(number_of_bytes: float | None) -> str:
    """Returns e.g. ``"1.25 GiB"``, ``"0.5 MiB"``."""
    if number_of_bytes is None:
        return NOT_KNOWN
    if number_of_bytes >= _GIB:
        return f"{number_of_bytes / _GIB:,.2f} GiB"
    return f"{number_of_bytes / _MIB:,.1f} MiB"


def percent(rate: float | None, digits: int = 2) -> str:
    """Returns e.g. ``"98.61 %"`` for 0.9861."""
    return NOT_KNOWN if rate is None else f"{rate * 100:.{digits}f} %"


def share(part: float | None, whole: float | None) -> str:
    """Returns ``part / whole`` to the nearest tenth of a percent below 10 %, else to the nearest percent."""
    if part is None or not whole:
        return NOT_KNOWN
    value = 100 * part / whole
    if 0 < value < 0.05:
        return "<0.1 %"
    return f"{value:.1f} %" if value < 10 else f"{value:.0f} %"


def short_duration(seconds: float | None) -> str:
    """Returns a time to three digits in s, ms or µs, e.g. ``"55.8 ms"``."""
    if seconds is None:
        return NOT_KNOWN
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{three_digits(seconds / size)} {unit}"
    return f"{three_digits(seconds / 1e-6)} µs"


def duration(seconds: float | None) -> str:
    """Returns e.g. ``"4.2 s"``, ``"2 min 45 s"``, ``"3 h 12 min"``, ``"2 d 3 h"``."""
    if seconds is None:
        return NOT_KNOWN
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, size), (minor, minor_size) in zip(units, units[1:], strict=False):
        # Rounded first: 59 min 59.9 s are an hour.
        parts = round(seconds / minor_size)
        if parts * minor_size >= size:
            major, rest = divmod(parts, size // minor_size)
            return f"{major:,} {name}" + (f" {rest} {minor}" if rest else "")
    return f"{seconds:.0f} s"
