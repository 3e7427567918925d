"""Owns the clocks of hosts: each beside that of the storage of a run, which is one for all of them."""

import json
import math
import os
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from launch.workdir.storage import Storage

MOST_SECONDS = 2.0  # that two clocks may differ
_TRIES = 3  # of which the quickest answer counts
_GRAIN_SECONDS = 0.01  # of the times that file systems write down
_RECENT_SECONDS = 3600.0
_AT_ONCE = 16


@dataclass(frozen=True)
class Clock:
    """A host's clock, as it was found.

    Attributes:
      host: its number in the run where it knows that, else its name.
      ahead: seconds before the storage's clock; negative: behind it.
      within: by so many seconds `ahead` may be wrong: half of what the storage took to answer.
      at: when it was measured, by the storage's clock.
    """

    host: str
    ahead: float
    within: float
    at: float


def measure(storage: Storage, folder: str, host: str, *, now: Callable[[], float] = time.time) -> Clock:
    """Returns this host's clock beside the storage's, and leaves it in a folder for the others.

    The storage stamps what is written at some moment between the asking and its answer.

    Args:
      storage: which stamps by its own clock.
      folder: of the hosts' clocks, in it.
      host: which this is.
      now: this host's clock.
    """
    found = []
    for number in range(_TRIES):
        asked = now()
        # One object may be written once a second. Source: Cloud Storage documentation, quotas.
        stamped = storage.stamp(f"{folder}/probes/{host}.{number}", b"")
        answered = now()
        within = (answered - asked) / 2 + _GRAIN_SECONDS
        found.append(Clock(host, (asked + answered) / 2 - stamped, within, stamped))
    best = min(found, key=lambda clock: clock.within)
    storage.write(f"{folder}/{host}", json.dumps(asdict(best)).encode())
    return best


def others(storage: Storage, folder: str, mine: Clock) -> list[Clock]:
    """Returns the clocks that other hosts have left within the last hour."""
    names = [name for name in storage.names(folder) if name != mine.host and not name.endswith(".partial")]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        texts = list(pool.map(lambda name: storage.read(f"{folder}/{name}"), names))
    clocks = [Clock(**json.loads(text)) for text in texts if text]
    return [clock for clock in clocks if mine.at - clock.at < _RECENT_SECONDS]


def judge(mine: Clock, rest: list[Clock]) -> tuple[bool | None, str]:
    """Returns whether the clocks agree, None where that cannot be told, and what was found."""
    well = _is_small(mine.ahead, mine.within)
    said = f"{_named(mine.host)} {_beside(mine.ahead, mine.within)} the storage's"
    if rest:
        far = max(rest, key=lambda clock: abs(clock.ahead - mine.ahead) - clock.within)
        apart, within = far.ahead - mine.ahead, far.within + mine.within
        said += f"; of {len(rest)} other host{'s' * (len(rest) > 1)} {_named(far.host)} "
        said += f"{_beside(apart, within)} this one's" + ", the most" * (len(rest) > 1)
        answers = (well, _is_small(apart, within))
        well = False if False in answers else None if None in answers else True
    if well is False:
        said += "; let chrony or NTP set it: hosts' logs do not line up, and credentials may be refused"
    elif well is None:
        said += f"; more than {MOST_SECONDS:g} s would be wrong: try again when the storage is quicker"
    return well, said


def this_host() -> str:
    """Returns the number of this host in the run, as its engine gives it; its name where none does."""
    variables = ("TPU_WORKER_ID", "SKYPILOT_NODE_RANK", "SLURM_PROCID")
    number = next((os.environ[name] for name in variables if os.environ.get(name)), "")
    name = socket.gethostname()
    if not number and (found := re.search(r"-w-(\d+)$", name)):  # of a TPU machine
        number = found[1]
    if not number:
        return re.sub(r"[^A-Za-z0-9.-]", "-", name)
    part = os.environ.get("MEGASCALE_SLICE_ID")
    return f"{part}.{number}" if part else number


def _is_small(seconds: float, within: float) -> bool | None:
    if abs(seconds) - within > MOST_SECONDS:
        return False
    return True if abs(seconds) + within <= MOST_SECONDS else None


def _named(host: str) -> str:
    return f"host {host}'s clock"


def _beside(seconds: float, within: float) -> str:
    tenths = math.ceil(10 * within) / 10
    if abs(seconds) <= within:
        return f"agrees to {tenths:.1f} s with"
    return f"is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} (± {tenths:.1f} s)"
