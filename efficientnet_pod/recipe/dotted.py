"""Fields of a config, by their dotted names."""

import copy
from collections.abc import Mapping
from typing import Any

from efficientnet_pod.errors import UserError, did_you_mean


def unknown_field(config: Mapping[str, Any], name: str) -> str | None:
    """Returns the message for a dotted name that is no field of a config; None if it is one."""
    table, path = config, "config"
    for part in name.split("."):
        if not isinstance(table, Mapping) or part not in table:
            known = table if isinstance(table, Mapping) else ()
            hint = did_you_mean(part, known) if known else "; it has none"
            if path == "config.phases" and not known:
                hint = "; phases are added in the config file"
            return f"{path} has no field '{part}'{hint}"
        table, path = table[part], f"{path}.{part}"
    return None


def with_fields(config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a config with these values of the fields, by dotted name.

    Values are written as a recipe has them: lists as tuples, whole numbers of a field with fractions as
    these, NumPy's numbers as Python's. Whether they are in range, :func:`.read_recipe` says.

    Raises:
      UserError: there is no such field, or it is a table.
    """
    changed = copy.deepcopy(dict(config))
    for name, value in fields.items():
        if message := unknown_field(config, name):
            raise UserError(message)
        *tables, last = name.split(".")
        table = changed
        for part in tables:
            table = table[part]
        if isinstance(table[last], dict):
            raise UserError(f"config.{name}={value!r} must be a table; set one of its fields, {name}.FIELD")
        table[last] = _as_written(value, has_fraction=isinstance(table[last], float))
    return changed


def _as_written(value: Any, *, has_fraction: bool) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if has_fraction and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return tuple(value) if isinstance(value, list) else value
