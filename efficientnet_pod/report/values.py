"""Numbers, times and names of a report in words."""

import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

NOT_RECORDED = "not recorded"
NONE = "–"


def percent(rate: float | None, digits: int = 2) -> str:
    """Returns e.g. ``"98.61 %"`` of 0.9861."""
    return NONE if rate is None else f"{rate * 100:.{digits}f} %"


def count(value: float | None) -> str:
    """Returns e.g. ``"1,281,167"``."""
    return NONE if value is None else f"{value:,.0f}"


def figure(value: float | None, digits: int = 4) -> str:
    """Returns a number with so many significant digits, e.g. ``"0.01234"``, ``"1,024"``."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:,.{digits}g}"


def duration(seconds: float | None) -> str:
    """Returns e.g. ``"4.2 s"``, ``"2 min 45 s"``, ``"3 h 12 min"``, ``"2 d 3 h"``."""
    if seconds is None:
        return NONE
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


def moment(at: datetime | None) -> str:
    """Returns e.g. ``"2026-11-25 01:02:03 UTC"``."""
    return NONE if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def plural(n: int, noun: str, nouns: str = "") -> str:
    """Returns e.g. ``"1 host"``, ``"1,024 replicas"``."""
    return f"{n:,} {noun if n == 1 else nouns or noun + 's'}"


def joined(parts: Iterable[str | None]) -> str:
    """Returns the parts that there are, with commas between them."""
    return ", ".join(part for part in parts if part)


def thinned(rows: Sequence[Any], most: int) -> tuple[list[Any], int]:
    """Returns at most so many of the rows, evenly spaced with the last among them, and their distance."""
    apart = max(1, math.ceil(len(rows) / most))
    return list(rows[::-1][::apart][::-1]), apart


def optimizer_name(name: Any) -> str:
    """Returns an optimizer's name as its authors write it."""
    return {"lars": "LARS", "rmsprop": "RMSProp", "sgd": "SGD"}.get(str(name), str(name))


def network_title(name: Any) -> str:
    """Returns ``"EfficientNet-B0"`` for ``b0``, and what is no EfficientNet by the name its recipe has."""
    return f"EfficientNet-{str(name).capitalize()}" if re.fullmatch(r"(b|lite)\d", str(name)) else str(name)
