"""Python functions inside tf.data, whose calls must be over before the interpreter ends."""

from __future__ import annotations

import atexit
import contextlib
import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from efficientnet_pod.data.quiet import tf


def call_python(function: Callable[..., Any], *arguments: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Returns the result of a Python function of scalars or arrays as a tensor of unknown shape.

    A ValueError of the function is an InvalidArgumentError.
    """
    calls = _calls()

    def call(*values: Any) -> Any:
        calls.count()
        return function(*(value.item() if getattr(value, "ndim", 1) == 0 else value for value in values))

    try:
        return tf.numpy_function(call, arguments, dtype)
    except ValueError as error:  # outside of tf.data and tf.function the call is made at once
        raise tf.errors.InvalidArgumentError(None, None, str(error)) from error


def reader(read: Callable[[int], bytes]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from numbers, int64 of any shape, to the strings that ``read`` returns."""

    def read_all(numbers: np.ndarray | int) -> np.ndarray:
        shape = np.shape(numbers)
        records = np.empty(shape, object)  # numpy's own strings would lose zeros at their ends
        records.reshape(-1)[:] = [read(number) for number in np.ravel(numbers).tolist()]
        return records

    return lambda numbers: tf.ensure_shape(call_python(read_all, numbers, dtype=tf.string), numbers.shape)


_QUIET = 5  # tenths of a second without a call, after which there are none
_LONGEST = 20  # seconds to wait for that


class _Calls:
    """The calls of Python by tf.data's threads.

    If a stream still reads ahead when the process exits, it waits for its threads, and the threads wait for
    the interpreter without end. Therefore each call fails from then on: the buffers fill with failures, and
    the threads stop.
    """

    def __init__(self) -> None:
        self._count, self._is_ending = 0, False

    def count(self) -> None:
        """Counts a call; raises RuntimeError while the process ends."""
        self._count += 1
        if self._is_ending:
            raise RuntimeError("the process ends")

    def end(self) -> None:
        """Makes the calls fail, and waits until there are none.

        On a busy machine they come with pauses, in which the threads that will make them wait for a core.
        """
        self._is_ending, deadline, quiet = True, time.monotonic() + _LONGEST, 0
        while self._count and quiet < _QUIET and time.monotonic() < deadline:
            seen = self._count
            time.sleep(0.1)
            quiet = quiet + 1 if self._count == seen and not _others_run() else 0


def _others_run() -> bool:
    """Returns whether another thread of this process runs or waits for a core; False off Linux."""
    own = str(threading.get_native_id())
    for file in Path("/proc/self/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            if file.parent.name != own and file.read_bytes().rpartition(b")")[2].split()[0] in b"RD":
                return True
    return False


@functools.cache
def _calls() -> _Calls:
    """Returns the calls of this process, which end with it."""
    calls = _Calls()
    atexit.register(calls.end)
    return calls
