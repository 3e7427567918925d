"""Measurement of a run's programs on the devices that are here, with random images."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from efficientnet_pod.pod.agreement import GO, host_signals, not_halted
from efficientnet_pod.pod.mesh import put_replicated, to_global
from efficientnet_pod.preflight.compile import CompiledProgram
from efficientnet_pod.run.run import Run

_WARM_UP, _CALLS = 3, 10


def measure_programs(run: Run, programs: tuple[CompiledProgram, ...]) -> dict[str, float]:
    """Returns the median seconds of ten calls of each program, after three to warm up, by its name.

    Each step starts from the state that the last one left, as in training. The images are noise and stay on
    the devices, so that no step waits for input. Programs that are too large are left out.
    """
    variables = run.initial_variables()
    shapes = iter(run.plan.eval_shapes)
    seconds = {}
    for compiled in programs:
        if compiled.phase:
            size, images = compiled.phase.image_size, compiled.phase.micro_batch
            height, width = size, size
        else:
            (height, width, _), images = next(shapes), run.plan.eval_batch
        if compiled.executable is None:
            continue
        batch = _noise(run, images, height, width, mask=compiled.phase is None)
        if compiled.phase and run.plan.is_accumulated:
            call = _part_of_step(run, compiled, batch, variables)
        elif compiled.phase:
            call = _training(run, compiled.executable, batch, variables)
        else:
            call = partial(compiled.executable, put_replicated(variables, run.mesh), batch)
        seconds[compiled.name] = _median(call)
    return seconds


def _training(
    run: Run, step: jax.stages.Compiled, batch: dict[str, jax.Array], variables: dict[str, Any]
) -> Callable[[], Any]:
    """Returns a function that makes one step from the state that the step before has left."""
    state, halted = run.lower_init().compile()(variables), not_halted(run.mesh)

    def call() -> Any:
        nonlocal state, halted
        state, outcome = step(state, batch, halted)
        halted = outcome.halted
        return outcome

    return call


def _part_of_step(
    run: Run, compiled: CompiledProgram, batch: dict[str, jax.Array], variables: dict[str, Any]
) -> Callable[[], Any]:
    """Returns a function that adds a micro-batch to the sums, or makes the update from them."""
    assert compiled.executable
    program, halted = compiled.executable, not_halted(run.mesh)
    state, sums = run.lower_init().compile()(variables), run.lower_no_sums().compile()()

    def call() -> Any:
        nonlocal state, sums
        if compiled.is_update:
            state, result = program(state, sums, halted)
        else:
            sums, result = program(state, batch, sums)
        return result

    return call


def _median(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(_WARM_UP + _CALLS):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return statistics.median(times[_WARM_UP:])


def _noise(run: Run, images: int, height: int, width: int, *, mask: bool) -> dict[str, jax.Array]:
    """Returns a global batch of random pixels (levels of 0 to 255) and labels; its mask has no padding."""
    rng = np.random.default_rng(0)
    shapes = run.abstract_batch(images, height, width, mask=mask)
    batch = {
        "image": rng.integers(0, 256, shapes["image"].shape, np.uint8).astype(shapes["image"].dtype),
        "label": rng.integers(0, run.plan.num_classes, images, np.int32),
    }
    if mask:
        batch["mask"] = np.ones(images, np.float32)
    return to_global(batch, run.mesh) | {"command": host_signals(run.mesh)[GO]}
