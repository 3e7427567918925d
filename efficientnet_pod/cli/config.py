"""The command ``config``: every field of a recipe, its meaning, and where its value comes from."""

import re
from collections.abc import Sequence
from typing import Any

from absl import flags
from rich.table import Table
from rich.text import Text

from efficientnet_pod.cli.flags import load_config, overrides_of, parse_flags
from efficientnet_pod.pod.terminal import console
from efficientnet_pod.recipe.base_config import base_config
from efficientnet_pod.recipe.fields import PHASE, all_fields
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.workdir.values import flatten, to_json

_ABSENT = "absent"


def run_config(arguments: Sequence[str]) -> None:
    """Prints a recipe's fields, or those in which it differs from another recipe."""
    values = parse_flags("config", arguments, _define, config=True)
    config = values.config.to_dict()
    read_recipe(config)  # what is out of range is said
    fields, typed = dict(flatten(config)), set(overrides_of(values))
    base = dict(flatten(base_config().to_dict()))
    origin = {
        name: "command line" if name in typed else "base" if base.get(name, _ABSENT) == value else "recipe"
        for name, value in fields.items()
    }
    if values.diff is not None:
        other = dict(flatten(load_config(values.diff).to_dict()))
        pairs = {name: (fields.get(name, _ABSENT), other.get(name, _ABSENT)) for name in fields | other}
        rows = {name: (one, two) for name, (one, two) in pairs.items() if one != two}
        if values.json:
            print(to_json({name: {"this": one, "other": two} for name, (one, two) in rows.items()}, indent=1))
        elif not rows:
            print("the two are the same")
        else:
            _print(
                ("field", "this", values.diff), [(n, repr(one), repr(two)) for n, (one, two) in rows.items()]
            )
    elif values.json:
        print(to_json({"config": config, "from": origin}, indent=1))
    else:
        _print(("field", "value", "from"), [(n, repr(v), origin[n]) for n, v in fields.items()])


def _print(head: Sequence[str], rows: Sequence[tuple[str, str, str]]) -> None:
    """Prints a row for each field, with its meaning where the lines are wide enough for that."""
    meanings = {field.name: field.about for field in all_fields()}
    places = {name: place for place, name in enumerate(meanings)}
    kinds = {name: re.sub(r"^phases\.\w+", PHASE, name) for name, *_ in rows}
    out = console()
    is_wide = out.width >= 100
    table = Table.grid(padding=(0, 2))
    for width in (None, 40, 40, *([60] if is_wide else [])):
        table.add_column(max_width=width, overflow="fold")
    table.add_row(*(Text(word, style="bold") for word in (*head, *(["meaning"] if is_wide else []))))
    for name, one, two in sorted(rows, key=lambda row: places.get(kinds[row[0]], -1)):
        meaning = meanings.get(kinds[name], "")
        parts: list[Any] = [f"config.{name}", one, two, *([meaning] if is_wide else [])]
        table.add_row(*(Text(part) for part in parts))
    out.print(table)


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("diff", None, "Another recipe: print only what differs from it.", flag_values=values)
    flags.DEFINE_bool("json", False, "Print JSON, with the origin of each value.", flag_values=values)
