"""Parts of the documentation that are made from the code when the site is built; a Sphinx extension.

A page asks for a part in a comment of its own line, such as ``<!-- from code: fields data -->``. The part is
Markdown. Nothing of it is stored, so that nothing of it is out of date.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lessons

from from_code import commands, fields, links, recipes
from from_code.drawings import DRAWINGS

MARK = re.compile(r"^<!-- from code: (\w+)(?: (.+?))? -->$", re.MULTILINE)
PARTS: dict[str, Callable[..., str]] = {
    "command": commands.command,
    "fields": fields.table,
    "recipe": recipes.recipe,
    "recipes": recipes.all_recipes,
    "drawing": lambda name: DRAWINGS[name](),
}


def expand(page: str) -> str:
    """Returns a page of Markdown with each comment replaced by the part that it asks for."""

    def part(match: re.Match[str]) -> str:
        name, argument = match.groups()
        return PARTS[name](argument) if argument else PARTS[name]()

    return MARK.sub(part, page)


def setup(app: Any) -> dict[str, Any]:
    """Registers the extension with Sphinx."""
    app.connect("source-read", _on_source_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _on_source_read(app: Any, name: str, source: list[str]) -> None:
    page = Path(app.srcdir) / f"{name}.md"
    source[0] = links.to_published(lessons.with_reasons(expand(source[0])), page, app.config.repository)
