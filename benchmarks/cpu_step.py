"""Times one training step of EfficientNet-B0 on the CPU: ours, PyTorch's and Keras's in turns, in one run.

Each framework has a process of its own, since their thread pools disturb one another. All processes are
warmed up first; then they take turns, one timed step each: a machine that slows down slows all of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import NamedTuple

# Name → (module, its settings). Modules are imported in the worker only.
CONTENDERS: dict[str, tuple[str, dict[str, int | bool]]] = {
    "ours": ("ours", {"replicas": 1, "huge_pages": True}),
    "ours, 8 replicas": ("ours", {"replicas": 8, "huge_pages": True}),
    "ours, 8 apart": ("ours", {"replicas": 8, "huge_pages": True, "bn_group_size": 1}),
    "ours, 8 micro-batches": ("ours", {"replicas": 1, "huge_pages": True, "micro_batches": 8}),
    "ours, small pages": ("ours", {"replicas": 1, "huge_pages": False}),
    "PyTorch": ("peer_pytorch", {}),
    "Keras": ("peer_keras", {"jit_compile": False}),
    "Keras, XLA": ("peer_keras", {"jit_compile": True}),
}
PEERS = ("PyTorch", "Keras", "Keras, XLA")


class Size(NamedTuple):
    """Images in a step, and their height and width in pixels."""

    batch: int
    image_size: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Returns the size that `16x224` names."""
        batch, image_size = map(int, text.split("x"))
        return cls(batch, image_size)


class Worker:
    """A process with one framework in it, ready to run steps."""

    def __init__(self, name: str, size: Size, threads: int):
        command = [sys.executable, "-m", "benchmarks.cpu_step", "--worker", name]
        command += ["--sizes", f"{size.batch}x{size.image_size}", "--threads", str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self._read()

    def time_step(self) -> dict[str, float]:
        """Returns the wall and CPU seconds of one step."""
        assert self._process.stdin
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _read(self) -> dict:
        assert self._process.stdout
        # TensorFlow and others print to the same stream: an answer is a line of JSON.
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"a benchmark process ended with status {self._process.wait()}")


def work(name: str, size: Size, threads: int) -> None:
    """Serves one framework: warms up, describes itself, then times a step for each line of its input."""
    module, settings = CONTENDERS[name]
    prepare = partial(import_module(f"benchmarks.{module}").prepare, **settings)
    step: Callable[[], None]
    start = time.perf_counter()
    step, description = prepare(*size, threads)
    step()
    first = time.perf_counter() - start
    step()
    print(json.dumps({"description": description, "first_step_seconds": first}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}), flush=True)


def compare(names: Sequence[str], size: Size, rounds: int, threads: int) -> None:
    """Prints the table of one size."""
    workers = {name: Worker(name, size, threads) for name in names}
    times = {name: [] for name in names}
    for _ in range(rounds):
        for name, worker in workers.items():
            times[name].append(worker.time_step())
    for worker in workers.values():
        worker.close()
    median = {name: statistics.median(time["wall"] for time in times[name]) for name in names}
    peers = [median[name] for name in names if name in PEERS]
    print(f"\nbatch {size.batch} x {size.image_size} px, float32, {threads} threads, {rounds} steps each\n")
    print("| framework | images/s: median (min-max) | x faster peer | CPU s a step | first step s | what |")
    print("|---|---|---|---|---|---|")
    for name in names:
        rates = sorted(size.batch / time["wall"] for time in times[name])
        cells = (
            name,
            f"{size.batch / median[name]:.1f} ({rates[0]:.1f}-{rates[-1]:.1f})",
            f"{min(peers) / median[name]:.2f}" if peers else "-",
            f"{statistics.median(time['cpu'] for time in times[name]):.2f}",
            f"{workers[name].ready['first_step_seconds']:.1f}",
            workers[name].ready["description"],
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=Size.parse, default=[Size(16, 224), Size(256, 32)])
    parser.add_argument("--rounds", type=int, default=10, help="timed steps of each framework")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    # Every framework sees the same cores: XLA has no setting for its threads but the number of cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: flags.threads])
    if flags.worker:
        work(flags.worker, *flags.sizes, flags.threads)
        return
    for size in flags.sizes:
        compare(flags.only, size, flags.rounds, flags.threads)


if __name__ == "__main__":
    main()
