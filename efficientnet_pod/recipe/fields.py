"""The fields of a recipe, as they are defined: their reference, and which of them a recipe reads."""

import dataclasses
import re
import textwrap
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

from efficientnet_pod.optim.optimizers import OPTIMIZERS
from efficientnet_pod.optim.ranges import Choices, Range, ReadWith, Steps, allowed_in, condition_of
from efficientnet_pod.recipe.base_config import base_config
from efficientnet_pod.recipe.recipe import PhaseSettings, Recipe

PHASE = "phases.NAME"  # stands for the name of a phase


class Field(NamedTuple):
    """A field of a recipe.

    Attributes:
      name: dotted name in a config, without ``config.``.
      allowed: values that it may have; None: any of its type.
      condition: condition on which it is read; None: always.
      about: meaning, for people, with names in double backticks; empty where the field has none of its own.
    """

    name: str
    allowed: Range | Choices | Steps | None
    condition: ReadWith | None
    about: str


def all_fields() -> list[Field]:
    """Returns every field, in the order of their definitions; a phase is called :data:`PHASE`."""
    return list(_fields_of(Recipe, ""))


def reference() -> str:
    """Returns the text of ``--help`` on the fields: neutral values, meanings, the values allowed."""
    neutral, lines = base_config().to_dict(), []
    for field in all_fields():
        value: Any = neutral
        for name in field.name.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        lines.append(f"  --config.{field.name}" + ("" if field.name.startswith(PHASE) else f"={value!r}"))
        about = field.about.replace("``", "")
        about = "; ".join(str(part) for part in (about, field.allowed, field.condition) if part)
        lines += textwrap.wrap(about, 100, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def without_effect(recipe: Recipe, names: Iterable[str]) -> tuple[str, ...]:
    """Returns a warning of the fields that the recipe does not read, by its choices; none if it reads all.

    ``names`` are dotted, without ``config.``. Each field stands with the condition on which it is read.
    """
    known, unread = {field.name: field for field in all_fields()}, []
    chosen = type(recipe.optimizer).__name__.lower()
    for name in names:
        seen, field = recipe, name
        table, _, rest = name.partition(".")
        if table == "phases":
            phase, _, rest = rest.partition(".")
            of_name = [settings for settings in recipe.phases if settings.name == phase]
            seen, field = recipe.in_phase(of_name[0]) if of_name else recipe, f"{PHASE}.{rest}"
        condition = known[field].condition if field in known else None
        optimizer = rest.partition(".")[0]
        if table == "optimizer" and optimizer in OPTIMIZERS and optimizer != chosen:
            unread.append(f"config.{name} ({ReadWith('optimizer.name', (optimizer,))})")
        elif condition and not condition.is_read(attrgetter(condition.field)(seen)):
            unread.append(f"config.{name} ({condition})")
    return (f"without effect: {'; '.join(unread)}",) if unread else ()


def _fields_of(table: Any, prefix: str) -> Iterator[Field]:
    abouts = _abouts(table)
    for field in dataclasses.fields(table):
        if field.name == "optimizer":
            words = tuple(OPTIMIZERS)
            yield Field("optimizer.name", Choices(words), None, "optimizer whose table is read")
            for name, kind in OPTIMIZERS.items():
                yield from _fields_of(kind, f"optimizer.{name}.")
        elif field.name == "phases":
            yield from (
                part for part in _fields_of(PhaseSettings, f"{PHASE}.") if part.name != f"{PHASE}.name"
            )
        elif dataclasses.is_dataclass(field.type):
            yield from _fields_of(field.type, f"{prefix}{field.name}.")
        else:
            about = abouts.get(field.name, "")
            yield Field(f"{prefix}{field.name}", allowed_in(field), condition_of(field), about)


def _abouts(table: Any) -> dict[str, str]:
    """Returns the texts of the attributes in the docstrings of a class and its bases, by name."""
    abouts: dict[str, str] = {}
    for kind in reversed(table.__mro__):
        _, _, attributes = (kind.__doc__ or "").partition("Attributes:\n")
        for name, text in re.findall(r"^ {6}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
            abouts[name] = " ".join(text.split()).rstrip(".")
    return abouts
