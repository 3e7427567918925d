"""How long the devices stood still because a batch was not there yet."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax


class InputWait:
    """Adds up the time between the end of a step and the arrival of the batch of the next.

    Steps run while the host goes on, so the time the host waits for a batch says little: as long as the step
    before is running, nobody is kept waiting. A thread of its own notes when each step ends.
    """

    def __init__(self) -> None:
        """Starts at zero."""
        self.seconds = 0.0
        self._watcher = ThreadPoolExecutor(1, thread_name_prefix="end-of-step")
        self._end: Future[float] | None = None

    def next(self, batches: Iterator[Any]) -> Any:
        """Returns the next batch and adds the time for which it was all that the devices lacked."""
        began = time.monotonic()
        batch = next(batches)
        if self._end is not None and self._end.done():
            self.seconds += max(0.0, time.monotonic() - max(began, self._end.result()))
        return batch

    def dispatched(self, results: Any) -> None:
        """Takes the results of the step that has just been dispatched."""
        self._end = self._watcher.submit(_end_of, results)

    def forget(self) -> None:
        """Does not count what comes before the next step: the devices had something else to do."""
        self._end = None


def _end_of(results: Any) -> float:
    jax.block_until_ready(results)
    return time.monotonic()
