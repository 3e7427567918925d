"""Owns our side of the CPU comparison: the project's own model and train step, on one or more replicas."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import optax

from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.models.registry import create_network
from efficientnet_pod.pod import memory
from efficientnet_pod.pod.agreement import GO, host_signals, not_halted
from efficientnet_pod.pod.mesh import BN_MEMBER, batch_sharding, create_mesh, replicated, to_global
from efficientnet_pod.run.programs import TrainProgram
from efficientnet_pod.run.state import init_state
from efficientnet_pod.run.train_step import (
    TrainStep,
    compile_accumulation,
    compile_train_step,
    compile_update,
    no_sums,
)


def prepare(
    batch: int,
    image_size: int,
    threads: int,
    *,
    replicas: int,
    huge_pages: bool,
    bn_group_size: int = 0,
    micro_batches: int = 1,
) -> tuple[Callable[[], None], str]:
    """Returns a function that runs one training step to its end, and a description of it.

    ``replicas`` have a device each, of which ``bn_group_size`` (0: all) normalise together. XLA takes as many
    threads as the process has cores, so the caller must have pinned it to `threads` cores.
    """
    if huge_pages:
        memory.ask_for_huge_pages()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", replicas)
    mesh = create_mesh(jax.devices(), bn_group_size or replicas)
    settings = {"survival_probability": 0.8, "bn_momentum": 0.99}
    model = create_network(
        "b0",
        num_classes=1000,
        bn_axis=BN_MEMBER,
        settings=settings,
    )
    optimizer = optax.sgd(0.01, momentum=0.9)
    key = jax.random.key(0)
    variables = initial_variables(model, image_size, seed=0)
    state = jax.jit(partial(init_state, optimizer=optimizer, ema=False))(variables)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    if parameters != 5_288_548:
        raise AssertionError(f"EfficientNet-B0 has 5,288,548 parameters; ours has {parameters:,}")
    state = jax.device_put(state, replicated(mesh))
    images = 255 * np.random.default_rng(0).random((batch, image_size, image_size, 3), np.float32)
    given = {"image": images, "label": np.arange(batch, dtype=np.int32) % 1000}
    share, command = batch // micro_batches, {"command": host_signals(mesh)[GO]}
    parts = [
        to_global({name: array[first : first + share] for name, array in given.items()}, mesh) | command
        for first in range(0, batch, share)
    ]
    train_step = TrainStep(
        model=model,
        optimizer=optimizer,
        label_smoothing=0.0,
        ema_decay=0.0,
        key=key,
        micro_batches=micro_batches,
    )
    halted = not_halted(mesh)
    program = TrainProgram(compile_train_step(train_step, mesh))
    if micro_batches > 1:
        shapes = jax.eval_shape(lambda: state)
        zeros = jax.jit(lambda: no_sums(shapes, mesh), out_shardings=batch_sharding(mesh))
        accumulate, update = compile_accumulation(train_step, mesh), compile_update(train_step, mesh)
        program = TrainProgram(accumulate, update, zeros, micro_batches)

    def step() -> None:
        nonlocal state
        ended = program(state, iter(parts).__next__, halted)
        assert ended
        state, outcome = ended
        jax.block_until_ready((state, outcome))

    pages = "huge pages" if huge_pages else "small pages"
    apart = f" in {micro_batches} micro-batches" if micro_batches > 1 else ""
    return step, f"jax {jax.__version__}, {replicas} device(s){apart}, {pages}, {threads} threads"
