"""Compares each host's clock with that of the run's storage, the one clock that all hosts can read."""

import json
import math
import os
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from efficientnet_pod.pod.terminal import plural
from launch.workdir.storage import Storage

MOST_SECONDS = 2.0  # allowed difference of two clocks
_TRIES = 3  # measurements, of which the quickest counts
_GRAIN_SECONDS = 0.01  # resolution of a file system's times
_RECENT_SECONDS = 3600.0
_AT_ONCE = 16


@dataclass(frozen=True)
class Clock:
    """A measured clock of a host.

    Attributes:
      host: number of the host in the run if it is known, else its name.
      ahead: seconds ahead of the storage's clock; negative: behind it.
      within: possible error of `ahead` in seconds: half of the time that the storage took to answer.
      at: time of the measurement by the storage's clock, seconds since 1970.
    """

    host: str
    ahead: float
    within: float
    at: float


def measure(storage: Storage, folder: str, host: str, *, now: Callable[[], float] = time.time) -> Clock:
    """Returns this host's clock, compared with the storage's, and stores it in the folder for other hosts.

    The storage stamps a file, by its own clock, at some moment between the request and its answer.
    """
    clocks = []
    for number in range(_TRIES):
        asked = now()
        # One object may be written once a second. Source: Cloud Storage documentation, quotas.
        stamp = storage.write(f"{folder}/probes/{host}.{number}", b"")
        answered = now()
        within = (answered - asked) / 2 + _GRAIN_SECONDS
        clocks.append(Clock(host, (asked + answered) / 2 - stamp, within, stamp))
    best = min(clocks, key=lambda clock: clock.within)
    storage.write(f"{folder}/{host}", json.dumps(asdict(best)).encode())
    return best


def others(storage: Storage, folder: str, mine: Clock) -> list[Clock]:
    """Returns the clocks that other hosts have stored within the last hour."""
    names = [name for name in storage.names(folder) if name != mine.host and not name.endswith(".partial")]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        texts = list(pool.map(lambda name: storage.read(f"{folder}/{name}"), names))
    clocks = [Clock(**json.loads(text)) for text in texts if text]
    return [clock for clock in clocks if mine.at - clock.at < _RECENT_SECONDS]


def judge(mine: Clock, rest: list[Clock]) -> tuple[bool | None, str]:
    """Returns whether the clocks agree (None: it cannot be told), and the comparison in one line."""
    is_well = _is_small(mine.ahead, mine.within)
    line = f"host {mine.host}'s clock {_compared(mine.ahead, mine.within)} the storage's"
    if rest:
        far = max(rest, key=lambda clock: abs(clock.ahead - mine.ahead) - clock.within)
        apart, within = far.ahead - mine.ahead, far.within + mine.within
        most = ", the most" if len(rest) > 1 else ""
        line += f"; of {plural(len(rest), 'other host')} host {far.host}'s clock "
        line += f"{_compared(apart, within)} this one's{most}"
        answers = (is_well, _is_small(apart, within))
        is_well = False if False in answers else None if None in answers else True
    if is_well is False:
        line += "; let chrony or NTP set it: hosts' logs do not line up, and credentials may be refused"
    elif is_well is None:
        line += f"; more than {MOST_SECONDS:g} s would be wrong: try again when the storage is quicker"
    return is_well, line


def this_host() -> str:
    """Returns the number of this host in the run, as its scheduler or machine gives it; else its name."""
    variables = ("TPU_WORKER_ID", "SKYPILOT_NODE_RANK", "SLURM_PROCID")
    number = next((os.environ[name] for name in variables if os.environ.get(name)), "")
    name = socket.gethostname()
    if not number and (match := re.search(r"-w-(\d+)$", name)):  # of a TPU machine
        number = match[1]
    if not number:
        return re.sub(r"[^A-Za-z0-9.-]", "-", name)
    part = os.environ.get("MEGASCALE_SLICE_ID")
    return f"{part}.{number}" if part else number


def _is_small(seconds: float, within: float) -> bool | None:
    if abs(seconds) - within > MOST_SECONDS:
        return False
    return True if abs(seconds) + within <= MOST_SECONDS else None


def _compared(seconds: float, within: float) -> str:
    tenths = math.ceil(10 * within) / 10
    if abs(seconds) <= within:
        return f"agrees to {tenths:.1f} s with"
    return f"is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} (± {tenths:.1f} s)"
