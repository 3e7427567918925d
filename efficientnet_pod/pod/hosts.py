"""Owns how the hosts of a run find each other, wait for each other, and tell each other how it goes.

What the hosts say here goes through the key-value store of JAX's coordinator, a service inside host 0: it
works while the devices are busy. With one host everything is immediate, and nothing listens to the network.

The coordinator is neither encrypted nor does it ask who calls: whoever reaches its port can stop the run or
mislead it. Let the firewall open it to the hosts of the run alone. A coordinator on loopback listens nowhere
else.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import jax
from jax._src.distributed import global_state  # as `pod.store` says
from jax.errors import JaxRuntimeError

from efficientnet_pod.errors import CHECKPOINTED, RunError, UserError
from efficientnet_pod.pod.connection import connect, wait_until
from efficientnet_pod.pod.store import fresh_key, get
from efficientnet_pod.pod.store import store as _store

# Between hosts that began together. One may list its images on a slow disk for minutes.
WAIT_SECONDS = 1800
LISTEN_SECONDS = 0.5
MOST_MISSES = 10  # looks in a row that the store did not answer

_FAILURE, _STOP = "efficientnet_pod/told/failure", "efficientnet_pod/told/stop"


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Makes this process one of the hosts of a run, or leaves it the only one.

    The hosts are those of the arguments; without any those that JAX detects (Cloud TPU pods, SLURM, Open MPI,
    Kubernetes, each with ``JAX_COORDINATOR_ADDRESS`` if that is set); without these this process alone. Under
    SLURM and Open MPI JAX gives each process one GPU; ``JAX_LOCAL_DEVICE_IDS`` names others. Call it before
    anything starts a backend. From here on a failure that another host tells ends this process: see
    :class:`Listener`.

    Args:
      coordinator: ``host:port`` of process 0, the same on all hosts.
      processes: number of hosts; 1 alone, without the other two, means not to look for others.
      process: index of this one, from 0.

    Raises:
      UserError: some arguments are missing or wrong, detection failed, the coordinator cannot be reached or
        its port is taken, or not all hosts came in time.
    """
    global _is_connected
    if not jax.distributed.is_initialized():
        connect(coordinator, processes, process)
    if count() > 1:
        _is_connected = True
        _listener.start()
        agree("the hosts", {"processes": count()})


def index() -> int:
    """Returns this host's place among the hosts, from 0."""
    return global_state.process_id


def count() -> int:
    """Returns the number of hosts."""
    return global_state.num_processes


def agree(name: str, mine: Mapping[str, Any]) -> None:
    """Returns on all hosts once it is known that they see the same; else on none.

    Args:
      name: what is compared, for the messages.
      mine: what this host sees, a flat table of what JSON can hold.

    Raises:
      UserError: this host sees something else than host 0. Hosts that agree with host 0 go on waiting: they
        are ended when this host tells its failure.
      RunError: a host did not answer.
    """
    here = json.loads(json.dumps(mine))
    first = from_first(name, here)
    odd = [field for field in dict.fromkeys([*first, *here]) if here.get(field) != first.get(field)]
    if odd:
        seen = "; ".join(
            f"{field}={_shown(here.get(field))}, host 0 {_shown(first.get(field))}" for field in odd
        )
        raise UserError(f"host {index()} sees {seen}; give all hosts the same data, code and command")
    barrier(name, seconds=WAIT_SECONDS)


def from_first(name: str, value: Any | None) -> Any:
    """Returns host 0's value on all hosts, as JSON gives it back.

    Args:
      name: what it is, for the message.
      value: on host 0; ignored on the others.

    Raises:
      RunError: host 0 did not say within `WAIT_SECONDS`.
    """
    if count() == 1:
        return json.loads(json.dumps(value))
    key = fresh_key("from_first", name)
    if index() == 0:
        _store().key_value_set(key, json.dumps(value))
        return json.loads(json.dumps(value))
    if not wait_until(lambda: get(key) is not None, WAIT_SECONDS):
        raise RunError(f"host {index()} waited {WAIT_SECONDS} s for host 0 to say '{name}'")
    return json.loads(get(key) or "")


def barrier(name: str, *, seconds: float) -> None:
    """Returns when all hosts have come here.

    Signals are handled while it waits.

    Raises:
      RunError: not all came within so many seconds; says what was waited for and which hosts are missing.
    """
    if count() == 1:
        return
    # JAX's own barrier waits outside Python, where no signal handler runs, and names no host.
    key = fresh_key("barrier", name)
    store = _store()
    store.key_value_set(f"{key}/here/{index()}", "")

    def missing() -> set[int]:
        here = {int(path.rpartition("/")[2]) for path, _ in store.key_value_dir_get(f"{key}/here/")}
        return set(range(count())) - here

    def is_open() -> bool:
        if index() == 0 and not missing():
            store.key_value_set(f"{key}/open", "")
            return True
        return index() > 0 and get(f"{key}/open") is not None

    if not wait_until(is_open, seconds):
        raise RunError(
            f"host {index()} waited {seconds:g} s for '{name}' on all hosts; {_hosts(missing())} did not come"
        )


def tell_failure(error_line: str, exit_code: int) -> None:
    """Tells the other hosts that this one is going down; they follow. Of several failures the first counts.

    Never raises: the run is failing already.
    """
    _tell(_FAILURE, host=index(), line=error_line[:2000], code=exit_code)


def tell_stop(reason: str) -> None:
    """Tells all hosts that this one was told to stop, as in a preemption. The first reason counts.

    Never raises: what stops this host will end the run if nobody hears of it.
    """
    _tell(_STOP, host=index(), reason=reason)


def leave(exit_code: int) -> NoReturn:
    """Ends this process at once, without waiting for the other hosts as a clean end does.

    Call it after `tell_failure`. In a run of several hosts it lingers a second, on host 0 two: the others
    must hear the failure before they lose this host or the coordinator, which would abort them instead.
    """
    _listener.stop()  # where several hosts fail at once, each says its own
    # Output that nobody takes must not keep this process.
    flushing = threading.Thread(target=_flush, daemon=True)
    flushing.start()
    linger()
    flushing.join(5)
    os._exit(exit_code)


def linger() -> None:
    """Returns when the other hosts have had the time to hear what this one told, before it ends."""
    if _is_connected:
        time.sleep(4 * LISTEN_SECONDS if index() == 0 else 2 * LISTEN_SECONDS)


def nothing_lost() -> None:
    """Tells the other hosts that this one ends with nothing lost; returns when they have had time to hear.

    They follow with exit code 42: no step was done since all was saved, for this host would have been in it.
    """
    tell_failure("told to stop with nothing to save yet", CHECKPOINTED)
    linger()


def finish() -> None:
    """Ends this host's part in a run that ended well: waits for all hosts and closes the connection.

    Raises `RunError` if not all hosts came to their end.
    """
    global _is_connected
    if _is_connected:
        barrier("the end", seconds=WAIT_SECONDS)
        _listener.stop()  # until here the failure of a host that is still at work is heard
        _is_connected = False
        jax.distributed.shutdown()


def _follow(host: int, line: str, exit_code: int) -> None:
    what = "ended" if exit_code == CHECKPOINTED else "failed"
    print(f"efficientnet-pod: host {host} {what}: {line}", file=sys.stderr)
    leave(exit_code if exit_code in (2, CHECKPOINTED) else 1)


# Replace them to do something else. A stop that is told while `on_stop` is None waits for it.
on_stop: Callable[[str], None] | None = None
on_failure: Callable[[int, str, int], None] = _follow


class Listener:
    """Hears what other hosts tell, on a thread that ends with the process; `join` starts it.

    Calls `on_stop` with the reason, once, when any host was told to stop, and `on_failure` with its index,
    error line and exit code when another host failed or ended with nothing lost. That prints the line and
    leaves, with the other host's exit code if that was 2 or 42, else 1.
    """

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to listen; does nothing if it does."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._listen, name="hosts", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Listens no more; returns when no callback runs, or after a second."""
        self._ended.set()
        if self._thread not in (None, threading.current_thread()):
            self._thread.join(1)

    def _listen(self) -> None:
        is_stop_heard, misses = False, 0
        while not self._ended.wait(LISTEN_SECONDS):
            try:
                told = _store().key_value_dir_get(_FAILURE.rpartition("/")[0] + "/")
            except JaxRuntimeError:
                misses += 1
                if misses == MOST_MISSES:
                    return  # host 0 is gone, and JAX is about to end this process
                continue
            misses = 0
            news = {key: json.loads(value) for key, value in told}
            if (stop := news.get(_STOP)) and not is_stop_heard and on_stop is not None:
                is_stop_heard = True
                on_stop(f"{stop['reason']} on host {stop['host']}")
            if (failure := news.get(_FAILURE)) and failure["host"] != index():
                on_failure(failure["host"], failure["line"], failure["code"])
                return


_listener = Listener()
_is_connected = False  # before that, what uses the store ends the process


def _tell(key: str, **what: Any) -> None:
    if _is_connected:
        # An earlier telling stands: a key can be set once.
        with suppress(Exception):
            _store().key_value_set(key, json.dumps(what))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def _hosts(indices: Iterable[int]) -> str:
    names = [str(i) for i in sorted(indices)]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"host{'s' * (len(names) > 1)} {shown}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
