"""Reading a config: plain nested tables become a typed recipe, and what is wrong is named by its field."""

import dataclasses
from typing import Any

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.optim.fine_tuning import InitSettings
from efficientnet_pod.optim.hyperparameters import Hyperparameters
from efficientnet_pod.optim.optimizers import OPTIMIZERS
from efficientnet_pod.optim.schedules import Schedule
from efficientnet_pod.recipe.recipe import DataSettings, ModelSettings, PhaseSettings, Recipe, StopSettings


def read_recipe(config: dict[str, Any]) -> Recipe:
    """Returns the recipe of a config, which is plain nested tables.

    ``config.optimizer`` holds ``name`` and one table for each optimizer it can be switched to, because a
    learning rate means something else to each of them.

    Raises:
      UserError: a field is missing or unknown, or its value out of range.
    """
    fields = _checked(config, Recipe, "config")
    fields["model"] = ModelSettings(**_checked(fields["model"], ModelSettings, "config.model"))
    fields["data"] = _read_data(fields["data"])
    fields["init"] = read_init(fields["init"])
    fields["stop"] = StopSettings(**_checked(fields["stop"], StopSettings, "config.stop"))
    fields["optimizer"] = _read_optimizer(fields["optimizer"])
    fields["schedule"] = _read_schedule(fields["schedule"])
    fields["notes"] = tuple(fields["notes"])
    fields["trackers"] = _read_words(fields["trackers"], "config.trackers", "('wandb',)")
    if str(fields["replicas"]).isdecimal():  # a number in the place of a word is text to the command line
        fields["replicas"] = int(fields["replicas"])
    phases = [_read_phase(name, table) for name, table in fields["phases"].items()]
    fields["phases"] = tuple(sorted(phases, key=lambda phase: phase.from_epoch))
    return Recipe(**fields)


def _checked(table: dict[str, Any], into: type, path: str) -> dict[str, Any]:
    """Returns a copy of the table, whose names are those of the fields of ``into``."""
    names = [field.name for field in dataclasses.fields(into)]
    _require_known(table, names, path)
    for name in names:
        if name not in table:
            raise UserError(f"{path}.{name} is missing; add it to the config file")
    return dict(table)


def _require_known(table: Any, names: list[str], path: str) -> None:
    if not isinstance(table, dict):
        raise UserError(f"{path} is {table!r}; it must be a table of fields: correct the config file")
    for name in table:
        if name not in names:
            raise UserError(f"{path} has no field '{name}'{did_you_mean(name, names)}")


def _read_data(table: dict[str, Any]) -> DataSettings:
    fields = _checked(table, DataSettings, "config.data")
    for name in ("mean_rgb", "stddev_rgb"):
        fields[name] = _read_rgb(fields[name], name)
    fields["class_weights"] = _read_class_weights(fields["class_weights"])
    return DataSettings(**fields)


def _read_rgb(value: Any, name: str) -> tuple[float, ...]:
    """Returns three numbers as a tuple, which JSON has as a list."""
    try:
        rgb = tuple(map(float, value))
        if len(rgb) == 3:
            return rgb
    except (TypeError, ValueError):
        pass
    raise UserError(
        f"config.data.{name} is {value!r}; it must be three numbers, of pixels in 0..1, e.g. (0.5, 0.5, 0.5)"
    )


def _read_class_weights(value: Any) -> str | tuple[tuple[str, float], ...]:
    """Returns a word, or the pairs of a table; data sets without class names have numbers for names."""
    if isinstance(value, str):
        return value
    pairs = _read_pairs(value.items() if isinstance(value, dict) else value, str)
    names = [name for name, _ in pairs or ()]
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"config.data.class_weights is {value!r}; it must be none, balanced, or a table with one "
            "weight for each class that it names, e.g. {'cat': 2.0}"
        )
    return pairs or ()


def _read_schedule(table: dict[str, Any]) -> Schedule:
    fields = _checked(table, Schedule, "config.schedule")
    fields["knots"] = _read_pairs(table["knots"], float)
    if fields["knots"] is None:
        raise UserError(
            f"config.schedule.knots is {table['knots']!r}; it must be pairs (share of the run, share of the "
            "peak), e.g. ((0.0, 0.0), (0.2, 1.0), (1.0, 0.0))"
        )
    return Schedule(**fields)


def _read_pairs(value: Any, first: type) -> tuple[tuple[Any, float], ...] | None:
    """Returns pairs of a ``first`` and a number as tuples, which JSON has as lists; None if they are none."""
    try:
        return tuple((first(one), float(other)) for one, other in value)
    except (TypeError, ValueError):
        return None


def _read_phase(name: str, table: Any) -> PhaseSettings:
    path = f"config.phases.{name}"
    if not isinstance(table, dict):
        raise UserError(
            f"{path} is {table!r}; it must be a table with from_epoch and what the phase changes: "
            "add one to the config file"
        )
    known = [field.name for field in dataclasses.fields(PhaseSettings) if field.name != "name"]
    _require_known(table, known, path)
    if table.get("from_epoch") is None:
        raise UserError(f"{path}.from_epoch is missing; add it to the config file")
    return PhaseSettings(name, **table)


def _read_optimizer(table: dict[str, Any]) -> Hyperparameters:
    name = table.get("name", "")
    if name not in OPTIMIZERS:
        raise UserError(f"config.optimizer.name='{name}' is unknown{did_you_mean(name, OPTIMIZERS)}")
    if name not in table:
        raise UserError(
            f"config.optimizer has no table '{name}'; add its hyper-parameters to the config file"
        )
    optimizer = OPTIMIZERS[name]
    return optimizer(**_checked(table[name], optimizer, f"config.optimizer.{name}"))


def read_init(table: dict[str, Any]) -> InitSettings:
    """Returns ``config.init`` in its typed form; raises UserError."""
    fields = _checked(table, InitSettings, "config.init")
    frozen = _read_words(fields["frozen"], "config.init.frozen", "('stem', 'block1')")
    factors = _read_pairs(fields["lr_factors"], str)
    if factors is None:
        raise UserError(
            f"config.init.lr_factors is {fields['lr_factors']!r}; it must be pairs (layer, factor), e.g. "
            "(('', 0.1), ('classifier', 1.0))"
        )
    return InitSettings(**fields | {"frozen": frozen, "lr_factors": factors})


def _read_words(value: Any, field: str, example: str) -> tuple[str, ...]:
    """Returns the words of a field as a tuple; one word, or an empty text for none, may stand alone."""
    words = (value,) if isinstance(value, str) else value
    if not isinstance(words, tuple | list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{field} is {value!r}; it must be words in quotes, e.g. {example}")
    return () if value == "" else tuple(words)
