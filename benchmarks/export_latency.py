"""Milliseconds of exported networks on this CPU: JAX, its StableHLO program and onnxruntime, in turn.

Run by the Python that has jax2onnx, so that all three are in one process:

    PYTHONPATH=. onnxenv/bin/python -m benchmarks.export_latency FOLDER…

Each folder is one that `efficientnet-pod export --to=stablehlo,onnx` wrote. The medians are of rounds in
which each takes its turn, after a first call of each that compiles.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import onnxruntime

from efficientnet_pod.weights.convert import convert
from efficientnet_pod.weights.reading import read_foreign


def rows(folder: Path, batch: int, rounds: int) -> str:
    """Returns a row of the table."""
    trained = convert(read_foreign(str(folder)))
    size = trained.image_size
    levels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    pixels = levels.astype(np.float32)
    apply = jax.jit(trained.logits)
    program = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    call = jax.jit(program.call)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    ways: list[Callable[[], np.ndarray]] = [
        lambda: np.asarray(apply(levels)),
        lambda: np.asarray(call(levels)),
        lambda: session.run(None, {"images": pixels})[0],
    ]
    expected, *others = (way() for way in ways)
    scale = np.abs(expected).max()
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, kept in zip(ways, seconds, strict=True):
            began = time.perf_counter()
            way()
            kept.append(time.perf_counter() - began)
    times = " | ".join(f"{1000 * statistics.median(each):.0f}" for each in seconds)
    differences = " | ".join(f"{np.abs(other - expected).max() / scale:.1e}" for other in others)
    return f"| {trained.network} | {size} | {batch} | {times} | {differences} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    flags = parser.parse_args()
    print(f"jax {jax.__version__}, onnxruntime {onnxruntime.__version__}, {os.cpu_count()} cores\n")
    print("| network | pixels | images | JAX, ms | StableHLO | onnxruntime | StableHLO − JAX | … − JAX |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in flags.folders:
        for batch in (1, 8):
            print(rows(folder, batch, flags.rounds), flush=True)


if __name__ == "__main__":
    main()
