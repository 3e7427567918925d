"""Checks the documents without building the site: every link leads somewhere, every command can be parsed.

    python docs/check.py

It needs what the trainer needs, and no Sphinx. Commands are checked by name, flag and field. That their
recipes can be resolved is checked by tests/test_documents.py.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

from from_code import expand, links  # noqa: E402
from from_code.commands import TRAINER, all_commands  # noqa: E402
from lessons import FENCE  # noqa: E402

from efficientnet_pod.recipe.fields import PHASE, all_fields  # noqa: E402


def main() -> int:
    """Prints every fault; returns 1 if there is one, else 0."""
    faults = [*faulty_links(), *faulty_commands()]
    print("\n".join(faults) or "the documents' links and commands are well")
    return int(bool(faults))


def documents() -> dict[Path, str]:
    """Returns the documents with the parts that come from the code."""
    paths = [links.ROOT / "README.md", links.ROOT / "CONTRIBUTING.md", *sorted(links.DOCS.rglob("*.md"))]
    return {path: expand(path.read_text("utf-8")) for path in paths}


def faulty_links() -> Iterator[str]:
    """Yields a line for each link to a page, an anchor or a file that is not there."""
    pages = documents()
    anchors = {path: links.anchors_of(page) for path, page in pages.items()}
    for path, page in pages.items():
        for target in links.broken(page, path, anchors):
            yield f"{path.relative_to(links.ROOT)}: the link {target} leads nowhere"


def faulty_commands() -> Iterator[str]:
    """Yields a line for each command in a block of a page that has an unknown name, flag or field."""
    for path in sorted(links.DOCS.rglob("*.md")):
        for _, kind, block in FENCE.findall(expand(path.read_text("utf-8"))):
            lines = [] if kind else block.splitlines()
            shown = [line.strip()[2:] for line in lines if line.strip().startswith("$ ")] or lines
            for line in shown:
                if fault := fault_of(line.strip()):
                    yield f"{path.relative_to(links.ROOT)}: {fault}: {line.strip()}"


def fault_of(line: str) -> str | None:
    """Returns why a command cannot be parsed; None if it can, or is of another program."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        return str(error)
    return _fault(words[1:]) if words[:1] == [TRAINER] else None


def _fault(words: list[str]) -> str | None:
    candidates = (" ".join(words[:length]) for length in (2, 1))
    name = next((candidate for candidate in candidates if candidate in all_commands()), None)
    if name is None:
        return "there is no such command"
    end = words.index("--") if "--" in words else len(words)
    behind = words[end + 1 :]
    if behind and name != "pod":
        behind = ["train", *behind]
    for word in words[:end]:
        flag, _, _ = word.partition("=")
        if flag.startswith("--") and not _is_known(flag, name):
            return f"{flag} is no flag of it"
    return _fault(behind) if behind else None


def _is_known(flag: str, name: str) -> bool:
    command, word = all_commands()[name], flag.removeprefix("--")
    if word.startswith("config."):
        known = {field.name for field in all_fields()}
        field = re.sub(r"^phases\.\w+", PHASE, word.removeprefix("config."))
        return command.takes_config and field in known
    if word == "config":
        return command.takes_config
    word = word.replace("-", "_")
    return word in command.values or word.removeprefix("no") in command.values


if __name__ == "__main__":
    sys.exit(main())
