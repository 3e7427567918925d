"""What this process tells the other hosts of its run about its end, and hears about theirs.

The coordinator is neither encrypted nor does it ask who calls: whoever reaches its port can stop the run or
mislead it. Let the firewall open it to the hosts of the run alone. A coordinator on loopback listens nowhere
else.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import jax
from jax.errors import JaxRuntimeError

from efficientnet_pod.errors import CHECKPOINTED
from efficientnet_pod.pod import hosts
from efficientnet_pod.pod.connection import connect

LISTEN_SECONDS = 0.5
MOST_MISSES = 10  # looks in a row that the store did not answer

_FOLDER = "efficientnet_pod/told/"
_FAILURE, _STOP = f"{_FOLDER}failure", f"{_FOLDER}stop"

OnStop = Callable[[str], None]
OnFailure = Callable[[int, str, int], None]


class Peers:
    """The other hosts of this process's run; none until :meth:`join`.

    Once joined, a thread listens. When another host fails, or ends with nothing lost, this process prints a
    line and ends too: with the other host's exit code if that was 2 or 42, else with 1.
    """

    def __init__(self) -> None:
        self._is_connected = False  # before that, any use of the store would end the process
        self._on_stop: list[OnStop] = []
        self._on_failure: list[OnFailure] = []
        self._ended = threading.Event()
        self._listener: threading.Thread | None = None

    def join(
        self,
        coordinator: str | None = None,
        processes: int | None = None,
        process: int | None = None,
        *,
        silent_seconds: int | None = None,
    ) -> None:
        """Makes this process one of the hosts of a run, or leaves it the only one.

        The arguments name the hosts. Without any, JAX detects them (Cloud TPU pods, SLURM, Open MPI,
        Kubernetes, each with ``JAX_COORDINATOR_ADDRESS`` if that is set). If it detects none, this process is
        alone. Under SLURM and Open MPI JAX gives each process one GPU; ``JAX_LOCAL_DEVICE_IDS`` names others.
        Call it before anything starts a backend.

        Args:
          coordinator: ``host:port`` of process 0, the same on all hosts.
          processes: number of hosts; 1 alone, without the other two, means not to look for others.
          process: index of this one, from 0.
          silent_seconds: how long a host may be silent before all are ended; None for 100.

        Raises:
          UserError: some arguments are missing or wrong, detection failed, the coordinator cannot be reached
            or its port is taken, or not all hosts came in time.
        """
        if not jax.distributed.is_initialized():
            connect(coordinator, processes, process, silent_seconds=silent_seconds)
        if hosts.count() > 1:
            self._is_connected = True
            self.listen()
            hosts.agree("the hosts", {"processes": hosts.count()})

    @contextmanager
    def subscribed(
        self, *, on_stop: OnStop | None = None, on_failure: OnFailure | None = None
    ) -> Iterator[None]:
        """Calls these functions, on the listening thread, as long as the context is open.

        Args:
          on_stop: gets the reason, once, when any host was told to stop; also a stop that was told before.
          on_failure: gets index, error line and exit code of another host that failed or ended with nothing
            lost, before this process ends too.
        """
        stops, failures = [on_stop] if on_stop else [], [on_failure] if on_failure else []
        self._on_stop += stops
        self._on_failure += failures
        try:
            yield
        finally:
            self._on_stop = [other for other in self._on_stop if other not in stops]
            self._on_failure = [other for other in self._on_failure if other not in failures]

    def tell_failure(self, error_line: str, exit_code: int) -> None:
        """Tells the other hosts that this one is going down; they follow. The first failure counts.

        Never raises: the run is failing already.
        """
        self._tell(_FAILURE, host=hosts.index(), line=error_line[:2000], code=exit_code)

    def tell_stop(self, reason: str) -> None:
        """Tells all hosts that this one was told to stop, as in a preemption. The first reason counts.

        Never raises: the stop of this host will end the run even if nobody hears of it.
        """
        self._tell(_STOP, host=hosts.index(), reason=reason)

    def nothing_lost(self) -> None:
        """Tells the other hosts that this one ends with nothing lost, and gives them time to hear it.

        They follow with exit code 42: no step was done since all was saved, for this host takes part in each.
        """
        self.tell_failure("told to stop with nothing to save yet", CHECKPOINTED)
        self.linger()

    def linger(self) -> None:
        """Returns when the other hosts have had the time to hear what this one told, before it ends."""
        if self._is_connected:
            # Host 0 holds the coordinator, whose loss aborts the others: it leaves last.
            time.sleep(4 * LISTEN_SECONDS if hosts.index() == 0 else 2 * LISTEN_SECONDS)

    def leave(self, exit_code: int) -> NoReturn:
        """Ends this process at once, after :meth:`linger`; does not wait for the other hosts.

        Call it after :meth:`tell_failure`.
        """
        self._stop_listening()  # where several hosts fail at once, each prints its own error
        # Output that nobody takes must not keep this process.
        flushing = threading.Thread(target=_flush, daemon=True)
        flushing.start()
        self.linger()
        flushing.join(5)
        os._exit(exit_code)

    def finish(self) -> None:
        """Ends this host's part in a run that ended well: waits for all hosts and closes the connection.

        Raises:
          RunError: not all hosts came to their end.
        """
        if self._is_connected:
            hosts.barrier("the end", seconds=hosts.WAIT_SECONDS)
            self._stop_listening()  # until here the failure of a host that is still at work is heard
            self._is_connected = False
            jax.distributed.shutdown()

    def listen(self) -> threading.Thread:
        """Returns the thread that listens; it ends with the process."""
        if self._listener is None:
            self._listener = threading.Thread(target=self._listen, name="hosts", daemon=True)
            self._listener.start()
        return self._listener

    def _stop_listening(self) -> None:
        """Returns when no subscriber runs, or after a second."""
        self._ended.set()
        if self._listener not in (None, threading.current_thread()):
            self._listener.join(1)

    def _listen(self) -> None:
        is_stop_heard, misses = False, 0
        while not self._ended.wait(LISTEN_SECONDS):
            try:
                entries = hosts.store().key_value_dir_get(_FOLDER)
            except JaxRuntimeError:
                misses += 1
                if misses == MOST_MISSES:
                    return  # host 0 is gone, and JAX is about to end this process
                continue
            misses = 0
            news = {key: json.loads(value) for key, value in entries}
            if (stop := news.get(_STOP)) and not is_stop_heard and self._on_stop:
                is_stop_heard = True
                for on_stop in self._on_stop:
                    on_stop(f"{stop['reason']} on host {stop['host']}")
            if (failure := news.get(_FAILURE)) and failure["host"] != hosts.index():
                self._follow(failure["host"], failure["line"], failure["code"])

    def _follow(self, host: int, line: str, exit_code: int) -> NoReturn:
        for on_failure in self._on_failure:
            on_failure(host, line, exit_code)
        event = "ended" if exit_code == CHECKPOINTED else "failed"
        print(f"efficientnet-pod: host {host} {event}: {line}", file=sys.stderr)
        self.leave(exit_code if exit_code in (2, CHECKPOINTED) else 1)

    def _tell(self, key: str, **message: Any) -> None:
        if self._is_connected:
            # The first message stands: a key can be set once.
            with suppress(Exception):
                hosts.store().key_value_set(key, json.dumps(message))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
