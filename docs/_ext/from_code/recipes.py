"""The recipes in configs/: their docstrings, their rows, and the fields that they set."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from efficientnet_pod.recipe import named
from efficientnet_pod.recipe.base_config import base_config
from efficientnet_pod.workdir.values import flatten

PUBLISHED = "published: "  # begins a note


class Row(NamedTuple):
    """A recipe: one file of configs/ with one argument.

    Attributes:
      file: e.g. ``imagenet.py``.
      argument: e.g. ``b0,autoaugment``; empty for a file with one recipe.
      fields: all values by dotted names, without those of phases.
      phases: tables of the phases.
    """

    file: str
    argument: str
    fields: dict[str, Any]
    phases: dict[str, dict[str, Any]]

    @property
    def flag(self) -> str:
        """The value of ``--config`` that names it."""
        return f"configs/{self.file}" + (f":{self.argument}" if self.argument else "")


@cache
def all_rows() -> list[Row]:
    """Returns the rows of all files, in alphabetical order of the files, each file's default first."""
    return [row_of(name, argument) for name in named.names() for argument in named.about(name).rows or [""]]


def row_of(name: str, argument: str) -> Row:
    """Returns one row of a recipe."""
    table = named.config_of(name, argument)
    phases = table.pop("phases")
    return Row(f"{name}.py", argument, dict(flatten(table)), phases)


def name_of(file: str) -> str:
    """Returns the name of a recipe's page."""
    return file.removesuffix(".py")


def docstring(name: str) -> tuple[str, str, list[str]]:
    """Returns the first sentence of a recipe's file, what follows it, and the commands in it."""
    title, _, rest = named.about(name).text.partition("\n\n")
    shown = re.compile(r"[^.:]*: (efficientnet-pod (?:train|preflight) --\S+(?:\s+--\S+)*)")
    commands = [" ".join(command.split()) for command in shown.findall(rest)]
    text = " ".join(shown.sub("", rest).split())
    return " ".join(title.split()), text.replace("``", "`"), commands


def recipe(name: str) -> str:
    """Returns the page of a recipe's file: docstring, commands, rows, published figures, what it sets."""
    title, text, commands = docstring(name)
    rows = [row for row in all_rows() if name_of(row.file) == name]
    lines = [title, "", _code(text), "", "## Commands", ""]
    lines += [line for command in commands for line in ("```", command, "```", "")]
    lines += ["## Rows", "", *_rows(rows), ""]
    of_note = _notes(rows)
    published = {note: words for note, words in of_note.items() if note.startswith(PUBLISHED)}
    if published:
        lines += ["## Published figures", "", "They are those of the source, not ours.", ""]
        lines += ["| row | published |", "|---|---|"]
        for note, arguments in published.items():
            lines.append(f"| {_words(arguments)} | {note.removeprefix(PUBLISHED)} |")
    if notes := {note: words for note, words in of_note.items() if note not in published}:
        lines += ["", "## Where the numbers come from", "", "The plan prints these notes at the start.", ""]
        for note, arguments in notes.items():
            where = "" if len(arguments) == len(rows) else f"{_words(arguments)}: "
            lines.append(f"- {where}{_code(note)}")
    lines += ["", "## What it sets", ""]
    lines += ["Every other field has [its default](../reference/config.md).", ""]
    lines += ["| field | value |", "|---|---|", *(f"| `{field}` | {value} |" for field, value in _set(rows))]
    return "\n".join(lines) + "\n"


def _rows(rows: list[Row]) -> list[str]:
    """Returns a table of the rows; rows that differ in none of its columns share a line."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        fields = row.fields
        facts = (f"`{fields['model.name']}`", f"{fields['global_batch']:,}", f"{fields['epochs']:g}")
        alike.setdefault((*facts, fields["optimizer.name"]), []).append(row.argument)
    lines = ["| row | network | images a step | epochs | optimizer |", "|---|---|---|---|---|"]
    for facts, arguments in alike.items():
        lines.append(f"| {_words(arguments)} | {' | '.join(facts)} |")
    return [*lines, "", f"A row follows the file's name: `--config={rows[0].flag}`."]


def all_recipes() -> str:
    """Returns a table of all files, each with a link to its page and its first sentence."""
    lines = ["| recipe | what it is |", "|---|---|"]
    lines += [f"| [`{name}.py`]({name}.md) | {docstring(name)[0]} |" for name in named.names()]
    return "\n".join(lines) + "\n"


def _notes(rows: list[Row]) -> dict[str, list[str]]:
    """Returns each note with the rows that have it."""
    of_note: dict[str, list[str]] = {}
    for row in rows:
        for note in row.fields["notes"]:
            of_note.setdefault(note, []).append(row.argument)
    return of_note


def _code(text: str) -> str:
    """Returns a text whose flags are set as code, and whose records are links."""
    text = re.sub(r"(?<![\w/])(records/\w+\.md)", r"[\1](../../\1)", text)
    return re.sub(r"(?<![`\w])(--config[.=](?:[^\s;)\"]*\"[^\"]*\"|[^\s;)]*[^\s;).,]))", r"`\1`", text)


def _set(rows: list[Row]) -> Iterator[tuple[str, str]]:
    """Yields the fields that the rows set, and their values; of several values, each with its rows."""
    neutral = dict(flatten(base_config().to_dict()))
    for field, default in neutral.items():
        values: dict[str, list[str]] = {}
        for row in rows:
            values.setdefault(_shown(row.fields.get(field, default)), []).append(row.argument)
        if field == "notes" or set(values) == {_shown(default)}:
            continue
        yield field, _each(values, len(rows))
    for row in rows:
        for name, phase in row.phases.items():
            shown = ", ".join(f"{field} {_shown(value)}" for field, value in phase.items())
            yield f"phases.{name}", (f"`:{row.argument}`: " if len(rows) > 1 else "") + shown


def _each(values: dict[str, list[str]], number: int) -> str:
    if len(values) == 1:
        return next(iter(values))
    common, arguments = max(values.items(), key=lambda pair: len(pair[1]))
    if len(arguments) > number / 2 or len(arguments) > 3:
        others = {value: words for value, words in values.items() if value != common}
        words = "; ".join(f"{value} for {_words(words)}" for value, words in others.items())
        return f"{common}; {words}"
    return "; ".join(f"{value} for {_words(words)}" for value, words in values.items())


def _words(arguments: list[str]) -> str:
    return ", ".join(f"`:{word}`" if word else "the file alone" for word in arguments)


def _shown(value: Any) -> str:
    return f"`{value:,}`" if isinstance(value, int) and not isinstance(value, bool) else f"`{value!r}`"
