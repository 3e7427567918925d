"""One training step of ours and of plain Flax on a GPU, and ours there against ours on the CPU."""

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import plain_flax
from benchmarks.gpu_program import account_of
from benchmarks.ours import Training, training
from efficientnet_pod.models.converting import for_converter
from efficientnet_pod.optim.lars import Lars
from efficientnet_pod.pod.agreement import GO, host_signals, not_halted
from efficientnet_pod.pod.mesh import to_global

# Of the norm or the largest value on the CPU. Two forms of the convolutions on one CPU differ by a third of
# this or less (records/gpu_step.md).
BOUNDS = {"logits": 1e-4, "loss": 1e-5, "update": 5e-3, "tensor": 5e-2, "statistics": 1e-4}
_LEAST_SHARE = 1e-3  # of the norm of all updates: smaller ones are rounding, of a gradient that is zero


def devices(platform: str) -> list[Any]:
    """Returns the devices of ``cuda`` or ``cpu``; beside a GPU, JAX starts the CPU too."""
    jax.config.update("jax_platforms", "cpu" if platform == "cpu" else f"{platform},cpu")
    return jax.devices(platform)


def lower(
    contender: str, model: str, batch: int, image_size: int, device: Any
) -> tuple[jax.stages.Lowered, Callable[[], Any]]:
    """Returns the program of one step in bfloat16, and a function that makes its arguments.

    Args:
      contender: ``ours`` or ``plain``.
      model: a key of :data:`plain_flax.SCALINGS`.
      batch: images.
      image_size: pixels.
      device: need not be here, unless arguments are made.
    """
    if contender == "plain":
        lowered = plain_flax.lower(model, batch, [device], image_size=image_size)
        return lowered, lambda: jax.device_put(_drawn(lowered), device)
    lars = Lars(lr_per_256=0.118)
    given = training(
        model,
        batch,
        image_size,
        [device],
        optimizer=partial(lars.transformation, optax.linear_schedule(0.0, 0.118 * batch / 256, 1000)),
        dtype=jnp.bfloat16,
        label_smoothing=plain_flax.LABEL_SMOOTHING,
        ema_decay=plain_flax.EMA_DECAY,
        trust_ratios=lars.trust_ratios,
    )
    return given.lower(), lambda: _arguments(given)


def prepare(
    contender: str, model: str, batch: int, image_size: int, platform: str
) -> tuple[Callable[[], None], Callable[[], Any], Callable[[], dict[str, Any]]]:
    """Returns three functions: one starts a step, one waits for it, one gives the figures.

    The program is compiled here, for one device of the platform.
    """
    device = devices(platform)[0]
    began = time.perf_counter()
    lowered, arguments = lower(contender, model, batch, image_size, device)
    lower_seconds = time.perf_counter() - began
    began = time.perf_counter()
    program = lowered.compile()
    seconds = {"lower_seconds": lower_seconds, "compile_seconds": time.perf_counter() - began}
    state, *rest = arguments()
    outcome = None

    def step() -> None:
        nonlocal state, outcome
        state, outcome = program(state, *rest)

    def wait() -> Any:
        return jax.block_until_ready((state, outcome))

    def describe() -> dict[str, Any]:
        peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
        what = {"what": f"jax {jax.__version__}", "device_kind": device.device_kind, "peak_bytes": peak}
        return seconds | what | account_of(program)

    return step, wait, describe


def check(model: str, batch: int, image_size: int, platform: str) -> dict[str, Any]:
    """Returns how far float32 logits and one training step are from the CPU's, and which are out of bounds.

    Products have the highest precision. Of the logits and the loss it is the largest difference, relative to
    the largest value; of the BN statistics, the parameters' update, and the update of the tensor that is
    worst, the norm of the difference, relative to the norm. With ``cpu`` for a platform, the convolutions as
    a GPU gets them are compared with those that a CPU gets, both on the CPU.
    """
    device, (cpu, *_) = devices(platform)[0], jax.devices("cpu")
    with jax.default_matmul_precision("highest"):
        wanted = _numbers(model, batch, image_size, cpu)
        with for_converter() if device == cpu else nullcontext():
            found = _numbers(model, batch, image_size, device)
    updates = list(zip(found["update"], wanted["update"], strict=True))
    least = _LEAST_SHARE * _norm(wanted["update"])
    differences = {
        "logits": _largest(found["logits"], wanted["logits"]),
        "loss": _largest(found["loss"], wanted["loss"]),
        "update": _norm(f - w for f, w in updates) / _norm(wanted["update"]),
        "tensor": max(_norm([f - w]) / max(_norm([w]), least) for f, w in updates),
        "statistics": _norm(map(np.subtract, found["statistics"], wanted["statistics"]))
        / _norm(wanted["statistics"]),
    }
    beyond = [name for name, bound in BOUNDS.items() if not differences[name] <= bound]  # NaN is beyond
    return {
        "what": f"jax {jax.__version__}, float32, highest precision",
        "device_kind": device.device_kind,
        "differences": differences,
        "bounds": BOUNDS,
        "beyond": beyond,
    }


def _numbers(model: str, batch: int, image_size: int, device: Any) -> dict[str, Any]:
    """Returns logits, and loss, updates of the parameters and new BN statistics of one step of SGD."""
    given = training(
        model,
        batch,
        image_size,
        [device],
        optimizer=lambda params: optax.sgd(0.1),
        label_smoothing=plain_flax.LABEL_SMOOTHING,
    )

    def logits(variables: Any, levels: jax.Array) -> jax.Array:
        return given.step.model.apply(variables, given.step.normalise(levels), train=False)

    on_device = jax.device_put((given.variables, given.images["image"]), device)
    found = {"logits": np.asarray(jax.jit(logits)(*on_device))}
    state, outcome = given.lower().compile()(*_arguments(given))
    state, outcome = jax.device_get((state, outcome))
    update = jax.tree.map(np.subtract, state.params, given.variables["params"])
    found["loss"] = np.asarray(outcome.counts.loss)
    return found | {"update": jax.tree.leaves(update), "statistics": jax.tree.leaves(state.batch_stats)}


def _largest(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _norm(arrays: Iterable[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


def _arguments(given: Training) -> tuple[Any, dict[str, jax.Array], jax.Array]:
    batch = to_global(given.images, given.mesh) | {"command": host_signals(given.mesh)[GO]}
    return given.state(), batch, not_halted(given.mesh)


def _drawn(lowered: jax.stages.Lowered) -> Any:
    """Returns arguments of a program by their names, shapes and dtypes: kernels and images are random."""
    stream = np.random.default_rng(0)

    def draw(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        if "opt_state" not in name and name.endswith(("['kernel']", "['image']")):
            return (0.05 * stream.standard_normal(leaf.shape, np.float32)).astype(leaf.dtype)
        return np.full(leaf.shape, name.endswith(("['scale']", "['var']")), leaf.dtype)

    arguments, _ = lowered.args_info
    return jax.tree_util.tree_map_with_path(draw, arguments)
