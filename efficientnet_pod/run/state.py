"""The train state: everything a step updates and a checkpoint holds."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree, replicated over all devices.

    Attributes:
      step: int32 scalar, the number of steps done, those included that were skipped. It is the one clock: of
        images, random draws, learning rate and averages.
      params: float32 parameters.
      batch_stats: float32 running mean and variance of each batch norm.
      opt_state: state of the optimizer.
      ema: ``{"params", "batch_stats"}`` averaged over the steps, or None.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: optax.OptState
    ema: dict[str, PyTree] | None

    def __repr__(self) -> str:
        number = sum(math.prod(getattr(leaf, "shape", (0,))) for leaf in jax.tree.leaves(self.params))
        averages = "" if self.ema is None else ", averaged too"
        return f"TrainState(step {self.step}: {number:,} parameters{averages})"

    @property
    def variables(self) -> dict[str, PyTree]:
        """The raw weights as the model takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> dict[str, PyTree]:
        """The averaged weights if there are any, else the raw ones."""
        return self.variables if self.ema is None else self.ema


def init_state(
    variables: dict[str, PyTree], optimizer: optax.GradientTransformation, *, ema: bool
) -> TrainState:
    """Returns the state before the first step; with ``ema``, the average starts at the initial weights."""
    params, batch_stats = variables["params"], variables["batch_stats"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        # Copies: a donated buffer must not stand in the state twice.
        ema=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if ema else None,
    )


def ema_decay(count: jax.Array, decay: float) -> jax.Array:
    """Returns min(decay, (1 + count) / (10 + count)), float32; ``count`` is 1 at the first step of a run.

    The authors' program reads its step after the update, so the first decays are 2/11, 3/12 and 4/13.
    Without this warm-up a run of 6,842 steps at .9999 (65,536 images a step) would keep half of its initial
    weights. Source: ``tf.train.ExponentialMovingAverage`` with ``num_updates``; tensorflow/tpu
    models/official/efficientnet, main.py.
    """
    count = count.astype(jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + count) / (10 + count))


def update_ema(ema: PyTree, new: PyTree, *, count: jax.Array, decay: float) -> PyTree:
    """Returns the average moved towards ``new``, parameters and BN statistics alike."""
    keep = ema_decay(count, decay)
    return jax.tree.map(lambda old, value: old - (1 - keep) * (old - value), ema, new)
