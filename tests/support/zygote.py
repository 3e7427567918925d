"""Starts test processes without the seconds of their imports: forks one that has imported everything.

Nothing has been started in that one, no backend, no runtime of TensorFlow's, not even a thread: a child is
what a fresh process is after its imports, but for the seed of ``hash``, which all children share. The child
leaves by Python's own end, and it is killed when the tests are.
"""

import atexit
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# What libraries read when they are imported: the same for all children. More threads of OpenBLAS's than the
# main one would not survive a fork.
VARIABLES = {
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}:{ROOT / 'tests' / 'references'}",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",  # their path is a part of a program's key
}
MODULES = (
    "efficientnet_pod.cli.main",
    "efficientnet_pod.train.train",
    "efficientnet_pod.data.pipeline",
    "efficientnet_pod.data.sources.opening",
    "clu.metric_writers",
    "sklearn.datasets",
    "pytest",
)


class Forked:
    """A child of the zygote, with what the tests use of ``subprocess.Popen``."""

    def __init__(self, pid: int):
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Returns the exit code, negative that of a signal; None while the process runs."""
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code when there is one."""
        began = time.monotonic()
        while (code := self.poll()) is None:
            if timeout is not None and time.monotonic() - began > timeout:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the process is known to have ended."""
        if self.poll() is None:  # its number is not given to another one before that is asked
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


_LOCK = threading.Lock()  # each answer goes to who has asked
Process = Forked | subprocess.Popen[bytes]


def start(
    program: Path,
    arguments: Sequence[str],
    *,
    out: Path,
    err: Path | None = None,
    environment: Mapping[str, str] | None = None,
    forked: bool = True,
) -> Process:
    """Returns a process that runs a Python file.

    Args:
      program: the file.
      arguments: its arguments.
      out: where standard output goes.
      err: where standard error goes; None: the same.
      environment: variables set besides those of this process and ``VARIABLES``.
      forked: False for a fresh interpreter, as it is anywhere but on Linux.
    """
    variables = {**os.environ, **VARIABLES, **(environment or {})}
    if forked and sys.platform == "linux":
        for path in {out, err or out}:
            path.touch()
        told = {"program": str(program), "arguments": list(arguments), "environment": variables}
        return Forked(_ask(told | {"out": str(out), "err": str(err or out), "folder": os.getcwd()}))
    with out.open("ab") as output, (err or out).open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, str(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=variables,
        )


@functools.cache
def _zygote() -> subprocess.Popen[bytes]:
    """The one of this test process; begins at the first start and ends with the tests."""
    zygote = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | VARIABLES,
        start_new_session=True,  # a Ctrl-C is for the tests
    )
    atexit.register(zygote.communicate)
    return zygote


def _ask(request: dict[str, Any]) -> Any:
    with _LOCK:
        zygote = _zygote()
        assert zygote.stdin and zygote.stdout
        zygote.stdin.write(json.dumps(request).encode() + b"\n")
        zygote.stdin.flush()
        return json.loads(zygote.stdout.readline())


def _serve() -> dict[str, Any] | None:
    """Answers requests; returns one in each child, None when there are no more."""
    zygote = os.getpid()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if "poll" in request:
            ended, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        elif not (answer := os.fork()):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            if os.getppid() != zygote:
                os._exit(1)
            return request
        os.write(1, json.dumps(answer).encode() + b"\n")
    return None


def _main() -> None:
    for module in MODULES:
        importlib.import_module(module)
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"{len(threads)} threads would be lost in children"
    gc.collect()
    gc.freeze()  # nor need it be copied for the collector
    request = _serve()
    if request is None:
        return
    import numpy as np

    np.random.seed()
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, request["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv[1:] = request["arguments"]
    runpy.run_path(request["program"], run_name="__main__")


if __name__ == "__main__":
    _main()
