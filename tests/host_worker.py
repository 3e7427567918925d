"""One host of several: joins the others, runs the scenarios named, and writes what it found as npz files."""

import dataclasses
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from recipes import load
from tiny import tiny_model

from efficientnet_pod import run as run_module
from efficientnet_pod.evaluate import evaluate, eval_step_of
from efficientnet_pod.feed import train_batches
from efficientnet_pod.pod.mesh import prefetch_to_devices, put_replicated, share_from_first_host
from efficientnet_pod.recipe import read_recipe
from efficientnet_pod.run import Run, open_run
from efficientnet_pod.state import TrainState

Found = dict[str, Any]
STEPS = 20
GLOBAL_BATCH = 128


def digits(**fields: Any) -> dict[str, Any]:
    """Returns digits.py with all that is random switched on, for the devices of this host."""
    short = {"global_batch": GLOBAL_BATCH, "epochs": 2.0, "ema_decay": 0.9}
    config = load("digits.py") | short | {"cpu_replicas": jax.local_device_count()} | fields
    config["schedule"]["warmup_epochs"] = 0.25
    config["model"] |= {"bn_momentum": 0.5, "dropout": 0.2, "survival_probability": 0.8}
    return config


def tiny_run(config: dict[str, Any], source: Any = None) -> Run:
    """Returns the run of the tiny network."""
    run_module.efficientnet = lambda name, **options: tiny_model(**options)
    return open_run(read_recipe(config), source)


def initial_state(run: Run) -> TrainState:
    """Returns the state before the first step."""
    return put_replicated(jax.device_get(run.init(run.initial_variables())), run.mesh)


def named(tree: Any, prefix: str = "") -> Found:
    """Returns the leaves by their paths, as this host's first device has them."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {prefix + jax.tree_util.keystr(path): jax.device_get(leaf) for path, leaf in leaves}


def trained(run: Run, steps: int) -> tuple[TrainState, list[Any]]:
    """Returns the state after so many steps, and the counts of each."""
    step = run.lower_train_step(run.plan.phases[0]).compile()
    batches = prefetch_to_devices(islice(train_batches(run, start_step=0), steps), run.mesh)
    state, counts = initial_state(run), []
    for batch in batches:
        state, count = step(state, batch)
        counts.append(count)
    return state, counts


def evaluated(run: Run, variables: Any) -> Found:
    """Returns loss, accuracies and number of images."""
    eval_step = eval_step_of(run, [lowered.compile() for lowered in run.lower_eval_steps()])
    return dataclasses.asdict(evaluate(run, eval_step, variables))


def train_digits() -> Found:
    """Twenty steps and an evaluation, on images that are fetched by number."""
    run = tiny_run(digits())
    state, counts = trained(run, STEPS)
    found = named(state) | {f"train{i}": np.asarray(c.loss) for i, c in enumerate(counts)}
    return found | {f"eval.{name}": value for name, value in evaluated(run, state.eval_variables).items()}


SCENARIOS: dict[str, Callable[[], Found]] = {f.__name__: f for f in (train_digits,)}


def join(coordinator: str, hosts: int, host: int, devices: int) -> None:
    """Makes this process one of so many hosts with so many devices each."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    if hosts > 1:
        jax.distributed.initialize(
            coordinator, hosts, host, coordinator_bind_address=coordinator, heartbeat_timeout_seconds=100
        )


def main(folder: str, coordinator: str, hosts: str, host: str, devices: str, *scenarios: str) -> None:
    """Runs the scenarios in turn; each writes ``SCENARIO.HOST.npz``."""
    join(coordinator, int(hosts), int(host), int(devices))
    for name in scenarios:
        np.savez(Path(folder) / f"{name}.{host}.npz", **SCENARIOS[name]())


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # at its end a process would wait for the others, who wait for it
