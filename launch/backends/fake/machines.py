"""Workers of the fake service: one process for each host, in the surroundings of a TPU's machine."""

import os
import resource as limits
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from google.cloud import tpu_v2

from efficientnet_pod.pod.rehearsal import bound, free_port
from launch.backends.fake.faults import SECONDS_AHEAD, Fault
from launch.backends.fake.metadata import MetadataServer
from launch.job.slices import parse_slice

GRACE_SECONDS = 30.0  # the time that Compute Engine gives a spot VM
_LAST_SECONDS = 5.0

# Variables of this machine that workers must not see: of a scheduler, a TPU, another metadata server.
_NOT_INHERITED = ("TPU_", "MEGASCALE_", "SLURM_", "SKYPILOT_", "JAX_COORDINATOR", "METADATA_URL")

# Kills the workers when the service ends for any reason; bash alone would leave its trainer behind.
_GUARD = """
import os, signal, sys
sys.stdin.read()
for group in map(int, sys.argv[1:]):
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


# The script's `cp`; once there is a file `refuses` beside it, the workdir takes no writes.
_CP = """#!/bin/sh
if [ -e "${0%/*}/refuses" ]; then
  case "$2" in */launch/*) echo "cp: $2: 403 writes are refused" >&2; exit 1 ;; esac
fi
exec /bin/cp "$@"
"""


class LocalWorkers:
    """The processes of one resource, and their metadata server."""

    def __init__(
        self, name: str, resource: tpu_v2.QueuedResource, folder: Path, fault: Callable[[], Fault] = Fault
    ):
        """Starts the processes of a requested resource; the disks of its machines are in the folder.

        `fault` returns what goes wrong now, on purpose.
        """
        begun_with = fault()
        (spec,) = resource.tpu.node_spec
        hosts = parse_slice(spec.node.accelerator_type).target.hosts
        script = dict(spec.node.metadata)["startup-script"]
        ahead = {begun_with.worker: SECONDS_AHEAD} if begun_with.name == "clock" else {}
        self._metadata = MetadataServer(spec.node.accelerator_type, hosts, ahead=ahead)
        self._processes: list[subprocess.Popen[bytes]] = []
        folder = folder / f"{name.rpartition('/')[2]}-{time.time_ns()}"
        shims = _shims(folder)
        self._ended = threading.Event()
        variables = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_INHERITED)}
        variables |= {
            "PATH": f"{shims}:{os.environ.get('PATH', os.defpath)}",
            "COORDINATOR": f"127.0.0.1:{free_port()}",
            "LOG_SECONDS": "1",
            "RETRY_SECONDS": "1",
        }
        for worker in range(hosts - 1 if begun_with.name == "host" else hosts):
            command = ["bash", str(folder / f"worker{worker}" / "startup-script")]
            if (begun_with.name, begun_with.worker) == ("start", worker):
                command = ["sleep", "infinity"]
            here = folder / f"worker{worker}"
            here.mkdir(parents=True)
            (here / "startup-script").write_text(script, "utf-8")
            with (here / "console.log").open("wb") as console:
                process = subprocess.Popen(
                    bound(command),
                    env=variables | {"METADATA_URL": self._metadata.url(worker), "SCRATCH": str(here)},
                    cwd=here,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._processes.append(process)
        groups = [str(process.pid) for process in self._processes]
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, *groups], stdin=subprocess.PIPE, start_new_session=True
        )

        threading.Thread(target=self._refuse_writes, args=(fault, shims), daemon=True).start()

    @property
    def are_down(self) -> bool:
        """Whether all workers have ended."""
        return all(process.poll() is not None for process in self._processes)

    def preempt(self, worker: int | None) -> None:
        """Takes the machines away, without waiting: SIGTERM to one worker or all, to all, then SIGKILL."""
        first = self._processes if worker is None else [self._processes[worker % len(self._processes)]]
        threading.Thread(target=self._take_away, args=(first,), daemon=True).start()

    def end(self) -> None:
        """Kills the workers that still run, and the processes they started."""
        self._ended.set()
        self._guard.kill()  # first: once a group has ended, its number may be given to another
        self._guard.communicate()
        for process in self._processes:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._metadata.close()

    def _take_away(self, first: list[subprocess.Popen[bytes]]) -> None:
        for group, seconds in ((first, GRACE_SECONDS), (self._processes, _LAST_SECONDS)):
            for process in group:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + seconds
            while any(process.poll() is None for process in group) and time.monotonic() < deadline:
                time.sleep(0.05)
        self.end()

    def _refuse_writes(self, fault: Callable[[], Fault], shims: Path) -> None:
        """Lets neither script nor trainer of a worker write to the workdir, once that fault is due."""
        while not self._ended.wait(0.2):
            if (now := fault()).name != "bucket" or not now.is_due:
                continue
            (shims / "refuses").touch()
            for process in self._processes:
                for trainer in _trainers_of(process.pid):
                    with suppress(OSError):  # it has ended
                        limits.prlimit(trainer, limits.RLIMIT_FSIZE, (0, 0))


def _trainers_of(group: int) -> Iterator[int]:
    """Yields the processes of a process group that run the trainer."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):  # it has ended
            number = int(folder.name)
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if os.getpgid(number) == group and b"train" in words:
                yield number


def _shims(folder: Path) -> Path:
    """Returns a folder with a ``gcloud`` that knows one command of the start-up script, and its ``cp``."""
    shims = folder / "bin"
    shims.mkdir(parents=True)
    variable = f"PYTHONPATH={shlex.quote(str(Path(__file__).parents[3]))}"
    shim = f'#!/bin/sh\n{variable} exec {shlex.quote(sys.executable)} -m launch.backends.fake.gcloud "$@"\n'
    for name, text in (("gcloud", shim), ("cp", _CP)):
        (shims / name).write_text(text, "utf-8")
        (shims / name).chmod(0o755)
    return shims
