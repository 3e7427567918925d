"""The lessons of docs/tutorials: what a page lets its reader run, and what it shows of the output.

A block without a language has commands of the shell, one a line; a block ``python`` is a cell of a notebook.
A block ``text`` right behind is what it prints, where ``…`` stands for any text within a line, and a line of
its own for any lines. A picture right behind is the figure that the cell draws. A comment
``<!-- not run: REASON -->`` in front of a block says why nobody runs it but the reader.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

FENCE = re.compile(r"^( *)```(.*)\n([\s\S]*?)\n?^\1```$", re.MULTILINE)  # indent, language, text
_NOT_RUN = re.compile(r"^<!-- not run: (.+?) -->$(?=\s*\Z|\s*^```)", re.MULTILINE)
_PICTURE = re.compile(r"\s*!\[[^\]]*\]\(([^)]+)\)")
ANY = "…"


class Step(NamedTuple):
    """One block of a lesson.

    Attributes:
      kind: ``shell`` or ``python``.
      code: the block's text.
      line: its number in the page.
      output: what the page shows of its output; None: nothing.
      picture: file of the figure that the page shows, relative to the page; None: none.
      not_run: why only the reader runs it; empty for steps that the tests run.
    """

    kind: str
    code: str
    line: int
    output: str | None = None
    picture: str | None = None
    not_run: str = ""


def steps_of(page: str) -> list[Step]:
    """Returns the steps of a page in their order.

    Raises:
      ValueError: an output belongs to no step, or to one that is not run.
    """
    steps: list[Step] = []
    end = 0
    for fence in FENCE.finditer(page):
        kind, body, line = fence[2], fence[3], page.count("\n", 0, fence.start()) + 1
        before = page[end : fence.start()]
        picture = _PICTURE.match(page, fence.end())
        drawn = picture[1] if picture else None
        if kind == "text":
            if not steps or before.strip() or steps[-1].output is not None or steps[-1].not_run:
                raise ValueError(f"line {line}: this output is not right behind a step that is run")
            steps[-1] = steps[-1]._replace(output=body, picture=drawn)
        elif kind in ("", "python"):
            not_run = _NOT_RUN.search(before)
            reason = not_run[1] if not_run else ""
            steps.append(Step("python" if kind else "shell", body, line, None, drawn, reason))
        else:
            continue
        end = fence.end()
    return steps


def with_reasons(page: str) -> str:
    """Returns a page on which a reader sees why tests leave steps out."""
    return _NOT_RUN.sub(r"*Not run by our tests: \1.*", page)


def is_shown(output: str, printed: str) -> bool:
    """Returns whether a page's output is what was printed; spaces at the ends of lines do not count."""
    pattern = ""
    for line in _lines(output):
        part = ".*".join(map(re.escape, line.split(ANY))) + "\n"
        pattern += r"(?:.*\n)*" if line.strip() == ANY else part
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(printed))) is not None


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def notebook_of(page: str) -> str:
    """Returns a lesson as a Jupyter notebook, nbformat 4.5; lines of the shell begin with ``!``."""
    steps, cells, end = {step.line: step for step in steps_of(page)}, [], 0
    for fence in FENCE.finditer(page):
        step = steps.get(page.count("\n", 0, fence.start()) + 1)
        if step or fence[2] == "text":
            cells.append(
                {"cell_type": "markdown", "metadata": {}, "source": page[end : fence.start()].strip()}
            )
            end = fence.end()
        if step:
            code = step.code if step.kind == "python" else re.sub("^", "!", step.code, flags=re.MULTILINE)
            shown = {"name": "stdout", "output_type": "stream", "text": f"{step.output}\n"}
            outputs = [shown] if step.output else []
            cells.append({"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": outputs})
            cells[-1]["source"] = code
    cells.append({"cell_type": "markdown", "metadata": {}, "source": page[end:].strip()})
    cells = [{"id": f"cell-{number}", **cell} for number, cell in enumerate(c for c in cells if c["source"])]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata: dict[str, Any] = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def is_notebook(page: Path) -> bool:
    """Returns whether a page is offered as a notebook, too: it has a link to it."""
    return f"({page.stem}.ipynb)" in page.read_text("utf-8")
