"""The command ``recipes``: a list of the recipes that come with the trainer, and copies to edit."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from efficientnet_pod.cli.flags import parse_flags
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import console
from efficientnet_pod.recipe.named import about, file_of, names
from efficientnet_pod.workdir.files import require_output


def run_recipes(arguments: Sequence[str]) -> None:
    """Lists the recipes; or prints one, or copies it."""
    words: list[str] = []
    values = parse_flags("recipes", arguments, _define, words=words)
    if len(words) > 1:
        raise UserError(f"recipes takes the name of one, not {' '.join(words)}; give one")
    if not words:
        if values.copy:
            raise UserError("--copy needs the name of a recipe, e.g. recipes digits --copy=my_recipe.py")
        _list()
        return
    name = words[0].removesuffix(".py").rpartition("/")[2]
    if values.copy:
        _copy(name, Path(values.copy))
        return
    found = about(name)
    print(found.text)
    if found.rows:
        print(f"\nrows (--config={name}:ROW), the default first:\n  " + "\n  ".join(found.rows))


def _list() -> None:
    out = console()
    for found in map(about, names()):
        row = f":{found.rows[0]}" if found.rows else ""
        others = f", {len(found.rows) - 1} other rows" if len(found.rows) > 1 else ""
        out.print(f"{found.name}{row}{others}", markup=False, highlight=False)
        for text in (
            found.title,
            *(f"{word}: {found.parts[word]}" for word in found.parts if word != "Command"),
        ):
            out.print(f"  {text}", markup=False, highlight=False, overflow="ellipsis", no_wrap=True)
    out.print(
        "\nefficientnet-pod recipes NAME prints all of one; --copy=FILE copies it to be edited", markup=False
    )


def _copy(name: str, path: Path) -> None:
    """Copies a recipe; nothing is overwritten."""
    if path.suffix != ".py":
        raise UserError(f"--copy={path} must be the name of a Python file, e.g. --copy=my_recipe.py")
    if path.exists():
        raise UserError(f"--copy={path} is there already; name another file, or remove it")
    require_output(str(path), "--copy")
    shutil.copyfile(file_of(name), path)
    command = f"efficientnet-pod train --config={path} --workdir=runs/{path.stem}"
    print(f"{path} is a copy of the recipe {name}; train it: {command}")


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("copy", None, "File to write a copy of the recipe to.", flag_values=values)
