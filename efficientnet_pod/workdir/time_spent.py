"""The wall time of a start by what it was spent on; each moment counts once."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

KINDS: tuple[str, ...] = ("compiling", "evaluating", "saving", "waiting_for_input", "training")
_Batch = TypeVar("_Batch")


class TimeSpent:
    """Seconds spent on each of `KINDS`, by what the main thread is doing.

    Time nested inside training (evaluation, saving) and waits for input do not count as training. Other work,
    such as looking for a checkpoint, is not counted.

    Attributes:
      input_wait: the wait for input during training.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """Starts at zero, with time that is not counted; ``clock`` gives seconds."""
        self.input_wait = InputWait(clock)
        self._clock = clock
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._kind: str | None = None
        self._since = clock()

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Counts the time inside for one of `KINDS`, and not for the kind around it."""
        outer = self._turn_to(kind)
        try:
            yield
        finally:
            self._turn_to(outer)

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


class InputWait:
    """The time during which the devices lacked nothing but a batch.

    Steps run while the host goes on, so the host's own wait for a batch says little: while the step before is
    running, nobody is kept waiting. A thread notes when each step ends.

    Attributes:
      seconds: that time so far.
      newest: seconds for which the devices were free before the newest batch; of these without input.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """Starts at zero; ``clock`` gives seconds."""
        self.seconds, self.newest = 0.0, (0.0, 0.0)
        self._clock = clock
        self._watcher = ThreadPoolExecutor(1, thread_name_prefix="end-of-step")
        self._end = _ended(clock())

    def next(self, get: Callable[[], _Batch]) -> _Batch:
        """Returns the batch that ``get`` returns, and adds the time it took while the devices were free."""
        asked = self._clock()
        batch = get()
        late = waited = 0.0
        if self._end.done():
            now, free_since = self._clock(), self._end.result()
            late, waited = max(0.0, now - free_since), max(0.0, now - max(asked, free_since))
        self.seconds += waited
        self.newest = (late, waited)
        return batch

    def dispatched(self, results: Any) -> None:
        """Takes the results of the step that has just been dispatched, a tree of device arrays."""
        self._end = self._watcher.submit(self._end_of, results)

    def settle(self) -> None:
        """Returns when the step that was dispatched last has ended."""
        self._end.result()

    def restart(self) -> None:
        """Marks the devices as free, after work other than a training step."""
        self._end = _ended(self._clock())

    def _end_of(self, results: Any) -> float:
        import jax  # who only reads a journal does without it

        jax.block_until_ready(results)
        return self._clock()


def _ended(time: float) -> Future[float]:
    end: Future[float] = Future()
    end.set_result(time)
    return end
