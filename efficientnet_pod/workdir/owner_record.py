"""The owner file of a workdir: which process holds the workdir, and whether that process lives."""

import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from etils import epath

from efficientnet_pod.workdir.files import contents_of
from efficientnet_pod.workdir.values import parse_table

FILE = "owner.json"


@dataclass(frozen=True)
class OwnerRecord:
    """The contents of an owner file, readable or not.

    Attributes:
      text: contents of the file.
    """

    text: str

    def __str__(self) -> str:
        """Returns e.g. ``"the run of process 41 on host pod-7, since 2026-11-25 01:02:03 UTC"``."""
        pid, host, since = map(self.fields.get, ("pid", "host", "since"))
        known = f"the run of process {pid} on host {host}, since {since}"
        return known if self.fields else f"a run whose {FILE} is not readable"

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The table in the file; empty if it is damaged, as a crash of the machine may leave it."""
        return parse_table(self.text) or {}

    @property
    def run_id(self) -> str | None:
        """The id of the run that wrote the file."""
        return self.fields.get("run_id")

    @property
    def lives(self) -> bool | None:
        """Whether the process lives; None if nobody on this machine can know."""
        started, here = self.fields.get("process_start"), {"host": socket.gethostname(), **_this_machine()}
        # Same name, same boot and same process numbers: the system here knows the process.
        if started is None or None in here.values() or not here.items() <= self.fields.items():
            return None
        # The start tells it from a later process of the same number.
        return process_start(self.fields.get("pid", 0)) == started


def read_owner(file: epath.Path) -> OwnerRecord | None:
    """Returns the contents of an owner file, None if there is no file."""
    stored = contents_of(file)
    return None if stored is None else OwnerRecord(stored.decode())


@dataclass(frozen=True)
class Holder:
    """Who holds a workdir: whether it lives (None: nobody here can know), since when, its last beat."""

    lives: bool | None = None
    since: str = ""
    beat: int | None = None


def holder_of(folder: epath.Path) -> Holder | None:
    """Returns who holds a workdir, None if nobody does; takes nothing and writes nothing."""
    try:
        record = read_owner(folder / FILE)
    except Exception:  # unreadable: somebody holds it, nobody knows who
        return Holder()
    if record is None:
        return None
    return Holder(record.lives, str(record.fields.get("since", "")), record.fields.get("beat"))


def this_process() -> dict[str, Any]:
    """Returns the fields that tell this process from all others; None where the system does not say."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "process_start": process_start(os.getpid()),
        **_this_machine(),
    }


def process_start(pid: int) -> int | None:
    """Returns when a process was started, in ticks since the boot; None if it has ended or nobody knows."""
    try:
        # The name of the program, in parentheses, may hold anything, spaces and parentheses included.
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None


def seconds_of_this_process() -> float | None:
    """Returns the seconds since this process was started; None if nobody knows."""
    ticks = process_start(os.getpid())
    if ticks is None:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _this_machine() -> dict[str, str | None]:
    """Returns the boot of the machine and the name space of its process numbers, None where unknown."""
    boot = pids = None
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        pids = os.readlink("/proc/self/ns/pid")
    return {"boot_id": boot, "pid_namespace": pids}
