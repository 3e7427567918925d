"""The rehearsal of a pod on one machine: real processes of one command, their output and their end."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO

from efficientnet_pod.errors import CHECKPOINTED
from efficientnet_pod.pod import output as own_output
from efficientnet_pod.pod.interrupt import heard_signals

# After one rank failed the others go down by themselves, as on a pod. A rank that still runs after this time
# is told to stop, and at last killed.
GRACE_SECONDS = 5
KILL_SECONDS = 10

# Gloo, the CPU's collectives, prints this for every group; no setting of JAX silences it.
_GLOO = "peer ranks. Expected number of connected peer ranks"
# A rank that goes down because another one failed prints this. It may be gone before the other one.
_FOLLOWS = re.compile(r"efficientnet-pod: host (\d+) failed: ")

# The kernel kills a rank when this process dies, however that happens (prctl's PR_SET_PDEATHSIG). Asked for
# in a small program between, because code that runs between fork and exec is not safe beside threads.
_BOUND = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def rehearse(
    command: Sequence[str],
    *,
    processes: int,
    devices: int | None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Runs so many processes of one command as the hosts of a pod and returns the exit code of the whole.

    Each line they print gets the rank in front. When one fails all are stopped. SIGTERM, Ctrl-C and SIGHUP
    are passed on as SIGTERM; a second one kills, unless it is SIGHUP. On Linux no rank outlives this process.

    Args:
      command: of one process, such as ``[sys.executable, "-m", "efficientnet_pod", "train", …]``;
        ``--coordinator``, ``--processes`` and ``--process`` are added.
      processes: how many.
      devices: CPU devices of each, for a ``train`` whose flags do not give a platform or number; None: as
        the recipe has it.
      environment: variables set besides those of this process.

    Returns:
      0 if all ranks ended well; 42 if they did and at least one was told to stop and has checkpointed; else
      the code of the first that failed, 128 + n if signal n killed it.
    """
    added = [f"--coordinator=127.0.0.1:{free_port()}", f"--processes={processes}"]
    if devices and "train" in command:
        for flag in ("--config.platform=cpu", f"--config.cpu_replicas={devices}"):
            name = flag.partition("=")[0]
            if not any(word.partition("=")[0] == name for word in command):
                added.append(flag)
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **(environment or {})}
    output = _Output()
    asked: list[int] = []
    ranks: list[_Rank] = []
    with _heard_signals(asked):
        try:
            for index in range(processes):
                ranks.append(_Rank(index, [*command, *added, f"--process={index}"], variables, output))
            _wait(ranks, asked)
        finally:
            for rank in ranks:
                rank.end()
    return _conclude(ranks, output)


def bound(command: Sequence[str]) -> list[str]:
    """Returns a command whose process ends with the thread that starts it, on Linux; elsewhere the same."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _BOUND, str(os.getpid()), *command]


@dataclass
class _Output:
    """Copies the lines of the ranks, and notes which rank they name as the first that failed."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    failed: int | None = None

    def copy(self, rank: int, lines: IO[str], to: IO[str]) -> None:
        label = f"\x1b[{31 + rank % 6}m[{rank}]\x1b[0m" if to.isatty() else f"[{rank}]"
        with lines:
            for line in lines:
                if _GLOO in line:
                    continue
                with self.lock:
                    if self.failed is None and (follows := _FOLLOWS.match(line)):
                        self.failed = int(follows[1])
                    print(f"{label} " + line.removesuffix("\n"), file=to, flush=True)
                if to is sys.stdout and own_output.is_unread():
                    return  # the rank meets the same end, and its journal says so


class _Rank:
    """One process, in a session of its own, whose output is copied by threads."""

    def __init__(self, index: int, command: list[str], environment: Mapping[str, str], output: _Output):
        command = bound(command)
        self.index, self.ended = index, 0.0
        self.code: int | None = None
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        streams = [(self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr)]
        self._copies = [
            threading.Thread(target=output.copy, args=(index, *pair), daemon=True) for pair in streams
        ]
        for copy in self._copies:
            copy.start()

    def poll(self) -> int | None:
        """Returns the exit code as a shell gives it, None while it runs; notes when it ended."""
        if self.code is None and (code := self.process.poll()) is not None:
            self.code, self.ended = code if code >= 0 else 128 - code, time.monotonic()
        return self.code

    @property
    def has_failed(self) -> bool:
        return self.code not in (None, 0, CHECKPOINTED)

    def end(self) -> None:
        """Kills what is left of the session and returns when all that it printed is copied."""
        with suppress(ProcessLookupError, PermissionError):  # the latter where only a zombie is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.poll()
        for copy in self._copies:
            copy.join()


def _wait(ranks: list[_Rank], asked: list[int]) -> None:
    """Returns when all ranks are down; once one has failed, tells the others to stop."""
    failed_at, signals_sent = None, 0
    while None in [rank.poll() for rank in ranks]:
        if failed_at is None and any(rank.has_failed for rank in ranks):
            failed_at = time.monotonic()
        since = time.monotonic() - failed_at if failed_at else 0.0
        if len(asked) > 1 or since > GRACE_SECONDS + KILL_SECONDS:
            return  # what still runs is killed
        reasons = (len(asked) > 0) + (since > GRACE_SECONDS)
        if reasons > signals_sent:
            signals_sent = reasons
            for rank in ranks:
                rank.process.send_signal(signal.SIGTERM)
        time.sleep(0.02)


def _conclude(ranks: list[_Rank], output: _Output) -> int:
    codes = [rank.code or 0 for rank in ranks]
    failed = [rank for rank in ranks if rank.has_failed]
    if not failed:
        return CHECKPOINTED if CHECKPOINTED in codes else 0
    first = min(failed, key=lambda rank: (rank.index != output.failed, rank.ended))
    code = codes[first.index]
    killer = -(first.process.returncode or 0)
    end = f"was killed by {signal.Signals(killer).name}" if killer > 0 else f"failed with exit code {code}"
    others = max(rank.ended for rank in ranks) - min(rank.ended for rank in failed)
    print(
        f"efficientnet-pod: rank {first.index} {end}; all {len(ranks)} were down within {others:.1f} s",
        file=sys.stderr,
    )
    return code


@contextmanager
def _heard_signals(asked: list[int]) -> Iterator[None]:
    """Appends the signals to stop to `asked` inside the context, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(number: int, _: object) -> None:
        if not asked or signal.Signals(number).name != "SIGHUP":
            asked.append(number)

    before = {number: signal.signal(number, hear) for number in heard_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """Returns a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
