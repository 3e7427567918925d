"""Runs a lesson of docs/tutorials in the current folder, from the page's own text.

    python REPOSITORY/docs/lesson.py REPOSITORY/docs/tutorials/resumed.md

Each step must succeed and print what the page shows. ``--keep`` writes the figures of the page, and the page
as a notebook, beside it.
"""

import argparse
import ast
import io
import os
import shutil
import subprocess
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

from lessons import Step, is_notebook, is_shown, notebook_of, steps_of  # noqa: E402


def main() -> int:
    """Prints a line for each step; returns 0 if all went as the page says, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--keep", action="store_true", help="write figures and notebook beside the page")
    parser.add_argument("--programs", type=Path, help="a folder whose programs come before all others")
    flags = parser.parse_args()
    if not flags.page.is_file():
        parser.error(f"there is no page {str(flags.page)!r}; give one of docs/tutorials")
    page = flags.page.read_text("utf-8")
    # `python` and `efficientnet-pod` of the page are those of this Python and of this repository.
    first = [str(folder) for folder in (flags.programs, Path(sys.executable).parent) if folder]
    os.environ["PATH"] = os.pathsep.join([*first, os.environ["PATH"]])
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    os.environ["MPLBACKEND"] = "agg"
    names: dict[str, Any] = {"__name__": "__main__"}
    began = time.monotonic()
    for step in steps_of(page):
        title = f"{flags.page.name}:{step.line}: {step.code.splitlines()[0][:90]}"
        if step.not_run:
            print(f"not run ({step.not_run}): {title}", flush=True)
            continue
        start = time.monotonic()
        printed, fault = run_step(step, names, flags.page.parent if flags.keep else Path())
        if not fault and step.output is not None and not is_shown(step.output, printed):
            fault = f"the page shows another output:\n{step.output}"
        if fault:
            print(f"FAILED: {title}\n{fault}\nIt printed:\n{printed}", flush=True)
            return 1
        print(f"{time.monotonic() - start:6.1f} s  {title}", flush=True)
    print(f"{time.monotonic() - began:6.1f} s  in all", flush=True)
    if flags.keep and is_notebook(flags.page):
        flags.page.with_suffix(".ipynb").write_text(notebook_of(page), "utf-8")
    return 0


def run_step(step: Step, names: dict[str, Any], pictures: Path) -> tuple[str, str]:
    """Returns what a step printed, and why it failed; the latter is empty if it did not."""
    if step.kind == "shell":
        command = ["bash", "-e", "-c", step.code]
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return ended.stdout, f"exit code {ended.returncode}" if ended.returncode else ""
    stream = io.StringIO()
    with redirect_stdout(stream), redirect_stderr(stream):
        try:
            _run_cell(step.code, names)
            fault = _keep_figures(step, pictures)
        except (Exception, SystemExit):
            fault = traceback.format_exc(limit=-3)
    return stream.getvalue(), fault


def _run_cell(code: str, names: dict[str, Any]) -> None:
    """Runs a cell as a notebook does: the value of its last expression is shown."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        if value is not None:
            print(repr(value))


def _keep_figures(step: Step, folder: Path) -> str:
    """Writes the figure that a cell has drawn into a folder, and closes it; returns what is wrong with it."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    numbers = pyplot.get_fignums() if pyplot else []
    if len(numbers) != bool(step.picture):
        return f"the cell draws {len(numbers)} figures, and the page shows {step.picture}"
    if pyplot and step.picture:
        pyplot.figure(numbers[0]).savefig(folder / step.picture, metadata={"Date": None})
        pyplot.close("all")
    return ""


if __name__ == "__main__":
    if not shutil.which("bash"):
        sys.exit("lesson: the steps of a lesson need bash")
    sys.exit(main())
