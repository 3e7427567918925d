"""Values of nested tables, as JSON files of a workdir hold them: taken whatever wrote or damaged the file."""

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

_LARGEST = 1e15  # no number of a run comes near this; charts overflow at the end of the numbers


def parse_table(stored: bytes | str) -> dict[str, Any] | None:
    """Returns the table in a JSON text; None for anything else."""
    try:
        table = json.loads(stored)
    except (ValueError, RecursionError):  # not UTF-8, or not JSON
        return None
    return table if isinstance(table, dict) else None


def to_json(value: Any, **options: Any) -> str:
    """Returns a value as JSON, with null for a number that is not finite: NaN and Infinity are no JSON.

    ``options`` are those of ``json.dumps``.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flatten(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted field, value) of nested tables, in their order."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def dig(table: Any, dotted: str) -> Any:
    """Returns the value of a dotted field of nested tables; None where any part is missing."""
    for name in dotted.split("."):
        if not isinstance(table, dict):
            return None
        table = table.get(name)
    return table


def number(value: Any) -> float | None:
    """Returns a number; None for anything else: truth values, texts, NaN, and what no run can reach."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if abs(value) <= _LARGEST else None  # false of NaN


def whole(value: Any) -> int | None:
    """Returns a whole number that is not negative; None for anything else."""
    known = number(value)
    return None if known is None or known < 0 or known != int(known) else int(known)


def table_of(value: Any) -> dict[str, Any]:
    """Returns a table as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    """Returns a list as it is, and an empty one for anything else."""
    return value if isinstance(value, list) else []


def triple_of(value: Any) -> tuple[int, int, int] | None:
    """Returns a list of three whole numbers that are not negative; None for anything else."""
    match [whole(item) for item in list_of(value)]:
        case [int() as first, int() as second, int() as third]:
            return first, second, third
    return None


def time_of(value: Any) -> datetime | None:
    """Returns the moment that an ISO 8601 text names, in UTC; None for anything else."""
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
