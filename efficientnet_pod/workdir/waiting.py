"""How long the devices stood still because a batch was not there yet."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax


class InputWait:
    """Adds up the time for which a batch was all that the devices lacked.

    Steps run while the host goes on, so the time the host waits for a batch says little: as long as the step
    before is running, nobody is kept waiting. A thread of its own notes when each step ends.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """Starts at zero; ``clock`` gives seconds."""
        self.seconds = 0.0
        self._clock = clock
        self._watcher = ThreadPoolExecutor(1, thread_name_prefix="end-of-step")
        self._end = _known(clock())

    def next(self, get: Callable[[], Any]) -> Any:
        """Returns what ``get`` does and adds the time it took, as far as the devices were free."""
        asked = self._clock()
        batch = get()
        if self._end.done():
            self.seconds += max(0.0, self._clock() - max(asked, self._end.result()))
        return batch

    def dispatched(self, results: Any) -> None:
        """Takes the results of the step that has just been dispatched."""
        self._end = self._watcher.submit(self._end_of, results)

    def restart(self) -> None:
        """Says that the devices are free, after something else than a step of training."""
        self._end = _known(self._clock())

    def _end_of(self, results: Any) -> float:
        jax.block_until_ready(results)
        return self._clock()


def _known(time: float) -> Future[float]:
    known: Future[float] = Future()
    known.set_result(time)
    return known
