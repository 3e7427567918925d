"""Values of nested tables, as a workdir's JSON files hold them."""

from collections.abc import Iterator
from typing import Any


def flatten(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted field, value) of nested tables, in their order."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
