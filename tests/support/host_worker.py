"""One host of several: joins the others, runs the scenarios named, and writes what it found as npz files."""

import dataclasses
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from recipes import load
from tiny import CLASSES, batch, build_tiny_networks

from efficientnet_pod.evaluate.calibration import Calibration
from efficientnet_pod.evaluate.confusions import Confusions
from efficientnet_pod.evaluate.evaluate import eval_batches, evaluate
from efficientnet_pod.models.batch_norm import group_moments
from efficientnet_pod.models.layers import Dropout, drawn, stochastic_depth
from efficientnet_pod.pod import mesh as mesh_module
from efficientnet_pod.pod.agreement import GO, host_signals, not_halted
from efficientnet_pod.pod.mesh import (
    BN_MEMBER,
    REPLICAS,
    batch_sharding,
    create_mesh,
    put_replicated,
    share_from_first_host,
    to_global,
)
from efficientnet_pod.pod.pace import Pace, by_host
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.feed import Feed, train_batches
from efficientnet_pod.run.programs import _compile, eval_step_of
from efficientnet_pod.run.run import Run, open_run
from efficientnet_pod.run.state import TrainState, init_state
from efficientnet_pod.run.train_step import TrainStep, compile_train_step
from efficientnet_pod.workdir.workdir import Workdir

Found = dict[str, Any]
STEPS = 20
SIZE = 16  # pixels
RECORDS = [7, 6]  # of the training files, fewer than there are hosts
# Every host compiles for itself, and so does the one they are compared with: what a program computes counts.
QUICKLY = {"xla_backend_optimization_level": 0}


def digits(*, bn_group_size: int = 4, **data: Any) -> dict[str, Any]:
    """Returns digits.py with all that is random switched on, for the devices of this host."""
    config = load("digits.py") | {"global_batch": 64, "epochs": 2.0, "ema_decay": 0.9}
    config |= {"cpu_replicas": jax.local_device_count(), "bn_group_size": bn_group_size}
    config["schedule"]["warmup_epochs"] = 0.25
    config["model"] |= {"bn_momentum": 0.5, "dropout": 0.2, "survival_probability": 0.8}
    config["data"] |= {"image_size": SIZE} | data
    return config


def opened(config: dict[str, Any], source: Any = None) -> Run:
    """Returns the run, of the tiny network where `build_tiny_networks` was called."""
    return open_run(read_recipe(config), source)


def initial_state(run: Run) -> TrainState:
    """Returns the state before the first step."""
    return run.lower_init().compile(QUICKLY)(run.initial_variables())


def named(tree: Any) -> Found:
    """Returns the leaves by their paths, as this host's first device has them."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): jax.device_get(leaf) for path, leaf in leaves}


def shards(array: jax.Array, name: str) -> Found:
    """Returns what lies on this host's devices by its first row in the global array."""
    rows = {shard.index[0].start or 0: np.asarray(shard.data) for shard in array.addressable_shards}
    return {f"{name}.{start}": data for start, data in rows.items()}


def evaluated(run: Run, variables: Any) -> Found:
    """Returns loss, accuracies and the number of images that were counted, and the number of steps."""
    step = eval_step_of(run, [lowered.compile(QUICKLY) for lowered in run.lower_eval_steps()])
    steps: list[None] = []
    result = evaluate(run, step, variables, progress=lambda: steps.append(None))
    assert result is not None
    return {f"eval.{name}": value for name, value in dataclasses.asdict(result).items()} | {
        "eval.steps": len(steps)
    }


def train_digits(folder: Path) -> Found:
    """Twenty steps and an evaluation, on images that are fetched by number."""
    del folder
    run = opened(digits())
    step = run.lower_train_step(run.plan.phases[0]).compile(QUICKLY)
    state, halted, go = initial_state(run), not_halted(run.mesh), {"command": host_signals(run.mesh)[GO]}
    losses, here = [], jax.process_index()
    go |= Pace(run.mesh).of(here / 10, here / 20)
    with closing(Feed(train_batches(run, start_step=0), run.mesh)) as feed:
        for _ in range(STEPS):
            state, outcome = step(state, feed.next() | go, halted)
            losses.append(outcome.counts.loss)
    pace = np.zeros(0) if outcome.pace is None else by_host(jax.device_get(outcome.pace))
    found = {"losses": jax.device_get(losses), "pace": pace}
    return named(state) | found | evaluated(run, state.eval_variables)


def first_batches(folder: Path) -> Found:
    """The images this host trains on in two steps, augmented."""
    del folder
    batches = list(islice(train_batches(opened(digits()), start_step=3), 2))
    return {name: np.stack([b[name] for b in batches]) for name in ("image", "label")}


def first_step(folder: Path) -> Found:
    """The images of this host's first step, as `tiles` has them."""
    del folder
    return {"image": next(iter(train_batches(opened(digits(bn_group_size=2)), start_step=0)))["image"]}


def records(folder: Path) -> Found:
    """The labels of this host's images, which number them, where there are fewer files than hosts."""
    run = opened(digits(name=f"tfrecord:{folder}/records") | {"epochs": 60.0})
    trained = [b["label"] for b in islice(train_batches(run, start_step=0), 12)]
    held_out = list(eval_batches(run))
    return {"train": np.stack(trained)} | {
        name: np.stack([b[name] for b in held_out]) for name in ("label", "mask")
    }


class Drawn(nn.Module):
    """A network whose logits are zero and whose BN statistics are what its random draws leave standing."""

    replicas: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Draws masks for dropout, 64 features of each image, and for a block of stochastic depth."""
        rows = images.shape[0]
        features = Dropout(0.5)(jnp.ones((rows, 64), jnp.float32), train=train)
        ones = jnp.ones((rows, 1), jnp.float32)
        draws = drawn(self, lambda key, n: jax.random.uniform(key, (n,)), rows)
        block = stochastic_depth(ones, draws, survival_probability=0.5, pack=1)
        mine = jnp.concatenate([features, block], axis=1) / 2
        kept = self.variable("batch_stats", "drawn", jnp.zeros, (self.replicas, *mine.shape), jnp.float32)
        everyone = jnp.zeros_like(kept.value).at[jax.lax.axis_index(REPLICAS)].set(mine)
        kept.value = jax.lax.psum(everyone, REPLICAS)
        return jnp.tile(self.param("bias", nn.initializers.zeros, (1, CLASSES)), (rows, 1))


def masks(folder: Path) -> Found:
    """What each replica's dropout and stochastic depth leave standing, in two steps: (2, 8, 4, 64 + 1)."""
    del folder
    mesh = create_mesh(jax.devices(), 4)
    variables = {
        "params": {"bias": np.zeros((1, CLASSES), np.float32)},
        "batch_stats": {"drawn": np.zeros((mesh.size, 4, 65), np.float32)},
    }
    sgd = optax.sgd(0.0)
    step = compile_train_step(TrainStep(Drawn(mesh.size), sgd, 0.0, 0.0, jax.random.key(0)), mesh)
    state = put_replicated(jax.device_get(init_state(variables, sgd, ema=False)), mesh)
    images = to_global(batch(4 * len(mesh.local_devices), size=SIZE), mesh)
    images |= {"command": host_signals(mesh)[GO]}
    found = []
    for _ in range(2):
        state, _ = step(state, images, not_halted(mesh))
        found.append(jax.device_get(state.batch_stats["drawn"]))
    return {"drawn": np.stack(found)}


def tiles(folder: Path) -> Found:
    """A mesh whose BN groups take turns among the hosts, as the tiles of a torus do.

    Each host is a column of two chips: a BN group of two replicas is a row of two hosts.
    """
    del folder

    def tiled(devices: Any, bn_group_size: int) -> list[Any]:
        chips = [
            SimpleNamespace(
                real=d, process_index=d.process_index, id=d.id, core_on_chip=0,
                coords=(d.process_index, jax.local_devices(d.process_index).index(d), 0),
            )
            for d in devices
        ]  # fmt: skip
        return [chip.real for chip in order(chips, bn_group_size)]

    order = mesh_module.bn_device_order
    with mock.patch.object(mesh_module, "bn_device_order", tiled):
        run = opened(digits(bn_group_size=2))
    found: Found = {"hosts": [[d.process_index for d in row] for row in run.mesh.devices]}
    mine = next(iter(train_batches(run, start_step=0)))
    images = to_global({"image": mine["image"]}, run.mesh)["image"]
    found |= {"mine": mine["image"]} | shards(images, "image")
    moments = jax.jit(
        jax.shard_map(
            lambda x: jnp.stack(group_moments(x, BN_MEMBER))[None],
            mesh=run.mesh, in_specs=batch_sharding(run.mesh).spec, out_specs=batch_sharding(run.mesh).spec,
        )
    )  # fmt: skip
    found |= shards(moments(images), "moments")
    for number, held_out in enumerate(eval_batches(run)):
        placed = to_global(held_out, run.mesh)
        for name in held_out:
            found |= {f"eval{number}.mine.{name}": held_out[name]} | shards(
                placed[name], f"eval{number}.{name}"
            )
    variables = put_replicated(run.initial_variables(), run.mesh)
    return found | evaluated(run, variables)


EVALUATIONS = (1, 63, 65)  # images, where a batch is 64 or fewer


def evaluations(folder: Path) -> Found:
    """Evaluations of one image, and of one less and one more than a batch."""
    del folder
    from efficientnet_pod.data.sources.opening import open_source
    from efficientnet_pod.data.sources.types import Indexed, Source

    all_digits = open_source("digits")
    found: Found = {}
    for images in EVALUATIONS:
        held_out = Indexed(images, all_digits.eval.fetch)
        source = Source("digits", all_digits.class_names, all_digits.train, held_out)
        run = opened(digits(), source)
        counted = evaluated(run, put_replicated(run.initial_variables(), run.mesh))
        found |= {f"{images}.{name}": value for name, value in counted.items()}
    return found


def confusions(folder: Path) -> Found:
    """What the images of all hosts are taken for, on host 0: label, prediction and number, (pairs, 3)."""
    del folder
    run, findings = opened(digits()), Confusions(CLASSES)
    step = eval_step_of(run, [lowered.compile(QUICKLY) for lowered in run.lower_eval_steps()])
    variables = put_replicated(run.initial_variables(), run.mesh)
    calibration = Calibration()

    def collect(*batch: Any) -> None:
        findings.add(*batch)
        calibration.add(*batch)

    result = evaluate(run, step, variables, collect=collect)
    assert result is not None
    bins = calibration.merged(result.images) or ()
    filled = [(each.images, each.confidence, each.accuracy) for each in bins if each.images]
    pairs = findings.merged(result.images)
    samples = np.stack([sample.image for sample in findings.samples()])
    return {
        "samples": samples,
        "bins": filled,
        "pairs": [[*pair, n] for pair, n in sorted((pairs or {}).items())],
    }


def awkward_state() -> Found:
    """Returns bits that arithmetic loses: negative zeros, NaNs with a payload, subnormal numbers."""
    bits = np.random.default_rng(0).integers(0, 2**32, 5_000_003, dtype=np.uint32)  # five chunks
    bits[:6] = [0x80000000, 0x7FC12345, 0xFF812345, 0x00000001, 0x7F800000, 0xFFFFFFFF]
    return {
        "bfloat16": np.array([0x8000, 0x7FC1, 0xFF81, 0x0001, 0x1234], np.uint16).view(jnp.bfloat16),
        "float32": bits.view(np.float32),
        "int32": np.array([-1, 2**31 - 1, -(2**31)], np.int32),
        "none": np.zeros((0, 3), np.float32),
        "scalar": np.array(7, np.int32),
        "uint8": np.arange(7, dtype=np.uint8).reshape(7, 1),
    }


def sharing(folder: Path) -> Found:
    """A state of host 0 on this host's last device, and the state after a step that takes its buffers."""
    del folder
    mesh = create_mesh(jax.devices(), 2)
    state = awkward_state()
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    shared = share_from_first_host(state if jax.process_index() == 0 else None, abstract, mesh)
    found = {
        name: np.frombuffer(np.asarray(leaf.addressable_shards[-1].data).tobytes(), np.uint8)
        for name, leaf in shared.items()
    }
    assert all(leaf.is_fully_replicated and leaf.sharding.mesh == mesh for leaf in shared.values())
    plus_one = jax.jit(lambda x: x + 1, donate_argnums=0)
    return found | {"int32 + 1": jax.device_get(plus_one(shared["int32"]))}


def cached_programs(folder: Path) -> Found:
    """Compiles into a workdir that is there for host 0 alone; the files there and on this host."""
    workdir = Workdir(folder / ("workdir" if jax.process_index() == 0 else "elsewhere/workdir"))
    kept = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    try:
        _compile([opened(digits()).lower_eval_steps()], workdir)
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", kept)
    return {"files": sorted(file.name for file in workdir.programs.glob("*-cache"))} | {
        "exists": workdir.path.parent.exists()
    }


SCENARIOS: dict[str, Callable[[Path], Found]] = {
    scenario.__name__: scenario
    for scenario in (
        train_digits,
        first_batches,
        first_step,
        records,
        masks,
        tiles,
        evaluations,
        confusions,
        sharing,
        cached_programs,
    )
}


def main(folder: str, coordinator: str, hosts: str, host: str, devices: str, *scenarios: str) -> None:
    """Joins the hosts and runs the scenarios in turn; each writes ``SCENARIO.HOST.npz``."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(devices))
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.distributed.initialize(coordinator, int(hosts), int(host), coordinator_bind_address=coordinator)
    build_tiny_networks(pytest.MonkeyPatch())
    for name in scenarios:
        np.savez(Path(folder) / f"{name}.{host}.npz", **SCENARIOS[name](Path(folder)))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # at its end a process would wait for the others, who wait for it
