"""On what the wall time of a start goes: each moment is booked once."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from efficientnet_pod.workdir.waiting import InputWait

KINDS: tuple[str, ...] = ("compiling", "evaluating", "saving", "waiting_for_input", "training")


class TimeSpent:
    """Adds up the seconds spent on each of `KINDS`, by what the main thread is at.

    Training is the rest of itself: without the wait for input, and without what is done in between. What is
    none of `KINDS`, such as to look for a checkpoint, is not booked.

    Attributes:
      input_wait: measures the wait for input, which is part of the training.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """Starts at zero, with what is not booked; ``clock`` gives seconds."""
        self.input_wait = InputWait(clock)
        self._clock = clock
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._kind: str | None = None
        self._since = clock()

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Books the time inside on one of `KINDS`, and not on what is under way around it."""
        before = self._turn_to(kind)
        try:
            yield
        finally:
            self._turn_to(before)

    def so_far(self) -> dict[str, float]:
        """Returns the seconds of each kind since the start."""
        self._turn_to(self._kind)
        waited = self.input_wait.seconds
        training = max(0.0, self._seconds["training"] - waited)
        return self._seconds | {"waiting_for_input": waited, "training": training}

    def _turn_to(self, kind: str | None) -> str | None:
        now, before = self._clock(), self._kind
        if before:
            self._seconds[before] += now - self._since
        self._kind, self._since = kind, now
        return before
