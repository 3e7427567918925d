"""The fields of a recipe: type, neutral value, range, meaning, and what the recipes in configs/ set."""

from functools import cache
from typing import Any

from efficientnet_pod.cli.help import without_limit
from efficientnet_pod.optim.ranges import Choices
from efficientnet_pod.recipe.base_config import base_config
from efficientnet_pod.recipe.fields import PHASE, Field, all_fields
from efficientnet_pod.recipe.recipe import FREE, RESOLVED, restart_fields
from efficientnet_pod.workdir.values import flatten
from from_code.commands import sentence
from from_code.links import slug
from from_code.recipes import Row, all_rows, name_of

TABLES = ("run", "model", "data", "optimizer", "schedule", "phases", "init", "stop")
_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text", tuple: "list"}
# What the definition of a field cannot say of its type.
_TYPE_OF = {
    "replicas": "whole number, or `auto`",
    "data.class_weights": "`none`, `balanced`, or a table of numbers by class",
}
# What a reader of the site wants to know besides.
MORE = {
    "model.name": "The names are those of the published networks; `lite` has no squeeze-and-excitation.",
    "model.dropout": "It is the share of features that dropout sets to 0.",
    "model.survival_probability": "A block of the network is skipped with the rest of the probability.",
    "model.bn_epsilon": "It keeps batch norm from dividing by 0.",
    "ema_decay": "Averaged weights follow the weights slowly. By default evaluation and export take them.",
    "label_smoothing": "It is the share of each label that is spread over all classes.",
    "data.cutout": "The square is laid on a random place of each training image.",
    "schedule.power": "2 is a parabola, 1 a straight line.",
    "schedule.decay_rate": "The learning rate is multiplied by it every `schedule.decay_epochs`.",
    "bn_group_size": "More replicas in a group are steadier statistics and a little more communication.",
    "data.name": "Others are `tfrecord:/path`, ImageNet as tensorflow/tpu writes it, and `prepared:/path`, a "
    "folder with the metadata of TFDS; `parquet:/path` and `hf:OWNER/NAME`, Hugging Face's data sets; "
    "`tar:/path`, webdataset's shards; `imagenet-tars:/path` and `kaggle:/path`, ImageNet downloaded.",
    "data.resize": "`reference` is the released bicubic kernel. `bilinear` is the other one of TensorFlow 1. "
    "`fast` takes less time and is nearer to an antialiased resize, in other pixels.",
    "data.augment": "`inception_crop` takes a random crop of random shape and mirrors half of the images. "
    "`pad_crop_flip` pads by `max_shift` and crops, as for CIFAR-10. `shift` only moves the image.",
    "data.policy": "A policy changes colours and geometry after the crop.",
    "data.eval_crop": "`rectangular` takes crops of shapes near those of the images, sorted by aspect ratio.",
    "schedule.name": "`piecewise` follows `schedule.knots` and has no warm-up of its own.",
    "optimizer.name": "The tables of the other optimizers have no effect.",
    "platform": "An accelerator that is asked for and is not there is an error. There is no silent change to "
    "the CPU.",
}
_MOST_VALUES = 4  # that are listed one by one


@cache
def fields_of(table: str) -> list[Field]:
    """Returns the fields of one table of a config; ``run`` has those that stand in no table."""
    return [field for field in all_fields() if table_of(field) == table]


def table_of(field: Field) -> str:
    """Returns the table that a field stands in."""
    table, _, rest = field.name.partition(".")
    return table if rest else "run"


def table(name: str) -> str:
    """Returns the reference of the fields of one table."""
    return "\n".join(map(entry, fields_of(name)))


def entry(field: Field) -> str:
    """Returns the reference of one field: a heading, its meaning, its facts."""
    facts = [f"**Type:** {type_of(field)}"]
    if not field.name.startswith(PHASE):
        facts.append(f"**Default:** `{neutral(field)!r}`")
    if field.allowed:
        facts.append(f"**Allowed:** {allowed(field)}")
    if field.condition:
        words = " or ".join(field.condition.words) or "not 0"
        facts.append(f"**Condition:** read only if `config.{field.condition.field}` is {words}")
    facts += [f"**At a restart:** {restart(field)}", f"**Recipes:** {set_by(field)}"]
    lines = [f"### `{field.name}`", "", meaning(field), ""]
    return "\n".join([*lines, *(f"- {fact}" for fact in facts), ""])


def meaning(field: Field) -> str:
    """Returns what a field means; empty if nothing says it."""
    name = field.name.removeprefix(f"{PHASE}.")
    if field.about:
        return " ".join(
            part for part in (sentence(field.about.replace("``", "`")), MORE.get(field.name)) if part
        )
    same = [other for other in all_fields() if other.name.rpartition(".")[2] == name and other is not field]
    same = [other for other in same if not other.name.startswith(PHASE)]
    if name == field.name or not same:
        return ""
    return f"[`{same[0].name}`](#{slug(same[0].name)}) in this phase. A phase without it keeps the recipe's."


def neutral(field: Field) -> Any:
    """Returns the value of a field in a config that sets nothing; None for those of phases."""
    return dict(flatten(base_config().to_dict())).get(field.name)


def type_of(field: Field) -> str:
    """Returns the type of a field, for people."""
    name = field.name.removeprefix(f"{PHASE}.")
    if name in _TYPE_OF:
        return _TYPE_OF[name]
    values = dict(flatten(base_config().to_dict()))
    known = next((values[key] for key in (name, f"model.{name}", f"data.{name}") if key in values), 0.0)
    return _TYPES[type(known)]


def allowed(field: Field) -> str:
    """Returns the values that a field may have, for people."""
    if isinstance(field.allowed, Choices):
        return ", ".join(f"`{word}`" for word in field.allowed.words)
    each = "each number " if type_of(field) == "list" else ""
    return each + without_limit(str(field.allowed))


@cache
def _marked() -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(restart_fields(FREE)), frozenset(restart_fields(RESOLVED))


def restart(field: Field) -> str:
    """Returns whether a field may change between two starts of one run."""
    free, resolved = _marked()
    if field.name in free:
        return "may change"
    if field.name in resolved:
        return "may change if the plan stays the same"
    return "must stay as it is"


def set_by(field: Field) -> str:
    """Returns which recipes set a field to another value than the neutral one, and to what."""
    values: dict[str, list[Row]] = {}
    for row in all_rows():
        for value in _values_in(row, field):
            if value != neutral(field):
                values.setdefault(repr(value), []).append(row)
    if field.name == "notes":
        return "each has its own"
    if not values:
        return "none sets it"
    if len(values) <= _MOST_VALUES:
        return "; ".join(f"`{value}` in {names(rows)}" for value, rows in values.items())
    used = {row.file: row for rows in values.values() for row in rows}
    files = ", ".join(map(link, sorted(used)))
    numbers = sorted({float(value) for value in values if value.replace(".", "").replace("e-", "").isdigit()})
    if len(numbers) == len(values):
        return f"`{numbers[0]:,g}` to `{numbers[-1]:,g}` in {files}"
    return f"{len(values)} values in {files}"


def names(rows: list[Row]) -> str:
    """Returns the recipes of rows, as links; the rows are named where the others of the file differ."""
    by_file: dict[str, list[Row]] = {}
    for row in rows:
        by_file.setdefault(row.file, []).append(row)
    words = []
    for file, of_file in by_file.items():
        whole = len({row.argument for row in of_file}) == sum(row.file == file for row in all_rows())
        arguments = list(dict.fromkeys(row.argument for row in of_file))
        shown = "" if whole else " (" + ", ".join(f"`:{word}`" for word in arguments[:3])
        shown += "" if whole else f" and {len(arguments) - 3} more)" if len(arguments) > 3 else ")"
        words.append(link(file) + shown)
    return ", ".join(words)


def link(file: str) -> str:
    """Returns a link to the page of a recipe."""
    return f"[{name_of(file)}](../recipes/{name_of(file)}.md)"


def _values_in(row: Row, field: Field) -> list[Any]:
    if not field.name.startswith(PHASE):
        return [row.fields[field.name]] if field.name in row.fields else []
    name = field.name.removeprefix(f"{PHASE}.")
    return [phase[name] for phase in row.phases.values() if name in phase]
