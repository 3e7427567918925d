"""Ends a process that makes no progress: what it was doing, the stacks of all threads, exit code 1."""

import collections
import faulthandler
import os
import select
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_USUAL_STEPS = 101
_TIMES_USUAL = 10.0
_LAST_WORDS_SECONDS = 5.0


class Watchdog:
    """Ends this process when nothing has been done for ten usual steps, and at least a floor.

    A context manager. A thread looks once a second. What passes between two looks beyond that second was
    spent suspended (SIGSTOP, a laptop asleep) and does not count.

    Native code that is stuck and holds the interpreter's lock stops that thread too. For this there is a
    small process which expects a line from each look and else aborts this one, with the stacks.
    """

    def __init__(
        self,
        floor_seconds: float,
        *,
        report_folder: Path | None = None,
        on_stuck: Callable[[str], None] = lambda line: None,
    ):
        """Starts nothing yet.

        Args:
          floor_seconds: that must pass in any case; 0 for no watchdog.
          report_folder: gets a copy of the stacks, ``stuck-PID.txt``.
          on_stuck: gets the line that says what is stuck, before this process ends.
        """
        self._floor, self._report_folder, self._on_stuck = floor_seconds, report_folder, on_stuck
        self._interval = min(1.0, floor_seconds / 4)
        self._durations: collections.deque[float] = collections.deque(maxlen=_USUAL_STEPS)
        self._usual = 0.0
        self._doing = ["training"]
        self._paused = 0
        self._since = time.monotonic()
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._first_step = ExitStack()
        self._restore = ExitStack()

    def __enter__(self) -> Self:
        if self._floor:
            self.alive()
            guard = self._restore.enter_context(_start_guard())
            thread = threading.Thread(target=self._watch, args=(guard,), name="watchdog", daemon=True)
            thread.start()
            self._restore.callback(thread.join)
            self._restore.callback(self._left.set)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore.close()

    def await_first_step(self, *, however_long: bool) -> None:
        """Names what goes on until :meth:`step_ended`; with ``however_long`` it may take any time."""
        watched = self.paused if however_long else self.doing
        self._first_step.enter_context(watched("the first step"))

    def step_ended(self) -> None:
        """Takes note that a step is done. Its duration joins the usual ones, those of the last 101 steps."""
        self._first_step.close()
        with self._lock:
            now = time.monotonic()
            self._durations.append(now - self._since)
            self._usual = statistics.median(self._durations)
            self._since = now

    def alive(self) -> None:
        """Says that something was done which is no step: a batch of an evaluation, a save."""
        with self._lock:
            self._since = time.monotonic()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Names what is going on inside the context; to enter and to leave it is progress."""
        self._doing.append(what)
        self.alive()
        try:
            yield
        finally:
            self._doing.pop()
            self.alive()

    @contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """Lets what is going on inside the context take as long as it needs."""
        self._paused += 1
        try:
            with self.doing(what):
                yield
        finally:
            self._paused -= 1

    def _watch(self, guard: int) -> None:
        looked = time.monotonic()
        while not self._left.wait(self._interval):
            now = time.monotonic()
            with self._lock:
                late = now - looked - self._interval
                if late > self._interval:
                    self._since += late
                idle, usual, what = now - self._since, self._usual, self._doing[-1]
                limit = float("inf") if self._paused else max(self._floor, _TIMES_USUAL * usual)
            looked = now
            with suppress(OSError):  # full, of a guard that is suspended
                os.write(guard, f"{limit}\n".encode())
            if idle > limit:
                self._end(
                    f"stuck: {what} for {idle:.0f} s without progress"
                    + (f", a step usually takes {usual:.2g} s" if usual else "")
                    + f"; allowed are {limit:.0f} s (config.stuck_seconds={self._floor:g})"
                )

    def _end(self, line: str) -> None:
        def write_report() -> None:
            if self._report_folder:
                report = self._report_folder / f"stuck-{os.getpid()}.txt"
                with open(report, "w", encoding="utf-8") as file:
                    print(line, file=file, flush=True)
                    faulthandler.dump_traceback(file)

        # What is stuck may be the disk or the network: each of these gets a few seconds.
        for last_words in (lambda: self._on_stuck(line), lambda: _print_stacks(line), write_report):
            thread = threading.Thread(target=last_words, daemon=True)
            thread.start()
            thread.join(_LAST_WORDS_SECONDS)
        os._exit(1)


def _print_stacks(line: str) -> None:
    with suppress(OSError):  # nobody may read it
        os.write(2, f"efficientnet-pod: {line}; the stacks of all threads:\n".encode())
    faulthandler.dump_traceback(2)


@contextmanager
def _start_guard() -> Iterator[int]:
    """Starts the process that notices when Python does not run any more; gives the pipe that leads to it."""
    was_enabled = faulthandler.is_enabled()
    if not was_enabled:
        faulthandler.enable(2)  # prints the stacks on SIGABRT, from C
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    command = [sys.executable, "-S", "-E", __file__, str(os.getpid())]
    # In a session of its own, for a Ctrl-C is not meant for it.
    guard = subprocess.Popen(command, stdin=reader, stdout=subprocess.DEVNULL, start_new_session=True)
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)
        guard.wait()
        if not was_enabled:
            faulthandler.disable()


def _guard(watched: int) -> None:
    """Aborts a process whose lines, each with the seconds it is allowed, do not come any more."""
    limit, looks = float("inf"), 0
    while True:
        if select.select([0], [], [], 1.0)[0]:
            lines = os.read(0, 65536).split()
            if not lines:
                return  # the process has ended
            limit, looks = float(lines[-1]), 0
        elif not _is_suspended(watched):
            looks += 1  # and not seconds: this process may have been suspended, too
        if looks > limit + _LAST_WORDS_SECONDS:
            with suppress(OSError):  # nobody may read it
                line = f"efficientnet-pod: stuck: no Python has run for {looks} s; stacks follow\n"
                os.write(2, line.encode())
            os.kill(watched, signal.SIGABRT)
            if not select.select([0], [], [], _LAST_WORDS_SECONDS)[0]:
                os.kill(watched, signal.SIGKILL)
            return


def _is_suspended(process: int) -> bool:
    """Returns whether a process has been stopped by a signal or a debugger."""
    try:
        state = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2]
    except OSError:  # no Linux
        command = ["ps", "-o", "state=", "-p", str(process)]
        state = subprocess.run(command, capture_output=True, encoding="utf-8").stdout
    return state.strip()[:1] in ("T", "t")


if __name__ == "__main__":
    _guard(int(sys.argv[1]))
