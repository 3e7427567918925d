"""Our side of the comparisons: the project's own network and train step, on one or more replicas."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from benchmarks.plain_flax import SCALINGS
from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.models.registry import create_network
from efficientnet_pod.pod import memory
from efficientnet_pod.pod.agreement import GO, host_signals, not_halted
from efficientnet_pod.pod.mesh import BN_MEMBER, batch_sharding, create_mesh, replicated, to_global
from efficientnet_pod.run.programs import TrainProgram
from efficientnet_pod.run.state import TrainState, init_state
from efficientnet_pod.run.train_step import (
    TrainStep,
    compile_accumulation,
    compile_train_step,
    compile_update,
    no_sums,
)


class Training(NamedTuple):
    """A network about to be trained.

    Attributes:
      mesh: BN groups × members.
      step: the step as one replica sees it.
      variables: initial values, numpy arrays.
      images: levels 0..255 and labels of a global batch, numpy arrays.
    """

    mesh: Mesh
    step: TrainStep
    variables: dict[str, Any]
    images: dict[str, np.ndarray]

    def init(self, variables: dict[str, Any]) -> TrainState:
        """Returns the first state."""
        return init_state(variables, self.step.optimizer, ema=self.step.ema_decay > 0)

    def state(self) -> TrainState:
        """Returns the first state on the devices."""
        return jax.jit(self.init, out_shardings=replicated(self.mesh))(self.variables)

    def lower(self) -> jax.stages.Lowered:
        """Returns the program of a step; the devices need not be here."""
        whole = partial(jax.ShapeDtypeStruct, sharding=replicated(self.mesh))
        cut = partial(jax.ShapeDtypeStruct, sharding=batch_sharding(self.mesh))
        shapes = jax.eval_shape(self.init, self.variables)
        state = jax.tree.map(lambda leaf: whole(leaf.shape, leaf.dtype), shapes)
        batch = {name: cut(array.shape, array.dtype) for name, array in self.images.items()}
        batch["command"] = cut((self.mesh.size,), jnp.dtype("int32"))
        halted = whole((), jnp.dtype("int32"))
        return compile_train_step(self.step, self.mesh).lower(state, batch, halted)


def training(
    network: str,
    batch: int,
    image_size: int,
    devices: Sequence[Any],
    *,
    optimizer: Callable[[Any], optax.GradientTransformation],
    dtype: Any = jnp.float32,
    bn_group_size: int = 0,
    **of_step: Any,
) -> Training:
    """Returns the training of a network with 1,000 classes on random images.

    Args:
      network: a key of :data:`SCALINGS`.
      batch: images of all devices together.
      image_size: pixels.
      devices: of which ``bn_group_size`` (0: all) normalise together.
      optimizer: given the parameters.
      dtype: of convolutions, activations and images.
      bn_group_size: see ``devices``.
      of_step: other fields of :class:`TrainStep`.
    """
    mesh = create_mesh(devices, bn_group_size or len(devices))
    settings = {"survival_probability": 0.8, "bn_momentum": 0.99}
    model = create_network(network, num_classes=1000, dtype=dtype, bn_axis=BN_MEMBER, settings=settings)
    variables = initial_variables(model, image_size, seed=0)
    parameters, wanted = sum(leaf.size for leaf in jax.tree.leaves(variables["params"])), SCALINGS[network]
    if parameters != wanted.parameters:
        raise AssertionError(f"{network} has {wanted.parameters:,} parameters; ours has {parameters:,}")
    of_step = {"label_smoothing": 0.0, "ema_decay": 0.0} | of_step
    step = TrainStep(model, optimizer(variables["params"]), key=jax.random.key(0), **of_step)
    levels = 255 * np.random.default_rng(0).random((batch, image_size, image_size, 3), np.float32)
    images = {"image": levels.astype(dtype), "label": np.arange(batch, dtype=np.int32) % 1000}
    return Training(mesh, step, variables, images)


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
    given = training(
        "b0",
        batch,
        image_size,
        jax.devices(),
        optimizer=lambda params: optax.sgd(0.01, momentum=0.9),
        bn_group_size=bn_group_size,
        micro_batches=micro_batches,
    )
    mesh, train_step, state = given.mesh, given.step, given.state()
    share, command = batch // micro_batches, {"command": host_signals(mesh)[GO]}
    parts = [
        to_global({name: array[first : first + share] for name, array in given.images.items()}, mesh)
        | command
        for first in range(0, batch, share)
    ]
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
