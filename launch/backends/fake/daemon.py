"""Owns the process of the fake service: found by its file, started where there is none, ended when idle."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from efficientnet_pod.errors import RunError
from launch.job.remembered import jobs_folder
from launch.job.slices import known_slices

START_SECONDS = 60.0
IDLE_SECONDS = 15.0  # without a resource
FORGOTTEN_SECONDS = 3600.0  # with resources that do not run, and nobody asks for


def fake_folder() -> Path:
    """Returns where the service and its machines have their files."""
    return jobs_folder() / "fake"


def channel(*, start: bool) -> grpc.Channel | None:
    """Returns a channel to the service; None where there is none and none is to be started.

    Raises:
      RunError: it did not come up.
    """
    folder = fake_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        if port := _port_of_running(folder):
            return grpc.insecure_channel(f"127.0.0.1:{port}")
        if not start:
            return None
        log = folder / "service.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "launch.backends.fake.daemon"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).parents[3],
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not (port := _port_of_running(folder)):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise RunError(f"the fake service did not start; '{log}' says why")
            time.sleep(0.05)
    # It outlives this process, which must not warn of that.
    process.returncode = 0
    return grpc.insecure_channel(f"127.0.0.1:{port}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _port_of_running(folder: Path) -> int | None:
    """Returns the port of a service that lives."""
    try:
        told = json.loads((folder / "service.json").read_text())
        os.kill(told["pid"], 0)
        # The number of a process that has ended may be another's now.
        command = Path(f"/proc/{told['pid']}/cmdline")
        if command.exists() and b"launch.backends.fake.daemon" not in command.read_bytes():
            return None
        return told["port"]
    except (OSError, ValueError, KeyError):
        return None


def main() -> None:
    """Runs the service until it is told to stop, or is idle."""
    from launch.backends.fake.machines import LocalWorkers
    from launch.backends.fake.service import FakeTpu

    folder = fake_folder()
    offered = tuple(dict.fromkeys(each.api_type for each in known_slices() if each.api_type))
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with FakeTpu(partial(LocalWorkers, folder=folder), offered=offered) as fake:
        told = folder / ".service.json"
        told.write_text(json.dumps({"pid": os.getpid(), "port": fake.port}))
        told.replace(folder / "service.json")
        try:
            while not ended.wait(0.5) and not _is_idle(fake):
                pass
        finally:
            with suppress(OSError):
                (folder / "service.json").unlink()


def _is_idle(fake: Any) -> bool:
    since = time.monotonic() - fake.last_call
    if not fake.resources:
        return since > IDLE_SECONDS
    runs = any(each.workers and not each.workers.are_down for each in list(fake.resources.values()))
    return not runs and since > FORGOTTEN_SECONDS


if __name__ == "__main__":
    main()
