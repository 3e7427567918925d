"""Checks our numbers on a GPU against the CPU's, then times one training step: ours, timm's, plain Flax's.

It needs JAX with CUDA, Flax and optax, and for the peers PyTorch and timm. Each row has a process of its own,
alone on the GPU, and is in --json as soon as it is made. Rows for which --budget has no time are left out;
the same command with --resume makes them. `--platform=cpu --small` runs all of it where no GPU is.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.plain_flax import SCALINGS
from benchmarks.resumable import ROOT, Result, Results, made_of
from benchmarks.tpu_step import Row
from efficientnet_pod.pod.chips import GIB, chip_of

# Name → its module, imported in the worker only.
CONTENDERS = {
    "ours": "gpu_jax",
    "timm": "peer_timm",
    "timm-compiled": "peer_timm",
    "plain": "gpu_jax",
}
PEERS = ("timm", "timm-compiled")
CHECK = "check"
ROWS, SMALL_ROWS = "b0x256,b2x128,b5x32", "b0x4"
SMALL_SIZE = 32  # pixels
GROUPS, STEPS = 10, 5  # the device is waited for after each group of steps
SMALL_GROUPS, SMALL_STEPS = 2, 1
LEAST_SECONDS = 30  # that a process needs to say anything at all
SOURCES = ["gpu_jax", "gpu_program", "gpu_step", "ours", "peer_pytorch", "peer_timm", "plain_flax"]


def time_steps(contender: str, row: Row, platform: str, *, small: bool) -> Result:
    """Returns the figures of one contender: seconds of a step in each group, compilation, memory, program."""
    model, batch = row
    size = SMALL_SIZE if small else SCALINGS[model].image_size
    groups, steps = (SMALL_GROUPS, SMALL_STEPS) if small else (GROUPS, STEPS)
    prepare = import_module(f"benchmarks.{CONTENDERS[contender]}").prepare
    step, wait, describe = prepare(contender, model, batch, size, platform)
    began = time.perf_counter()
    step()
    wait()
    first = time.perf_counter() - began
    for _ in range(steps):
        step()
    wait()
    seconds = []
    for _ in range(groups):
        began = time.perf_counter()
        for _ in range(steps):
            step()
        wait()
        seconds.append((time.perf_counter() - began) / steps)
    figures = describe()
    # PyTorch compiles in its first step, JAX before it.
    ready = figures.get("lower_seconds", 0) + figures.get("compile_seconds", 0) + first
    timed = {"step_seconds": seconds, "steps": groups * steps, "ready_seconds": ready}
    return timed | {"images": batch, "image_size": size} | figures


def work(contender: str, row: Row, platform: str, *, small: bool) -> Result:
    """Returns what a worker prints: the check, or the times of one contender."""
    if contender != CHECK:
        return time_steps(contender, row, platform, small=small)
    from benchmarks import gpu_jax

    return gpu_jax.check("b0", *((4, SMALL_SIZE) if small else (8, 128)), platform)


def require_device(parser: argparse.ArgumentParser, platform: str, instead: str) -> str:
    """Returns the name of the platform's first device; ends with status 2 and one line where there is none.

    A process of its own asks for it, since JAX would keep memory of the GPU. ``instead`` is a command for a
    machine without one.
    """
    code = f"from benchmarks.gpu_jax import devices; print(devices({platform!r})[0].device_kind)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    if process.returncode:
        said = (process.stderr.strip().splitlines() or ["nothing"])[-1]
        parser.exit(
            2,
            f"no GPU: JAX says '{said}'; look at nvidia-smi and install jax[cuda12], or try it here: "
            f"python -m {instead}\n",
        )
    return process.stdout.splitlines()[-1]


def make_all(flags: argparse.Namespace, device: str) -> tuple[list[Result], list[str], int]:
    """Returns the results, the names of what was left out, and the number of failures."""
    ends = time.monotonic() + flags.budget
    results = Results(flags.json, resume=flags.resume)
    of_all = {"device": device, "platform": flags.platform, "small": flags.small}
    of_all |= made_of([f"benchmarks/{name}.py" for name in SOURCES] + ["efficientnet_pod"])
    found: list[Result] = []
    left_out: list[str] = []
    taken: dict[str, float] = {}  # seconds of the last process of a contender; the next network is larger
    wanted = [(CHECK, flags.rows[0])] + [(name, row) for row in flags.rows for name in flags.contenders]
    for contender, row in wanted:
        identity = {"row": CHECK if contender == CHECK else str(row), "contender": contender} | of_all
        left = ends - time.monotonic()
        if not results.kept(identity) and left < max(LEAST_SECONDS, taken.get(contender, 0)):
            left_out.append(f"{row} {contender}")
            continue
        command = ["benchmarks.gpu_step", "--worker", contender, f"--platform={flags.platform}"]
        command += [f"--rows={row}", *(["--small"] if flags.small else [])]
        began = time.monotonic()
        result = results.get(identity, command, seconds=left)
        taken[contender] = time.monotonic() - began
        found += [result] if result else []
    return found, left_out, results.failures


def table(found: list[Result]) -> str:
    """Returns the times as Markdown, each beside the fastest peer of its row."""
    lines = [
        "| row | program | images/s: median (min–max) | of the faster timm's | ms | n | peak GiB "
        "| program GiB | GB a step | of HBM's rate | kernels | ready s | what |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    timed = [result for result in found if "step_seconds" in result]
    for result in timed:
        median = statistics.median(result["step_seconds"])
        rates = [result["images"] / seconds for seconds in result["step_seconds"]]
        peers = [
            statistics.median(peer["step_seconds"])
            for peer in timed
            if peer["row"] == result["row"] and peer["contender"] in PEERS
        ]
        chip, accessed = chip_of(result["device_kind"]), result.get("bytes_accessed")
        bandwidth = chip and chip.hbm_bandwidth
        cells = [
            result["row"],
            result["contender"],
            f"{result['images'] / median:,.1f} ({min(rates):,.1f}–{max(rates):,.1f})",
            _shown(min(peers) / median if peers else None, 2),
            _shown(median * 1e3, 2),
            str(result["steps"]),
            _shown(result.get("peak_bytes"), 2, GIB),
            _shown(result.get("program_bytes"), 2, GIB),
            _shown(accessed, 2, 1e9),
            _shown(accessed / median / bandwidth if accessed and bandwidth else None, 2),
            _shown(result.get("kernels"), 0),
            _shown(result["ready_seconds"], 1),
            result["what"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(value: float | None, digits: int, unit: float = 1) -> str:
    return "–" if value is None else f"{value / unit:,.{digits}f}"


def words_of_check(check: Result) -> str:
    """Returns the differences of the check, each with its bound."""
    from benchmarks.gpu_jax import BOUNDS

    differences = check["differences"]
    each = ", ".join(
        f"{name} {differences[name]:.1e} (at most {bound:.0e})" for name, bound in BOUNDS.items()
    )
    verdict = f"BEYOND: {', '.join(check['beyond'])}" if check["beyond"] else "all within"
    return f"against the CPU, {check['what']}: {each}; {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=Row.parse_list, help=f"networks and images of a step, e.g. {ROWS}")
    parser.add_argument(
        "--contenders",
        type=lambda text: text.split(","),
        default=list(CONTENDERS),
        help=f"whose steps, of {', '.join(CONTENDERS)}",
    )
    parser.add_argument("--platform", choices=("cuda", "cpu"), default="cuda", help="where the steps run")
    parser.add_argument(
        "--small", action="store_true", help="4 images of 32 pixels, two steps: to try it out"
    )
    parser.add_argument(
        "--budget", type=float, default=460, help="seconds after which no row begins or goes on"
    )
    parser.add_argument("--json", type=Path, default=Path(".cache/gpu_step.jsonl"), help="gets each result")
    parser.add_argument("--resume", action="store_true", help="take from --json what has not changed since")
    parser.add_argument("--worker", choices=(CHECK, *CONTENDERS), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    flags.rows = flags.rows or Row.parse_list(SMALL_ROWS if flags.small else ROWS)
    if unknown := [name for name in flags.contenders if name not in CONTENDERS]:
        parser.error(f"--contenders: {', '.join(unknown)}; known are {', '.join(CONTENDERS)}")
    if unknown := [str(row) for row in flags.rows if row.model not in SCALINGS]:
        parser.error(f"--rows: {', '.join(unknown)}; known networks are {', '.join(SCALINGS)}")
    # Each framework takes what it needs, so that its peak says something.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if flags.small and flags.platform == "cpu":
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # it need not be fast
    if flags.worker:
        print(json.dumps(work(flags.worker, flags.rows[0], flags.platform, small=flags.small)), flush=True)
        return
    # A time limit from outside ends the row under way too, which has a session of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    device = require_device(parser, flags.platform, "benchmarks.gpu_step --platform=cpu --small")
    found, left_out, failures = make_all(flags, device)
    checks: list[Any] = [result for result in found if result["contender"] == CHECK]
    print(f"\n{device}; bfloat16, n steps in groups, the device waited for after each group\n")
    print(*map(words_of_check, checks), sep="\n")
    print(f"\n{table(found)}")
    if left_out:
        print(f"\nno time left for: {', '.join(left_out)}. The same command with --resume makes them.")
    sys.exit(1 if failures or any(check["beyond"] for check in checks) else 0)


if __name__ == "__main__":
    main()
