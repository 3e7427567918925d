"""Finds the hosts of a run and connects this process to them."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax

# JAX has no public name for its detection of clusters without an attempt to connect.
from jax._src.clusters import ClusterEnv
from jax.errors import JaxRuntimeError

from efficientnet_pod.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
JOIN_SECONDS = 300
# JAX ends all hosts (SIGABRT) when one was silent for so long. A host may stand still for a minute where its
# machine is overloaded or moved, and such a pause must not cost the run; a dead host costs this time once.
SILENT_SECONDS = 100
SHUTDOWN_SECONDS = 60
# A host that waits says so after this time, then after twice the time, and so on.
SAY_SECONDS = 10


def connect(
    coordinator: str | None, processes: int | None, process: int | None, *, silent_seconds: int | None = None
) -> None:
    """Connects this process to the others as :meth:`.peers.Peers.join` says; alone it does nothing."""
    local_devices = None
    if coordinator is None and processes is None and process is None:
        coordinator, processes, process, local_devices = _detect()
        if coordinator is None and processes is None and process is None:
            return
    if processes == 1 and not process:
        return
    address, processes, process = _checked(coordinator, processes, process)
    _connect(address, processes, process, local_devices, silent_seconds or SILENT_SECONDS)


def wait_until(is_so: Callable[[], bool], seconds: float, *, waiting: Callable[[], str]) -> bool:
    """Asks at growing intervals, up to half a second; returns False if the time is over first.

    ``waiting`` says who waits for whom. It is printed on standard error if the wait is long, with the seconds
    so far, at growing intervals.
    """
    began, interval, silent_until = time.monotonic(), 0.02, float(SAY_SECONDS)
    while not is_so():
        waited = time.monotonic() - began
        if waited > seconds:
            return False
        if waited > silent_until:
            line = f"{waiting()}: {waited:.0f} s so far, {seconds:.0f} s at most"
            with suppress(OSError, ValueError):  # nobody reads, or standard error is closed
                print(f"efficientnet-pod: {line}", file=sys.stderr, flush=True)
            silent_until *= 2
        time.sleep(interval)
        interval = min(1.2 * interval, 0.5)
    return True


def _detect() -> tuple[str | None, int | None, int | None, Any]:
    """Returns coordinator, number of hosts, index and local devices, as JAX detects them; None if unknown."""
    named = os.environ.get("JAX_COORDINATOR_ADDRESS")
    devices = os.environ.get("JAX_LOCAL_DEVICE_IDS")
    try:
        return ClusterEnv.auto_detect_unset_distributed_params(
            named, None, None, [int(i) for i in devices.split(",")] if devices else None, None, JOIN_SECONDS
        )
    except Exception as error:  # metadata servers, Kubernetes and bad variables fail in many ways
        raise UserError(
            f"JAX found a cluster around but not its hosts ({_one_line(error)}); give every host "
            "--coordinator, --processes and --process, or --processes=1 to run alone"
        ) from error


def _checked(coordinator: str | None, processes: int | None, process: int | None) -> tuple[str, int, int]:
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    if missing := [flag for flag, value in given.items() if value is None]:
        raise UserError(
            f"{' and '.join(missing)} missing: a run of several hosts needs --coordinator=HOST:PORT (of "
            "process 0), --processes=N and --process=I on every host; --processes=1 runs alone"
        )
    assert coordinator is not None and processes is not None and process is not None
    if processes < 1 or not 0 <= process < processes:
        raise UserError(
            f"--process={process} with --processes={processes}: processes are numbered from 0, so that the "
            f"last is {processes - 1}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator={coordinator} is not HOST:PORT, e.g. --coordinator=10.0.0.1:8476")
    return coordinator, processes, process


def _connect(coordinator: str, processes: int, process: int, local_devices: Any, silent_seconds: int) -> None:
    """Returns when all hosts are connected; raises `UserError` if that cannot be."""
    host, _, port = coordinator.rpartition(":")
    host = host.strip("[]")
    is_local = host in LOOPBACK
    began = time.monotonic()
    # What fails inside JAX's connect ends the process with a stack trace, so look before.
    if process == 0:
        _refuse_taken_port(coordinator, host if is_local else "", int(port))
    elif not wait_until(
        lambda: _answers(host, int(port)),
        JOIN_SECONDS,
        waiting=lambda: f"process {process} waits for process 0 to answer at {coordinator}",
    ):
        raise UserError(
            f"process {process} has waited {JOIN_SECONDS} s for the coordinator at {coordinator}; start "
            "process 0 there, and let the firewall open that port to the other hosts"
        )
    # JAX would catch SIGTERM itself; here that is the interrupt's.
    jax.config.update("jax_enable_preemption_service", False)
    failures: list[BaseException] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                local_devices,
                cluster_detection_method="deactivate",
                coordinator_bind_address=coordinator if is_local else None,
                # Beyond our own patience: at its end JAX aborts.
                initialization_timeout=2 * JOIN_SECONDS,
                heartbeat_timeout_seconds=silent_seconds,
                shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            )
        except BaseException as error:
            failures.append(error)

    # On a thread, because it is more patient than we are.
    connecting = threading.Thread(target=initialize, name="join", daemon=True)
    connecting.start()
    remaining = JOIN_SECONDS - (time.monotonic() - began)
    if not wait_until(
        lambda: not connecting.is_alive(),
        remaining,
        waiting=lambda: f"process {process} waits for all {processes} processes to come to {coordinator}",
    ):
        raise UserError(
            f"not all {processes} processes came to the coordinator at {coordinator} within "
            f"{JOIN_SECONDS} s; start the same command on every host"
        )
    for error in failures:
        if isinstance(error, JaxRuntimeError):
            raise UserError(f"process {process} cannot join at {coordinator}: {_one_line(error)}") from error
        raise error


def _refuse_taken_port(coordinator: str, host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise UserError(
            f"process 0 cannot open the coordinator's port of {coordinator} "
            f"({os.strerror(error.errno or 0)}); choose another"
        ) from error


def _answers(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=5):
        return True
    return False


def _one_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
