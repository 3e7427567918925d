"""Owns how figures are worded: three digits, a unit that suits them, a dash for what is not known."""

from rich.table import Table

from efficientnet_pod.pod.chips import GIB

DASH = "–"
_MIB = 1 << 20


def duration(seconds: float | None) -> str:
    """Returns a time with three digits and a unit that suits it."""
    if seconds is None:
        return DASH
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds / 1e-6)} µs"


def number(value: float | None) -> str:
    """Returns three digits, or all there are in front of the point."""
    if value is None:
        return DASH
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def size(of: int | None) -> str:
    """Returns bytes as GiB or MiB."""
    if of is None:
        return DASH
    return f"{of / GIB:,.2f} GiB" if of >= GIB else f"{of / _MIB:,.1f} MiB"


def count(n: int, noun: str) -> str:
    """Returns e.g. ``"1 host"`` or ``"128 hosts"``."""
    return f"{n:,} {noun}" + "s" * (n != 1)


def percent(part: float | None, whole: float | None) -> str:
    """Returns a share to the nearest tenth, of larger ones to the nearest whole."""
    if part is None or not whole:
        return DASH
    share = 100 * part / whole
    if 0 < share < 0.05:
        return "<0.1 %"
    return f"{share:.1f} %" if share < 10 else f"{share:.0f} %"


def table(*names: str, left: int = 1) -> Table:
    """Returns an empty table, its first ``left`` columns of words and all others of figures."""
    made = Table(*names, box=None, pad_edge=False, header_style="dim")
    for column in made.columns[left:]:
        column.justify, column.no_wrap = "right", True
    return made
