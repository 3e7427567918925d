"""Times one training step of EfficientNet-B0 on the CPU: ours, PyTorch's and Keras's, in one run.

Each framework has a process of its own, and the cores for itself while it runs: all others are stopped by a
signal, since their threads spin while they wait. They take turns, so that a machine that slows down slows all
of them. A turn is one step that warms the caches and three timed ones.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.stopped_process import StoppedProcess
from efficientnet_pod.pod.cpu import cpu_facts
from efficientnet_pod.pod.memory import give_back, peak_bytes

# Name → (module, its settings). Modules are imported in the worker only.
CONTENDERS: dict[str, tuple[str, dict[str, int | bool]]] = {
    "ours": ("ours", {"replicas": 1, "huge_pages": True}),
    "ours, 8 replicas": ("ours", {"replicas": 8, "huge_pages": True}),
    "ours, 8 apart": ("ours", {"replicas": 8, "huge_pages": True, "bn_group_size": 1}),
    "ours, 8 micro-batches": ("ours", {"replicas": 1, "huge_pages": True, "micro_batches": 8}),
    "ours, small pages": ("ours", {"replicas": 1, "huge_pages": False}),
    "PyTorch": ("peer_pytorch", {"compiled": False}),
    "PyTorch, compiled": ("peer_pytorch", {"compiled": True}),
    "Keras": ("peer_keras", {"jit_compile": False}),
    "Keras, XLA": ("peer_keras", {"jit_compile": True}),
}
PEERS = ("PyTorch", "PyTorch, compiled", "Keras", "Keras, XLA")
# XLA compiles Keras's step for minutes, and to a tenth of the speed: measured when it is asked for.
USUAL = ("ours", "PyTorch", "PyTorch, compiled", "Keras")
_STEPS_A_TURN = 3


class Size(NamedTuple):
    """Images in a step, and their height and width in pixels."""

    batch: int
    image_size: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Returns the size that `16x224` names."""
        batch, image_size = map(int, text.split("x"))
        return cls(batch, image_size)


SIZES = (Size(256, 32), Size(32, 128), Size(16, 224), Size(64, 224))


class Timed(NamedTuple):
    """One step: its seconds by the clock, and those of all cores together."""

    wall: float
    cpu: float


class Worker:
    """A framework in a process of its own, stopped but for its turns."""

    def __init__(self, name: str, size: Size, threads: int):
        command = [sys.executable, "-m", "benchmarks.cpu_step", "--worker", name]
        command += ["--sizes", f"{size.batch}x{size.image_size}", "--threads", str(threads)]
        self._process = StoppedProcess(command)
        self.kill = self._process.kill

    def warm_up(self) -> dict[str, Any]:
        """Returns ``description`` and ``first_step_seconds``, once the framework has compiled its step."""
        return self._process.first_answer()

    def take_turn(self) -> list[Timed]:
        """Returns the timed steps of one turn."""
        return [Timed(*step) for step in self._process.ask("turn")["steps"]]

    def peak_bytes(self) -> int:
        """Returns the most bytes that the process has held in its turns."""
        return self._process.ask("peak")["bytes"]


def work(name: str, size: Size, threads: int) -> None:
    """Serves one framework: warms up, describes itself, then answers each line of its input."""
    module, settings = CONTENDERS[name]
    prepare = partial(import_module(f"benchmarks.{module}").prepare, **settings)
    step: Callable[[], None]
    start = time.perf_counter()
    step, description = prepare(*size, threads)
    step()
    ready = {"description": description, "first_step_seconds": time.perf_counter() - start}
    step()
    give_back()  # what compilation left, as a training does
    Path("/proc/self/clear_refs").write_text("5")  # the most memory ever held counts from here
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        answer = {"bytes": peak_bytes()} if line == "peak\n" else {"steps": _turn(step)}
        print(json.dumps(answer), flush=True)


def _turn(step: Callable[[], None]) -> list[Timed]:
    step()
    times = list[Timed]()
    for _ in range(_STEPS_A_TURN):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        times.append(Timed(time.perf_counter() - wall, time.process_time() - cpu))
    return times


def compare(names: Sequence[str], size: Size, rounds: int, threads: int) -> None:
    """Prints the table of one size."""
    workers, ready = dict[str, Worker](), dict[str, dict[str, Any]]()
    times = {name: list[Timed]() for name in names}
    try:
        for name in names:
            workers[name] = Worker(name, size, threads)
            ready[name] = workers[name].warm_up()
        for _ in range(rounds):
            for name, worker in workers.items():
                times[name] += worker.take_turn()
        peaks = {name: worker.peak_bytes() for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.kill()
    median = {name: statistics.median(step.wall for step in times[name]) for name in names}
    peers = [median[name] for name in names if name in PEERS]
    steps = rounds * _STEPS_A_TURN
    print(f"\nbatch {size.batch} x {size.image_size} px, float32, {threads} threads, {steps} steps each\n")
    print(
        "| framework | images/s: median (min-max) | x best peer | CPU s a step | GB | first step s | what |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in names:
        rates = sorted(size.batch / step.wall for step in times[name])
        cells = (
            name,
            f"{size.batch / median[name]:.1f} ({rates[0]:.1f}-{rates[-1]:.1f})",
            f"{min(peers) / median[name]:.2f}" if peers else "-",
            f"{statistics.median(step.cpu for step in times[name]):.2f}",
            f"{peaks[name] / 1e9:.2f}",
            f"{ready[name]['first_step_seconds']:.0f}",
            ready[name]["description"],
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def machine() -> str:
    """Returns the processor, its cores for us, the memory, and how busy the machine is."""
    name, family, model = map(cpu_facts().get, ("model name", "cpu family", "model"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{len(os.sched_getaffinity(0))} cores of {name} (family {family}, model {model}), {memory:.1f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=Size.parse, default=list(SIZES))
    parser.add_argument(
        "--rounds", type=int, default=10, help=f"turns of each framework, of {_STEPS_A_TURN} timed steps"
    )
    parser.add_argument(
        "--threads", nargs="+", type=int, default=sorted({len(os.sched_getaffinity(0)), 1}, reverse=True)
    )
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(USUAL))
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if not flags.worker:
        # So that stopped processes are not left behind.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(143))
        print(machine(), flush=True)
    for threads in flags.threads:
        # Every framework sees the same cores: XLA has no setting for its threads but the number of cores.
        os.sched_setaffinity(0, cores[:threads])
        for size in flags.sizes:
            if flags.worker:
                work(flags.worker, size, threads)
            else:
                compare(flags.only, size, flags.rounds, threads)


if __name__ == "__main__":
    main()
