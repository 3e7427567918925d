"""Every lesson of docs/tutorials is run from its own text; it prints what the page shows."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import lessons
import pytest
from launch_jobs import repository, tiny_python

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = [page for page in sorted(TUTORIALS.glob("*.md")) if page.name != "index.md"]
NOTEBOOKS = [page for page in PAGES if lessons.is_notebook(page)]
IN_THE_REPOSITORY = ("pod",)  # begins in a clone, all other lessons in an empty folder
LIMIT_SECONDS = 1800  # of the longest lesson, on a busy machine
# All that is replaced, and only in the quick run: networks have one block, and a step takes so many seconds
# more, so that a signal comes in the middle of the run.
QUICK = {"resumed": 0.05}


def run(page: Path, folder: Path, *words: str) -> tuple[int, str]:
    """Returns exit code and output of docs/lesson.py in a new folder; nothing that it started is left."""
    command = [sys.executable, str(ROOT / "docs" / "lesson.py"), str(page), *words]
    if page.stem in IN_THE_REPOSITORY:
        folder = repository(folder)
    else:
        folder.mkdir()
    environment = os.environ | {"EFFICIENTNET_POD_JOBS": str(folder.parent / "jobs")}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=LIMIT_SECONDS)
        finally:
            _end(process.pid, folder.parent / "jobs" / "fake" / "service.json")
    return process.returncode, printed


def _end(leader: int, service: Path) -> None:
    """Ends a group of processes, and the rehearsal's service, which is none of it."""
    if service.exists():
        os.kill(json.loads(service.read_text())["pid"], signal.SIGTERM)
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in QUICK], ids=lambda page: page.stem)
def test_a_lesson_goes_as_its_page_says(page, tmp_path):
    python = tiny_python(tmp_path, tmp_path, step_seconds=QUICK[page.stem])
    program = tmp_path / "programs" / "efficientnet-pod"
    program.parent.mkdir()
    program.write_text(f'#!/bin/bash\nexec {python} -m efficientnet_pod "$@"\n')
    program.chmod(0o755)
    code, printed = run(page, tmp_path / "lesson", f"--programs={program.parent}")
    print(printed)  # for who runs it with -rP
    assert code == 0, printed


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_lesson_goes_as_its_page_says_in_full_size(page, tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")  # the tests' own, which compile quickly what runs slowly
    code, printed = run(page, tmp_path / "lesson")
    print(printed)
    assert code == 0, printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_a_lesson_with_steps_that_are_run(page):
    steps = lessons.steps_of(page.read_text())
    assert any(not step.not_run for step in steps)
    shown = [step for step in steps if step.picture and step.kind == "python"]
    assert all((TUTORIALS / step.picture).stat().st_size <= 60_000 for step in shown)


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_the_notebook_of_a_page_is_up_to_date(page):
    notebook = page.with_suffix(".ipynb").read_text()
    assert notebook == lessons.notebook_of(page.read_text()), f"run docs/lesson.py {page} --keep"


def test_jupyter_takes_the_notebooks():
    nbformat = pytest.importorskip("nbformat", reason="needs Jupyter's own reader")
    for page in NOTEBOOKS:
        nbformat.validate(json.loads(page.with_suffix(".ipynb").read_text()))


LESSON = """# A lesson

```
echo one; echo two
```
```text
one
…
```

<!-- not run: it costs money -->
```
false
```

```python
x = 2
print("x is", x)
x + 1
```

```text
x is …
3
```
"""


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", ""),
        ("\none\n…", "\n…\ntwo\n…", ""),
        ("\none\n…", "\none\ntwo\nthree", "the page shows another output"),
        ("\n3\n", "\n4\n", "the page shows another output"),
        ("echo two", "exit 3", "exit code 3"),
        ("<!-- not run: it costs money -->", "", "exit code 1"),
        ("x + 1", "x + y", "NameError"),
        ("x + 1", "exit()", "SystemExit"),
        ("x + 1", "import matplotlib.pyplot as plt\nplt.figure()\nx + 1", "draws 1 figures"),
    ],
)
def test_a_page_that_lies_is_found(old, new, fault, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(LESSON.replace(old, new))
    code, printed = run(page, tmp_path / "lesson")
    assert code == bool(fault), printed
    assert fault in printed


def test_an_output_without_a_step_is_refused():
    behind_unrun = LESSON.replace("false\n```", "false\n```\n```text\nx\n```")
    for page in (behind_unrun, "```text\nx\n```"):
        with pytest.raises(ValueError, match="right behind a step"):
            lessons.steps_of(page)
