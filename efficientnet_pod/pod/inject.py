"""Faults on purpose, for tests: those that the variable EFFICIENTNET_POD_FAULT names.

A fault has a kind and a point, and may have a step and a host: ``kill@step:13,host=1``. Several are separated
by ``;``. Each happens once in a process: at the given step, or the first time the point is reached. It then
leaves the variable.
"""

import dataclasses
import errno
import os
import re
import signal
import threading
import time

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.pod import hosts

VARIABLE = "EFFICIENTNET_POD_FAULT"
KINDS = ("kill", "term", "stop", "hang", "raise", "nospace", "nan")
# input: before a batch is asked for; step: before a step is dispatched; evaluating: before each batch of an
# evaluation; saving: arrays written, the commit not.
POINTS = ("starting", "compiling", "restoring", "input", "step", "evaluating", "saving", "committed")

_LOCK = threading.Lock()  # the input has a thread of its own
_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault: its kind, where it happens, and at which step and on which host, None for any."""

    kind: str
    point: str
    step: int | None
    host: int | None


def at(point: str, step: int | None = None) -> None:
    """Lets the faults of one of the ``POINTS`` happen; the run calls it when it comes there.

    ``step`` is the number of steps done, or of the step about to be dispatched.

    Raises:
      UserError: the variable cannot be read.
      RuntimeError: of the kind ``raise``.
      OSError: of the kind ``nospace``.
    """
    for fault in _take(point, step):
        print(f"fault on purpose: {fault.kind} at {fault.point}", flush=True)
        if fault.kind in _SIGNALS:
            os.kill(os.getpid(), _SIGNALS[fault.kind])
        while fault.kind == "hang":
            time.sleep(60)
        if fault.kind == "raise":
            raise RuntimeError(f"fault on purpose at {fault.point}")
        if fault.kind == "nospace":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def poisons(step: int) -> bool:
    """Returns whether the images of this step shall be spoilt, so that its loss is not a number."""
    return any(fault.kind == "nan" for fault in _take("data", step))


def parse(value: str) -> list[Fault]:
    """Returns the faults that a value of the variable names.

    Raises:
      UserError: it names none, or something that does not exist.
    """
    return [_parse_one(word.strip()) for word in value.split(";")]


def _parse_one(word: str) -> Fault:
    match = re.fullmatch(r"(\w+)@(\w+)(?::(\d+))?(?:,host=(\d+))?", word)
    if not match:
        raise UserError(
            f"{VARIABLE} has '{word}', which is no fault; write kind@point, kind@point:step or "
            "kind@point:step,host=number, e.g. kill@step:13,host=1"
        )
    kind, point, step, host = match.groups()
    for name, known in ((kind, KINDS), (point, POINTS)):
        if name not in known:
            raise UserError(f"{VARIABLE} has '{word}', but '{name}' is unknown{did_you_mean(name, known)}")
    if kind == "nan":
        if point != "step" or step is None:
            raise UserError(f"{VARIABLE} has '{word}', but nan needs a step: nan@step:5")
        point = "data"  # it is asked for, where the other kinds happen
    return Fault(kind, point, int(step) if step else None, int(host) if host else None)


def _take(point: str, step: int | None) -> list[Fault]:
    """Returns the faults of this point, step and host, and takes them out of the variable."""
    with _LOCK:
        if not (value := os.environ.get(VARIABLE)):
            return []
        taken, left = [], []
        for word, fault in zip(value.split(";"), parse(value), strict=True):
            is_here = fault.point == point and fault.step in (None, step)
            is_here = is_here and fault.host in (None, hosts.index())
            (taken if is_here else left).append((word, fault))
        if taken:
            os.environ[VARIABLE] = ";".join(word for word, _ in left)
        return [fault for _, fault in taken]
