"""Faults on purpose in the fake service, as ``launch fault`` asks for it."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from efficientnet_pod.workdir.files import write_whole
from launch.job.remembered import jobs_folder

FAULTS = {
    "capacity": "no machines are free, for --minutes",
    "quota": "each request is refused, for the quota does not suffice",
    "host": "the machine of the last worker never comes",
    "start": "the start-up script of --worker never runs",
    "clock": "the clock of --worker is 3 s ahead",
    "bucket": "the workdir takes no writes of workers, after --minutes",
}
SECONDS_AHEAD = 3.0


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, until another is asked for.

    Attributes:
      name: key of `FAULTS`; empty: nothing goes wrong.
      at: time when ``capacity`` ends or ``bucket`` begins, seconds since 1970.
      worker: number of the worker that it happens to.
    """

    name: str = ""
    at: float = 0.0
    worker: int = 0

    @property
    def is_due(self) -> bool:
        """Whether its time has come."""
        return time.time() >= self.at


def set_fault(fault: Fault) -> None:
    """Lets a fault happen in this service and in later ones, and no other one."""
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(asdict(fault)).encode())


def fault_now() -> Fault:
    """Returns what goes wrong now."""
    try:
        return Fault(**json.loads(_file().read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return Fault()


def _file() -> Path:
    return jobs_folder() / "fake" / "fault.json"
