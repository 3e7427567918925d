"""The process of the fake service: found by its file, started if there is none, ended when idle."""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
from google.cloud.tpu_v2 import QueuedResource

from efficientnet_pod.errors import RunError
from efficientnet_pod.workdir.files import write_whole
from launch.backends.fake.faults import fault_now
from launch.backends.fake.machines import LocalWorkers
from launch.backends.fake.service import FakeTpu
from launch.job.remembered import jobs_folder
from launch.job.slices import known_slices

START_SECONDS = 60.0
IDLE_SECONDS = 15.0  # without a resource
FORGOTTEN_SECONDS = 3600.0  # with resources, none of which runs, and without a call


def channel(*, start: bool) -> grpc.Channel | None:
    """Returns a channel to the service; None if it does not run and is not to be started.

    Raises:
      RunError: the service did not start.
    """
    folder = jobs_folder() / "fake"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        port = running_port() or (_start(folder) if start else None)
    return grpc.insecure_channel(f"127.0.0.1:{port}") if port else None


def _start(folder: Path) -> int:
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
    while not (port := running_port()):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RunError(f"the fake service did not start; '{log}' says why")
        time.sleep(0.05)
    process.returncode = 0  # it outlives this process, which must not warn of that
    return port


def running_port() -> int | None:
    """Returns the port of the service; None if it does not run."""
    try:
        service = json.loads((jobs_folder() / "fake" / "service.json").read_text("utf-8"))
        os.kill(service["pid"], 0)
        # The number of a process that has ended may be another's now.
        command = Path(f"/proc/{service['pid']}/cmdline")
        if command.exists() and b"launch.backends.fake.daemon" not in command.read_bytes():
            return None
        return service["port"]
    except (OSError, ValueError, KeyError):
        return None


def set_capacity(chips: int | None) -> None:
    """Limits the chips that one request is granted, for this service and later ones; None: no limit."""
    file = jobs_folder() / "fake" / "capacity"
    if chips is None:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, f"{chips}\n".encode())


def capacity() -> float:
    """Returns the most chips that one request is granted; infinity: there is no limit."""
    try:
        return int((jobs_folder() / "fake" / "capacity").read_text("utf-8"))
    except (OSError, ValueError):
        return math.inf


def main() -> None:
    """Runs the service until a signal ends it, or it is idle."""
    folder = jobs_folder() / "fake"
    offered = tuple(dict.fromkeys(machine.api_type for machine in known_slices() if machine.api_type))
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())

    def start(name: str, resource: QueuedResource) -> LocalWorkers:
        return LocalWorkers(name, resource, folder, fault_now)

    with FakeTpu(start, offered=offered, capacity=capacity, fault=fault_now) as service:
        file = folder / "service.json"
        write_whole(file, json.dumps({"pid": os.getpid(), "port": service.port}).encode())
        try:
            while not ended.wait(0.5) and not _is_idle(service):
                pass
        finally:
            file.unlink(missing_ok=True)


def _is_idle(service: FakeTpu) -> bool:
    seconds = time.monotonic() - service.last_call
    resources = list(service.resources.values())
    if not resources:
        return seconds > IDLE_SECONDS
    runs = any(resource.workers and not resource.workers.are_down for resource in resources)
    return not runs and seconds > FORGOTTEN_SECONDS


if __name__ == "__main__":
    main()
