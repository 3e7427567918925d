"""Starts real hosts, processes of `host_worker.py` on this machine, and collects what they found out."""

import socket
import time
from pathlib import Path

import numpy as np
import zygote

Found = dict[str, np.ndarray]


def run_hosts(folder: Path, scenarios: list[str], *, hosts: int, devices: int) -> dict[str, list[Found]]:
    """Returns for each scenario what each host has found, in the order of the hosts.

    All scenarios run in one start of the processes. When one process fails, the others are killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    program = Path(__file__).with_name("host_worker.py")
    logs = [folder / f"host{host}.log" for host in range(hosts)]
    processes = []
    for host, log in enumerate(logs):
        place = [str(folder), coordinator, str(hosts), str(host), str(devices)]
        processes.append(zygote.start(program, [*place, *scenarios], out=log))
    try:
        _wait(processes, logs, deadline=time.monotonic() + 500)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return {name: [_read(folder / f"{name}.{host}.npz") for host in range(hosts)] for name in scenarios}


def _wait(processes: list[zygote.Process], logs: list[Path], *, deadline: float) -> None:
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    codes = [process.poll() for process in processes]
    if any(code != 0 for code in codes):
        said = "\n".join(f"-- host {host}\n{log.read_text()[-4000:]}" for host, log in enumerate(logs))
        raise AssertionError(f"exit codes {codes}, None still running\n{said}")


def _read(file: Path) -> Found:
    with np.load(file) as arrays:
        return dict(arrays)
