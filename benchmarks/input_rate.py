"""Times the way from JPEG files to batches: ours, Flax's, PyTorch's, Keras's and FFCV's in turns, in one run.

Each contender is a process of its own, pinned with all its threads and workers to the same cores, and stopped
while it is not its turn. It takes some batches untimed at each turn, so that none is timed that was ready.
Command: python -m benchmarks.input_rate
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.stopped_process import StoppedProcess

BATCH = 128
IMAGE_SIZE = 224
TASKS = ("crop+flip", "RandAugment", "AutoAugment", "eval")
CROPS = ("crop+flip", "eval")
# Name → (module, its settings, its tasks). Modules are imported in the worker only.
CONTENDERS: dict[str, tuple[str, dict[str, str | bool], Sequence[str]]] = {
    "ours, fast": ("input_ours", {"resize": "fast", "dtype": "uint8"}, TASKS),
    "ours": ("input_ours", {"resize": "reference", "dtype": "uint8"}, TASKS),
    "ours, float32": ("input_ours", {"resize": "reference", "dtype": "float32"}, CROPS),
    "Flax example": ("input_flax", {}, CROPS),
    "PyTorch": ("input_pytorch", {}, TASKS),
    "Keras": ("input_keras", {}, ("crop+flip", "RandAugment", "eval")),
    "FFCV": ("input_ffcv", {"normalise": False}, CROPS),
    "FFCV, float32": ("input_ffcv", {"normalise": True}, CROPS),
}
NEED_CORES = ("input_pytorch", "input_ffcv")
UNTIMED = 3  # batches at the start of a turn
LONGEST_TURN = 15.0  # seconds, after which no further batch is taken; Keras's RandAugment makes 20 images/s
CLOCKS = ("wall", "cpu")


class Worker:
    """A process with one contender in it, stopped but for its turns."""

    def __init__(self, name: str, task: str, flags: argparse.Namespace):
        python = flags.ffcv_python if CONTENDERS[name][0] == "input_ffcv" else sys.executable
        command = [python, "-m", "benchmarks.input_rate", "--worker", name, "--tasks", task]
        command += ["--photos", str(flags.photos), "--cores", str(flags.cores)]
        self._process = StoppedProcess(command)
        self.close = self._process.kill
        self.description = self._process.first_answer()["description"]

    def turn(self, batches: int) -> dict[str, float]:
        """Returns the images per second, and per second of CPU time, of one turn."""
        turn = self._process.ask(str(batches))
        return {clock: turn["batches"] * BATCH / turn[clock] for clock in CLOCKS}


def work(name: str, task: str, photos: Path, cores: int) -> None:
    """Serves one contender: warms up, then times as many batches as each line of input says."""
    module, settings, _ = CONTENDERS[name]
    if module in NEED_CORES:
        settings = {**settings, "cores": cores}
    prepare = import_module(f"benchmarks.{module}").prepare
    batches, description = prepare(photos, task, BATCH, **settings)
    for _ in range(UNTIMED):
        images = next(batches)
        if sorted(images.shape) != sorted((BATCH, IMAGE_SIZE, IMAGE_SIZE, 3)):
            raise AssertionError(f"{name} makes batches of shape {tuple(images.shape)}")
    print(json.dumps({"description": description}), flush=True)
    for line in sys.stdin:
        for _ in range(UNTIMED):
            next(batches)
        wall, cpu, taken = time.perf_counter(), _cpu_seconds(), 0
        while taken < int(line) and time.perf_counter() - wall < LONGEST_TURN:
            next(batches)
            taken += 1
        clocks = {"wall": time.perf_counter() - wall, "cpu": _cpu_seconds() - cpu}
        print(json.dumps({"batches": taken, **clocks}), flush=True)


def _cpu_seconds() -> float:
    """Returns the CPU time of this process and of the workers it has started, all of one session."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[3]) == os.getsid(0):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(names: Sequence[str], task: str, flags: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Prints the table of one task; returns the rates of each contender's turns."""
    workers: dict[str, Worker] = {}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    try:
        for name in names:
            workers[name] = Worker(name, task, flags)
        for _ in range(flags.rounds):
            for name, worker in workers.items():
                turns[name].append(worker.turn(flags.batches))
    finally:  # stopped processes would stay for ever
        for worker in workers.values():
            worker.close()
    print(f"\n{task}: {flags.rounds} turns of {flags.batches * BATCH:,} images each, {flags.cores} core(s)\n")
    print("| pipeline | images/s a core | x best peer | images/CPU s | x best peer | what |")
    print("|---|---|---|---|---|---|")
    for name in names:
        cells = [name]
        for clock in CLOCKS:
            cores = flags.cores if clock == "wall" else 1
            cells.append(_spread([turn[clock] / cores for turn in turns[name]], ".0f"))
            cells.append(_spread(_ratios(turns, name, clock), ".2f"))
        print(f"| {' | '.join(cells)} | {workers[name].description} |", flush=True)
    return turns


def _ratios(turns: dict[str, list[dict[str, float]]], name: str, clock: str) -> list[float]:
    """Returns, round by round, a contender's rate over that of the best peer in the same round."""
    peers = [peer for peer in turns if not peer.startswith("ours")]
    if not peers:
        return []
    best = [max(rates[clock] for rates in round_) for round_ in zip(*map(turns.get, peers), strict=True)]
    return [turn[clock] / rate for turn, rate in zip(turns[name], best, strict=True)]


def _spread(values: Sequence[float], form: str) -> str:
    """Returns "median (min-max)"."""
    if not values:
        return "-"
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=Path, default=Path(".cache/benchmark_photos"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender")
    parser.add_argument("--batches", type=int, default=16, help="timed batches of a turn, at most")
    parser.add_argument("--cores", type=int, default=1, help="cores that each contender is pinned to")
    parser.add_argument("--ffcv-python", help="the Python that has FFCV; without it FFCV is left out")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-flags.cores :])
    if flags.worker:
        work(flags.worker, flags.tasks[0], flags.photos, flags.cores)
        return
    from benchmarks.photos import photos  # not in a worker: FFCV's Python lacks what makes the photos

    photos(flags.photos)
    print(f"load average at the start: {os.getloadavg()[0]:.1f}")
    plain: dict[str, float] = {}
    for task in flags.tasks:
        names = [name for name in flags.only if task in CONTENDERS[name][2]]
        if not flags.ffcv_python:
            names = [name for name in names if CONTENDERS[name][0] != "input_ffcv"]
        turns = measure(names, task, flags)
        rates = {name: statistics.median(turn["cpu"] for turn in turns[name]) for name in names}
        plain = plain or rates
        print(f"\nx its own {flags.tasks[0]}, by CPU time: ", end="")
        print(", ".join(f"{name} {rate / plain[name]:.2f}" for name, rate in rates.items() if name in plain))
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
