"""What a person sees while a run runs: plain lines, and below them on a terminal a bar with the time left."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import Progress

from efficientnet_pod.pod import terminal


class Display:
    """Prints for one host; silent on the others. A context manager."""

    def __init__(self, *, total_steps: int, silent: bool, console: Console | None = None):
        """Prepares the bar; nothing is printed yet. The console is by default standard output."""
        self.console = console or terminal.console(quiet=silent)
        is_off = silent or not self.console.is_terminal
        self._bar = Progress(*terminal.bar_columns(), console=self.console, disable=is_off)
        self._task = self._bar.add_task("training", total=total_steps, rate="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def print(self, *what: RenderableType) -> None:
        """Prints above the bar."""
        self.console.print(*what)

    def warn(self, line: str) -> None:
        """Prints a line above the bar, on the host it concerns; standard error where this host is silent."""
        if self.console.quiet:
            print(line, file=sys.stderr)
        else:
            self.console.print(line, style="yellow")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Shows what is going on that is not training, and for how many seconds."""
        self._bar.update(self._task, description=name, since=time.monotonic())
        yield
        self._bar.update(self._task, description="training", since=None)

    def begin_at(self, step: int) -> None:
        """Puts the bar where the training begins; the steps done before say nothing of its speed."""
        self._bar.reset(self._task, completed=step, description="training", rate="")

    def advance(self, step: int, *, images_per_second: float | None) -> None:
        """Moves the bar."""
        rate = f"{images_per_second:,.0f} images/s" if images_per_second else ""
        self._bar.update(self._task, completed=step, rate=rate)
