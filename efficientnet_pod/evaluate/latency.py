"""Trained weights as compiled programs of levels → logits, and the time of a call on this device."""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.evaluate.evaluate import eval_batches
from efficientnet_pod.pod.cpu import compiler_options
from efficientnet_pod.run.metrics import Rates, count, cross_entropy, rates
from efficientnet_pod.run.run import Run
from efficientnet_pod.weights.export import FORMATS
from efficientnet_pod.weights.folder import write_folder
from efficientnet_pod.weights.formats.onnx_export import write_onnx
from efficientnet_pod.weights.formats.stablehlo import exported
from efficientnet_pod.weights.trained import Trained

BACKENDS = ("jax", "stablehlo", "onnx")
LEAST_CALLS, MOST_CALLS = 10, 1000
_WARM_UP = 3  # calls; the first one may still load and place what it needs

# uint8 levels (batch, height, width, 3) on the host → float32 logits (batch, classes) on the host
Program = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Timing:
    """The timed calls of one program.

    Attributes:
      backend: name in :data:`BACKENDS`.
      batch: images of a call.
      compile_seconds: time to compile the program, or to open it in onnxruntime.
      seconds: time of each call, after warm-up.
      rates: accuracy on the images; None without images.
    """

    backend: str
    batch: int
    compile_seconds: float
    seconds: tuple[float, ...]
    rates: Rates | None = None

    @property
    def mean(self) -> float:
        """Mean seconds of a call."""
        return statistics.fmean(self.seconds)

    @property
    def images_per_second(self) -> float:
        """Images over the time of all calls."""
        return self.batch / self.mean

    def percentile(self, percent: int) -> float | None:
        """Returns the seconds that so many percent of the calls took at most.

        None where the calls are too few: beyond the 99th percentile there must be one of a hundred.
        """
        if len(self.seconds) * (100 - percent) < 100:
            return None
        return float(np.percentile(self.seconds, percent))


@contextmanager
def compiler_of(
    backend: str, trained: Trained, path: str, *, onnx_python: str | None = None
) -> Iterator[Callable[[int], Program]]:
    """Yields a function that compiles the program of a batch for the device at hand.

    A ``model.stablehlo`` or ``model.onnx`` that is in the folder of the weights is the one that is taken.

    Args:
      backend: name in :data:`BACKENDS`.
      trained: the weights.
      path: where they come from.
      onnx_python: Python that has jax2onnx; None: this one.

    Raises:
      UserError: the backend is unknown, or lacks a package or this device.
      RunError: the network cannot be converted.
    """
    file = Path(path) / FORMATS[backend].name if backend in FORMATS else None
    file = file if file and file.is_file() else None
    if backend == "onnx":
        runtime = require_onnxruntime()
        with tempfile.TemporaryDirectory(prefix="efficientnet-pod-") as scratch:
            if file is None:
                write_folder(trained, Path(scratch) / "weights")
                write_onnx(Path(scratch) / "weights", onnx_python, flag="--backend=onnx")
                file = Path(scratch) / "weights" / FORMATS["onnx"].name
            yield lambda batch: _in_onnxruntime(runtime, str(file))
    elif backend == "stablehlo":
        program = jax.export.deserialize(bytearray(file.read_bytes())) if file else exported(trained)
        yield lambda batch: _compiled(trained, batch, lambda _, levels: program.call(levels), {})
    else:
        model, variables = trained.folded()

        def logits(variables: Any, levels: jax.Array) -> jax.Array:
            return model.apply(variables, trained.normalise(levels), train=False)

        yield lambda batch: _compiled(trained, batch, logits, variables)


def require_onnxruntime() -> Any:
    """Returns the module onnxruntime; raises UserError if it is not installed, or lacks this device."""
    try:
        runtime = import_module("onnxruntime")
    except ImportError:
        raise UserError(
            "--backend=onnx: onnxruntime is not installed; pip install onnxruntime, or leave onnx out"
        ) from None
    platform = jax.default_backend()
    if platform == "tpu":
        raise UserError("--backend=onnx: onnxruntime has no TPU; leave onnx out, or set JAX_PLATFORMS=cpu")
    if platform == "gpu" and "CUDAExecutionProvider" not in runtime.get_available_providers():
        raise UserError(
            "--backend=onnx: this onnxruntime knows no GPU; pip install onnxruntime-gpu, leave onnx out, or "
            "set JAX_PLATFORMS=cpu"
        )
    return runtime


def _compiled(trained: Trained, batch: int, logits: Callable[..., jax.Array], variables: Any) -> Program:
    levels = jax.ShapeDtypeStruct((batch, trained.image_size, trained.image_size, 3), jnp.uint8)
    variables = jax.device_put(variables, jax.local_devices()[0])
    with jax.default_matmul_precision("float32"):  # as `predict` computes
        call = jax.jit(logits).lower(variables, levels).compile(compiler_options(jax.default_backend()))
    return lambda levels: np.asarray(call(variables, levels))


def _in_onnxruntime(runtime: Any, file: str) -> Program:
    provider = {"gpu": "CUDAExecutionProvider"}.get(jax.default_backend(), "CPUExecutionProvider")
    session = runtime.InferenceSession(file, providers=[provider])
    name = session.get_inputs()[0].name
    return lambda levels: session.run(None, {name: levels.astype(np.float32)})[0]


def calls_within(seconds: float, program: Program, levels: np.ndarray) -> int:
    """Returns how many calls fill the time, 10 at least and 1,000 at most, after three of warm-up."""
    pace = [_seconds_of(program, levels) for _ in range(_WARM_UP)][-1]
    return min(MOST_CALLS, max(LEAST_CALLS, round(seconds / pace)))


def timed(
    program: Program, levels: np.ndarray, calls: int, advance: Callable[[int], None] = lambda calls: None
) -> tuple[float, ...]:
    """Returns the seconds of each call; ``advance`` is called after each, outside its time."""
    taken = []
    for _ in range(calls):
        taken.append(_seconds_of(program, levels))
        advance(1)
    return tuple(taken)


def _seconds_of(program: Program, levels: np.ndarray) -> float:
    began = time.perf_counter()
    program(levels)
    return time.perf_counter() - began


def accuracy(program: Program, batch: int, run: Run, advance: Callable[[int], None]) -> Rates:
    """Returns the rates of a program over all evaluation images of a run, whose link is uint8.

    Args:
      program: the program.
      batch: images that it takes.
      run: run with the images; one host.
      advance: gets the number of images done, batch by batch.
    """
    counted = []
    for images in eval_batches(run):
        for first in range(0, len(images["label"]), batch):
            part = {name: images[name][first : first + batch] for name in ("image", "label", "mask")}
            missing = batch - len(part["label"])
            levels, labels, mask = (
                np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
                for array in part.values()
            )
            logits = jnp.asarray(program(levels))
            losses = cross_entropy(logits, jnp.asarray(labels))
            counted.append(jax.device_get(count(logits, jnp.asarray(labels), losses, jnp.asarray(mask > 0))))
            advance(int(mask.sum()))
    return rates(counted)
