"""How far onnxruntime's logits are from JAX's, what the graph is made of, and milliseconds of both, in turn.

Run by the Python that has jax2onnx, so that both are in one process:

    PYTHONPATH=. onnxenv/bin/python -m benchmarks.onnx_agreement FOLDER

Writes a folder of weights for each network and exports it as `efficientnet-pod export --to=onnx` does.
Weights are random, batch norm's statistics those of the eight images, so that the images matter; batches of
1 and 8 go through the same file.
"""

import argparse
import dataclasses
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "references"))

import jax
import numpy as np
import onnx
import onnxruntime
from timm_reference import images, random_tensors, shapes_of

from efficientnet_pod.weights.convert import convert
from efficientnet_pod.weights.folder import write_folder
from efficientnet_pod.weights.foreign import Foreign
from efficientnet_pod.weights.formats.onnx_export import write_onnx
from efficientnet_pod.weights.trained import Trained, untrained

SIZES = {"b0": 224, "b3": 300, "lite0": 224, "resnet50": 224}
BATCHES = (1, 8)


def with_statistics(network: str, size: int, levels: np.ndarray) -> Trained:
    """Returns random weights whose statistics are those of the images."""
    foreign = Foreign(random_tensors(shapes_of(network)), network, {}, "")
    trained = dataclasses.replace(convert(foreign, network=network), image_size=size)
    # Without momentum a pass of training stores its own statistics.
    settings = {**trained.settings, "bn_momentum": 0.0}
    model = untrained(network, trained.num_classes, settings)

    @jax.jit
    def pass_of_training(x: jax.Array) -> Any:
        return model.apply(trained.variables, trained.normalise(x), train=True, mutable=["batch_stats"])[1]

    stored = jax.tree.map(np.asarray, pass_of_training(levels)["batch_stats"])
    return dataclasses.replace(trained, variables={**trained.variables, "batch_stats": stored})


def graph_of(file: Path) -> str:
    """Returns the convolutions and transpositions of the file, then those that onnxruntime runs of it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(file.with_name("optimized.onnx"))
    options.log_severity_level = 3  # it warns that the file is for this machine alone
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    counts = [
        Counter(node.op_type for node in onnx.load(path).graph.node)
        for path in (file, options.optimized_model_filepath)
    ]
    given, run = counts
    convolutions = run["Conv"] + run["FusedConv"]
    return f"{given['Conv']} / {given['Transpose']} → {convolutions} / {run['Transpose']}"


def milliseconds(ways: list[Callable[[], Any]], rounds: int) -> list[str]:
    """Returns median and range of each way, which take turns."""
    taken: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, kept in zip(ways, taken, strict=True):
            began = time.perf_counter()
            way()
            kept.append(1000 * (time.perf_counter() - began))
    return [f"{statistics.median(each):.0f} ({min(each):.0f}–{max(each):.0f})" for each in taken]


def rows(network: str, folder: Path, rounds: int) -> None:
    """Prints a row of the table for each batch."""
    size = SIZES[network]
    levels = images(size, max(BATCHES))
    trained = with_statistics(network, size, levels)
    write_folder(trained, folder)
    began = time.perf_counter()
    write_onnx(folder, sys.executable)
    taken, file = time.perf_counter() - began, folder / "model.onnx"
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    apply = jax.jit(trained.logits)
    graph, pixels = graph_of(file), levels.astype(np.float32)
    expected = np.asarray(apply(pixels))
    scale = np.abs(expected).max()
    spread = np.std(expected, axis=0).mean() / scale
    for batch in BATCHES:
        some = pixels[:batch]
        ways = [lambda x=some: np.asarray(apply(x)), lambda x=some: session.run(None, {"images": x})[0]]
        ours, theirs = (way() for way in ways)
        worst = max(np.abs(each - expected[:batch]).max() for each in (ours, theirs)) / scale
        times = " | ".join(milliseconds(ways, rounds))
        print(
            f"| {network} | {size} | {batch} | {spread:.2f} | {worst:.1e} | {times} | {graph} | "
            f"{file.stat().st_size:,} | {taken:.0f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default=",".join(SIZES))
    parser.add_argument("--rounds", type=int, default=15)
    flags = parser.parse_args()
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(
        f"jax {jax.__version__}, onnxruntime {onnxruntime.__version__}, {os.cpu_count()} cores, load {load}\n"
    )
    print(
        "| network | pixels | images | spread of a logit | difference | JAX, ms | onnxruntime, ms | "
        "Conv / Transpose, file → as run | bytes | export, s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for network in flags.models.split(","):
        rows(network, flags.folder / network, flags.rounds)


if __name__ == "__main__":
    main()
