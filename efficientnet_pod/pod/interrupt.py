"""Requests to stop this process, noticed also while its main thread cannot run Python."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType, TracebackType
from typing import NoReturn, Self

from efficientnet_pod.errors import CHECKPOINTED

_SIGNALS = [signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
# Two that come closer together are one: `timeout` and some schedulers signal a process and then its group.
_SAME_SECONDS = 0.3
_LAST_WORDS_SECONDS = 5.0


class Interrupt:
    """Notices SIGTERM, SIGINT and SIGHUP, and remembers that somebody wants this process to stop.

    A context manager: inside it the signals do nothing by themselves. Python runs its signal handlers in the
    main thread only, which may be in a compiler or a collective for minutes; the C part of a handler runs at
    once and writes to a socket, which a thread reads. Entered in another than the main thread it leaves the
    signals alone, and SIGHUP where it is ignored, as by nohup.

    Attributes:
      reason: name of the signal, or the reason given to :meth:`request`; None if nobody has asked.
      before_exit: actions, each called once before this process is ended at once; their errors are ignored.
    """

    def __init__(
        self, *, tell_user: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)
    ):
        """Installs nothing yet; ``tell_user`` gets a line on what happens next."""
        self.reason: str | None = None
        self.before_exit: list[Callable[[], None]] = []
        self._notify: Callable[[str], None] = lambda reason: None
        self._linger: Callable[[], None] = lambda: None
        self._is_alone: Callable[[], bool] = lambda: True
        self._tell_user = tell_user
        self._asked = threading.Event()
        self._lock = threading.RLock()
        self._ending = threading.Lock()
        self._nothing_to_lose = 0
        self._is_all_saved = False
        self._first_signal: float | None = None
        self._telling: threading.Thread | None = None
        self._restore = ExitStack()

    @property
    def requested(self) -> bool:
        """Whether anybody has asked."""
        return self._asked.is_set()

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        watcher = threading.Thread(target=self._watch, args=(reader,), name="interrupt", daemon=True)
        watcher.start()
        self._restore.callback(watcher.join, _LAST_WORDS_SECONDS)
        self._restore.callback(writer.close)
        self._restore.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writer.fileno()))
        for number in heard_signals():
            # A handler that is not Python's cannot be read, nor put back.
            before = signal.signal(number, _nothing) or signal.SIG_DFL
            self._restore.callback(signal.signal, number, before)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore.close()

    def among(
        self,
        *,
        notify: Callable[[str], None],
        linger: Callable[[], None],
        is_alone: Callable[[], bool] = lambda: False,
    ) -> None:
        """Takes other hosts into account from here on.

        Args:
          notify: gets the reason, once, in a thread of its own, when a signal is the first to ask.
          linger: called before the process ends with nothing lost; returns when the other hosts have had the
            time to hear of it. It gets some seconds, and its errors are ignored.
          is_alone: whether there is no other host after all: then the exit code of SIGINT is 130.
        """
        self._notify, self._linger, self._is_alone = notify, linger, is_alone

    def all_is_saved(self) -> None:
        """Ignores who asks from here on, because nothing is left to stop.

        A scheduler that repeats its signal must still see the exit code of a saved run.
        """
        self._is_all_saved = True

    def request(self, reason: str) -> None:
        """Asks, as a signal would, on behalf of another host; only the first reason counts."""
        if self._ask(reason):
            self._say(f"{reason}: saving a checkpoint after this step")

    def wait(self, seconds: float) -> bool:
        """Waits so many seconds, or until somebody asks; returns whether anybody has asked."""
        return self._asked.wait(seconds)

    @contextmanager
    def nothing_to_lose(self) -> Iterator[None]:
        """Ends the process at once, inside the context, when somebody asks or has asked.

        The exit code is 42: the same command goes on. For SIGINT on a lone host it is 130. A thread that
        leaves the context while the process ends waits there for the end.
        """
        with self._lock:
            self._nothing_to_lose += 1
            is_asked = self.reason is not None
        if is_asked:
            self._end_with_nothing_lost()
        try:
            yield
        finally:
            with self._lock:
                is_asked = self.reason is not None
                self._nothing_to_lose -= not is_asked
            if is_asked:
                self._end_with_nothing_lost()

    def _watch(self, reader: socket.socket) -> None:
        with reader:
            while numbers := reader.recv(64):
                for number in numbers:
                    if number in _SIGNALS:
                        self._on_signal(signal.Signals(number))

    def _on_signal(self, number: signal.Signals) -> None:
        if self._is_all_saved or self._ending.locked():
            return
        if number.name == "SIGHUP":
            # A lost terminal: shell and kernel both send it, and a session's end adds one SIGTERM.
            if not self.requested:
                self._telling = _in_background(lambda: self._notify(number.name))
            self.request(number.name)
            return
        if self._first_signal is not None:
            if time.monotonic() - self._first_signal > _SAME_SECONDS:
                self._end(128 + number)
            return
        self._first_signal = time.monotonic()
        # A coordinator that does not answer must not keep this thread from a second signal.
        self._telling = _in_background(lambda: self._notify(number.name))
        if self._ask(number.name):
            self._say(f"{number.name}: saving a checkpoint after this step; a second one ends at once")

    def _ask(self, reason: str) -> bool:
        """Returns whether this is the first to ask; does not return where there is nothing to lose."""
        if self._is_all_saved:
            return False
        with self._lock:
            is_first = self.reason is None
            self.reason = reason if self.reason is None else self.reason
            nothing_to_lose = self._nothing_to_lose > 0
            self._asked.set()
        if nothing_to_lose:
            self._end_with_nothing_lost()
        return is_first

    def _end_with_nothing_lost(self) -> NoReturn:
        self._ending.acquire()  # The first thread ends the process. Others wait here: it is never released.
        if self._telling:
            self._telling.join(_LAST_WORDS_SECONDS)
        self._say(f"{self.reason}: nothing to save yet; the same command goes on")
        _in_background(self._linger).join(_LAST_WORDS_SECONDS)
        self._end(130 if self.reason == "SIGINT" and self._is_alone() else CHECKPOINTED)

    def _say(self, line: str) -> None:
        _in_background(lambda: self._tell_user(line)).join(1.0)  # nobody may be reading what is printed

    def _end(self, code: int) -> NoReturn:
        """Ends the process: without Python's own exit, which would wait for threads and compilers."""

        def last_words() -> None:
            while self.before_exit:
                with suppress(Exception):
                    self.before_exit.pop(0)()
            sys.stdout.flush()

        _in_background(last_words).join(_LAST_WORDS_SECONDS)
        os._exit(code)


class NotebookInterrupt(Interrupt):
    """Notices SIGINT for a process that goes on after the run, such as a notebook's; it is never ended.

    A second signal, or one while nothing would be lost, raises KeyboardInterrupt in the main thread, as
    without a run. Entered in another thread it hears nothing, and says so.
    """

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGINT, self._on_interrupt) or signal.SIG_DFL
            self._restore.callback(signal.signal, signal.SIGINT, before)
        else:
            self._tell_user("Ctrl-C is not heard outside of the main thread: this run goes on to its end")
        return self

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        is_same = self._first_signal is not None and time.monotonic() - self._first_signal < _SAME_SECONDS
        if self._is_all_saved or is_same:
            return
        if self.requested or self._nothing_to_lose:
            raise KeyboardInterrupt
        self._first_signal = time.monotonic()
        self._ask("SIGINT")
        self._say("SIGINT: saving a checkpoint after this step; a second one gives that up")

    def _end(self, code: int) -> NoReturn:
        raise KeyboardInterrupt


def heard_signals() -> list[signal.Signals]:
    """Returns the signals that ask this process to stop; SIGHUP is none where it is ignored, as by nohup."""
    return [
        number for number in _SIGNALS if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN
    ]


def _in_background(action: Callable[[], None]) -> threading.Thread:
    """Starts a thread for an action that may fail or never end, and returns the thread."""

    def run() -> None:
        with suppress(Exception):
            action()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler for Python to have, so that its C part writes to the socket."""
