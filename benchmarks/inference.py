"""Milliseconds of trained networks on two CPU cores: ours, PyTorch, onnxruntime, Keras, TensorFlow, in turns.

    python -m benchmarks.inference --onnx-python=onnxenv/bin/python

Each way of computing has a process of its own, which is stopped (SIGSTOP) while the others have their turn,
so that no thread of another framework spins. All are compiled and warmed up first. A turn is one call that is
not timed and some that are, by the clock and by the time of the CPU, which other work on the machine disturbs
less. From levels of 0..255 on the host to logits on the host, float32.

Weights are random, with batch norm's statistics of eight images of noise, written once by `export` and read
by each; PyTorch has random weights of its own and PyTorch's padding, with which it has less to do than with
TensorFlow's. Peers run with the C library's default memory and with huge pages; the faster of the two counts.
A framework that is not installed has no row.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stopped_process import StoppedProcess

Call = Callable[[], np.ndarray]
ROOT = Path(__file__).parents[1]
NETWORKS, BATCHES, CLASSES = ("b0", "b2", "lite0"), (1, 8), 1000
HUGE_PAGES = "glibc.malloc.hugetlb=1"
SECONDS = 0.5  # of a turn's calls, about


# --- the ways; each imports its framework in its own process ---------------------------------------------


def _levels(size: int, batch: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)


def ours(folder: Path, size: int, batch: int, *, form: str) -> tuple[Call, str]:
    """The program that `bench` times, the exported one, and the first with something undone."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    from efficientnet_pod.evaluate import latency
    from efficientnet_pod.weights.open import open_weights

    trained = open_weights(str(folder))
    if form == "apart":
        object.__setattr__(trained, "folded", lambda: (trained.model, dict(trained.variables)))
    if form == "narrow":
        latency.compiler_options = lambda platform: None
    backend = "stablehlo" if form == "stablehlo" else "jax"
    with latency.compiler_of(backend, trained, str(folder)) as compile_for:
        program = compile_for(batch)
    levels = _levels(size, batch)
    return lambda: program(levels), f"jax {jax.__version__}"


def onnxruntime(folder: Path, size: int, batch: int) -> tuple[Call, str]:
    """The exported file."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = runtime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    levels, name = _levels(size, batch), session.get_inputs()[0].name
    run = lambda: session.run(None, {name: levels.astype(np.float32)})[0]  # noqa: E731
    return run, f"onnxruntime {runtime.__version__}"


def keras(folder: Path, size: int, batch: int, *, frozen: bool) -> tuple[Call, str]:
    """`keras.applications` as one `tf.function`, or that with its variables as constants."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras as framework
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    threads = len(os.sched_getaffinity(0))
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    network = json.loads((folder / "config.json").read_text())["efficientnet_pod"]["network"]
    model = getattr(framework.applications, f"EfficientNet{network.upper()}")(
        weights=None, classes=CLASSES, classifier_activation=None, input_shape=(size, size, 3)
    )
    model.load_weights(folder / "model.weights.h5")
    function = tf.function(lambda images: model(images, training=False))
    levels = _levels(size, batch)
    name = f"keras {framework.__version__} on tensorflow {tf.__version__}"
    if not frozen:
        return lambda: function(tf.constant(levels.astype(np.float32))).numpy(), name
    signature = tf.TensorSpec((batch, size, size, 3), tf.float32)
    constant: Any = convert_variables_to_constants_v2(function.get_concrete_function(signature))
    return lambda: constant(tf.constant(levels.astype(np.float32)))[0].numpy(), name


def pytorch(folder: Path, size: int, batch: int, *, compiled: str = "") -> tuple[Call, str]:
    """The network in channels_last, eager or through `torch.compile`, without and with frozen weights."""
    import torch

    from benchmarks.peer_pytorch import efficientnet

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    network = json.loads((folder / "config.json").read_text())["efficientnet_pod"]["network"]
    model = efficientnet(network).to(memory_format=torch.channels_last).eval()
    if compiled == "frozen":
        import torch._inductor.config as inductor

        inductor.freezing = True
    forward = torch.compile(model) if compiled else model
    levels = torch.from_numpy(_levels(size, batch)).permute(0, 3, 1, 2)

    def run() -> np.ndarray:
        with torch.inference_mode() if not compiled else torch.no_grad():
            images = (levels.float() - 127.0) / 128.0
            return forward(images.contiguous(memory_format=torch.channels_last)).numpy()

    return run, f"torch {torch.__version__}, channels_last"


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to compute: its function and settings."""

    prepare: Callable[..., tuple[Call, str]]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    is_peer: bool = True
    has_our_weights: bool = True


def _of_ours(form: str) -> Way:
    return Way(ours, {"form": form}, is_peer=False)


WAYS = {
    "ours": _of_ours("bench"),
    "ours, StableHLO": _of_ours("stablehlo"),
    "ours, batch norm apart": _of_ours("apart"),
    "ours, vectors as XLA has them": _of_ours("narrow"),
    "PyTorch": Way(pytorch, has_our_weights=False),
    "PyTorch, compile": Way(pytorch, {"compiled": "yes"}, has_our_weights=False),
    "PyTorch, compile, frozen": Way(pytorch, {"compiled": "frozen"}, has_our_weights=False),
    "onnxruntime": Way(onnxruntime),
    "Keras": Way(keras, {"frozen": False}),
    "TensorFlow, frozen": Way(keras, {"frozen": True}),
}


# --- processes -------------------------------------------------------------------------------------------


class Worker:
    """A process with one way in it, stopped but in its turn."""

    def __init__(self, way: str, python: str, folder: Path, size: int, batch: int, *, huge: bool):
        self.way, self.huge, self.seconds, self.cpu = way, huge, list[list[float]](), list[float]()
        extra = {"GLIBC_TUNABLES": HUGE_PAGES} if huge else {}
        plain = {
            name: text for name, text in os.environ.items() if name not in ("GLIBC_TUNABLES", "XLA_FLAGS")
        }
        command = [python, "-m", "benchmarks.inference", f"--worker={way}", f"--folder={folder}"]
        command += [f"--size={size}", f"--batches={batch}"]
        self._process = StoppedProcess(
            command, stderr=subprocess.DEVNULL, cwd=ROOT, env=plain | extra | {"PYTHONPATH": str(ROOT)}
        )
        self.close = self._process.kill
        try:
            self.ready = self._process.first_answer()
        except RuntimeError as error:
            self.ready = {"missing": str(error)}

    def turn(self) -> None:
        """Runs and times the calls of one turn."""
        answer = self._process.ask("turn")
        self.seconds.append(answer["seconds"])
        self.cpu.append(answer["cpu"])

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return statistics.median(second for turn in self.seconds for second in turn)


def work(way: str, folder: Path, size: int, batch: int) -> None:
    """Serves one way: warms up, describes itself, then times a turn for each line of its input."""
    began = time.perf_counter()
    try:
        call, name = WAYS[way].prepare(folder, size, batch, **WAYS[way].options)
    except (ImportError, AttributeError, OSError) as error:
        print(json.dumps({"missing": f"{type(error).__name__}: {error}".partition("\n")[0]}), flush=True)
        return
    logits = call()
    first = time.perf_counter() - began
    for _ in range(3):
        started = time.perf_counter()
        call()
        pace = time.perf_counter() - started
    calls = max(3, min(50, round(SECONDS / pace)))
    print(json.dumps({"name": name, "first": first, "logits": logits.ravel().tolist()}), flush=True)
    for _ in sys.stdin:
        call()
        seconds, cpu = [], time.process_time()
        for _ in range(calls):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
        cpu = (time.process_time() - cpu) / calls
        print(json.dumps({"seconds": seconds, "cpu": cpu}), flush=True)


# --- weights ---------------------------------------------------------------------------------------------


def write(network: str, folder: Path, onnx_python: str | None) -> int:
    """Exports random weights in all formats, unless it was done; returns the pixels of an image."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    from efficientnet_pod.models.initial import initial_variables
    from efficientnet_pod.models.registry import NETWORKS as REGISTRY
    from efficientnet_pod.weights.export import export
    from efficientnet_pod.weights.trained import Trained, image_constants, untrained

    size = REGISTRY[network].image_size
    formats = [
        "stablehlo",
        *(["keras"] if network.startswith("b") else []),
        *(["onnx"] if onnx_python else []),
    ]
    files = {"stablehlo": "model.stablehlo", "keras": "model.weights.h5", "onnx": "model.onnx"}
    if all((folder / files[name]).exists() for name in formats):
        return size
    variables = initial_variables(untrained(network, CLASSES), size, seed=0)
    trained = Trained(network, variables, (), size, *image_constants(network))
    # Without momentum a pass of training stores its own statistics.
    model: Any = untrained(network, CLASSES, {"bn_momentum": 0.0})

    def statistics_of(levels: Any) -> Any:
        images = trained.normalise(levels)
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})[1]

    key = jax.random.key(0)
    stored = jax.device_get(jax.jit(statistics_of)(_levels(size, 8)))
    trained = dataclasses.replace(trained, variables={**variables, **stored})
    export(trained, folder, formats, onnx_python=onnx_python)
    return size


# --- the comparison --------------------------------------------------------------------------------------


def compare(network: str, batch: int, flags: argparse.Namespace) -> dict[str, Any]:
    """Prints the table of one network and batch; returns its figures."""
    folder = flags.folder / network
    size = write(network, folder, flags.onnx_python)
    load = os.getloadavg()[0]
    workers: list[Worker] = []
    missing: dict[str, str] = {}
    try:
        for name in flags.only:
            way = WAYS[name]
            python = flags.onnx_python or sys.executable if way.prepare is onnxruntime else sys.executable
            for huge in (False, True) if way.is_peer else (True,):
                worker = Worker(name, python, folder, size, batch, huge=huge)
                if "missing" in worker.ready:
                    missing[name] = worker.ready["missing"]
                    worker.close()
                    break
                workers.append(worker)
        for number in range(flags.turns):
            order = workers if number % 2 == 0 else workers[::-1]
            for worker in order:
                worker.turn()
    finally:
        for worker in workers:
            worker.close()
    return _table(network, size, batch, workers, missing, (load, os.getloadavg()[0]), flags.turns)


def _table(
    network: str,
    size: int,
    batch: int,
    workers: Sequence[Worker],
    missing: dict[str, str],
    load: tuple[float, float],
    turns: int,
) -> dict[str, Any]:
    shown = [
        min((each for each in workers if each.way == name), key=lambda worker: worker.median)
        for name in dict.fromkeys(worker.way for worker in workers)
    ]
    peers = [worker for worker in shown if WAYS[worker.way].is_peer]
    best = min(peers, key=lambda worker: worker.median) if peers else None
    reference = next(
        (np.array(worker.ready["logits"]) for worker in shown if not WAYS[worker.way].is_peer), None
    )
    print(f"\n{network}, {size} px, {batch} at a time, {turns} turns, load {load[0]:.1f} to {load[1]:.1f}\n")
    heads = ("way", "ms: median (min-max)", "n", "x best peer", "by turns", "CPU ms: median (min)", "memory")
    heads += ("first call s", "− ours", "what")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    rows = []
    for worker in shown:
        calls = sorted(1000 * second for turn in worker.seconds for second in turn)
        ratio = by_turn = None
        if best:
            ratio = best.median / worker.median
            by_turn = statistics.median(
                statistics.median(theirs) / statistics.median(own)
                for theirs, own in zip(best.seconds, worker.seconds, strict=True)
            )
        difference = None
        if reference is not None and WAYS[worker.way].has_our_weights:
            difference = np.abs(np.array(worker.ready["logits"]) - reference).max() / np.abs(reference).max()
        memory = "huge pages" if worker.huge else "default"
        rows.append(
            {
                "way": worker.way,
                "median_ms": 1000 * worker.median,
                "min_ms": calls[0],
                "max_ms": calls[-1],
                "calls": len(calls),
                "of_best_peer": ratio,
                "of_best_peer_by_turns": by_turn,
                "cpu_ms": [1000 * each for each in worker.cpu],
                "memory": memory,
                "first_call_seconds": worker.ready["first"],
                "difference": difference,
                "what": worker.ready["name"],
            }
        )
        cells = (
            worker.way,
            f"{1000 * worker.median:.1f} ({calls[0]:.1f}-{calls[-1]:.1f})",
            f"{len(calls)}",
            f"{ratio:.2f}" if ratio else "-",
            f"{by_turn:.2f}" if by_turn else "-",
            f"{1000 * statistics.median(worker.cpu):.1f} ({1000 * min(worker.cpu):.1f})",
            memory,
            f"{worker.ready['first']:.1f}",
            "-" if difference is None else f"{difference:.0e}",
            worker.ready["name"],
        )
        print(f"| {' | '.join(cells)} |", flush=True)
    for name, reason in missing.items():
        print(f"\nwithout {name}: {reason}", flush=True)
    return {"network": network, "images": batch, "load": load, "rows": rows, "missing": missing}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2, help="cores of every framework")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--folder", type=Path, default=Path(".cache/inference"), help="of the weights")
    parser.add_argument("--onnx-python", help="Python with jax2onnx and onnxruntime")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: flags.threads])
    if flags.worker:
        work(flags.worker, flags.folder, flags.size, *flags.batches)
        return
    flags.folder = flags.folder.absolute()
    flags.onnx_python = flags.onnx_python and os.path.abspath(flags.onnx_python)
    results = [compare(network, batch, flags) for network in flags.networks for batch in flags.batches]
    if flags.json:
        flags.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
