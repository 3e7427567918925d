"""The recipes that come with the trainer, found by their names wherever it is installed."""

import importlib.util
import re
from pathlib import Path
from typing import Any, NamedTuple

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.recipe.base_config import UnknownRowError


class About(NamedTuple):
    """A recipe's file in its own words.

    Attributes:
      name: name of the file, without its ending.
      title: first sentence.
      text: its whole docstring.
      parts: what stands behind ``Source:``, ``Machine:`` and ``Command:``, by these words; one line each.
      rows: words that may stand behind the name, as in ``supercomputer:b5,65536``; the default comes first.
    """

    name: str
    title: str
    text: str
    parts: dict[str, str]
    rows: tuple[str, ...]


def folder() -> Path:
    """Returns the folder of the recipes: ``configs/`` in an installed package, or next to its source code."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """Returns the names of all recipes, in order."""
    return sorted(path.stem for path in folder().glob("[a-z]*.py"))


def file_of(name: str) -> Path:
    """Returns the file of a recipe.

    Raises:
      UserError: there is none of this name; the message has the nearest.
    """
    if name not in names():
        raise UserError(f"no recipe '{name}'{did_you_mean(name, names())}")
    return folder() / f"{name}.py"


def as_file(config: str) -> str:
    """Returns ``FILE.py[:ROW]`` for ``NAME[:ROW]``; anything that looks like a path stays as it is.

    Raises:
      UserError: there is neither such a recipe nor such a file.
    """
    name, colon, row = config.partition(":")
    if not re.fullmatch(r"\w+", name) or Path(name).exists():
        return config
    return f"{file_of(name)}{colon}{row}"


def config_of(name: str, row: str = "") -> dict[str, Any]:
    """Returns the config of a row of a recipe, of its default without one, as plain nested tables.

    Raises:
      UserError: there is no such recipe, or it has no such row.
    """
    try:
        return _module(name).get_config(*([row] if row else [])).to_dict()
    except UnknownRowError as error:
        raise UserError(f"{name}: {error}") from error


def about(name: str) -> About:
    """Returns what the file of a recipe says of itself; it is imported, which reads ml_collections alone.

    Raises:
      UserError: there is none of this name.
    """
    module = _module(name)
    text = (module.__doc__ or "").strip()
    parts = {
        word: " ".join(found[1].split()).rstrip(".")
        for word in ("Source", "Machine", "Command")
        if (
            found := re.search(
                rf"\b{word}: (.*?)(?=\n\w[^\n:]*: |\s\b(?:Machine|Command): |\Z)", text, re.DOTALL
            )
        )
    }
    return About(name, text.splitlines()[0].rstrip("."), text, parts, _rows(module))


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, file_of(name))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows(module: Any) -> tuple[str, ...]:
    """Returns the rows of a recipe, its default first; none where it takes no words."""
    default = (module.get_config.__defaults__ or ("",))[0]
    try:
        module.get_config("no such row")
    except UnknownRowError as error:
        return (default, *(row for row in error.known if row != default))
    except TypeError:
        return ()
    raise AssertionError(f"the recipe {module.__name__} takes any row")
