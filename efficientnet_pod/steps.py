"""The train and eval steps as one replica sees them: all collectives outside batch norm are here."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from efficientnet_pod.images import Mixed, mix, normalise
from efficientnet_pod.metrics import Counts, count, cross_entropy
from efficientnet_pod.pod.mesh import BN_GROUP, REPLICAS
from efficientnet_pod.state import PyTree, TrainState, update_ema

Batch = dict[str, jax.Array]
REPLICATED, SHARDED = PartitionSpec(), PartitionSpec(REPLICAS)


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """One optimizer step, seen by one replica.

    Attributes:
      model: network with ``apply``; its batch norm reduces over the mesh axis of the BN members.
      optimizer: applied to the mean gradient of the global batch.
      label_smoothing: of the training loss.
      ema_decay: of the averaged weights.
      key: base of all random draws; folded with the step and the replica.
      mixup: see :func:`images.mix`; 0 for none.
      cutmix: likewise.
    """

    model: Any
    optimizer: optax.GradientTransformation
    label_smoothing: float
    ema_decay: float
    key: jax.Array
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Counts]:
        """Returns the next state and the counts of the global batch.

        The loss is smoothed. The hits of a mixed image are those of the label with the greater share.
        """
        key = jax.random.fold_in(jax.random.fold_in(self.key, state.step), lax.axis_index(REPLICAS))
        mixed = self._mixed(batch, key)

        def loss_fn(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array, PyTree]]:
            logits, updated = self.model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                mixed.images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            losses = self._losses(logits, mixed)
            # The mean over replicas stands in the loss, so that transposition gives the mean gradient. The
            # pmap habit, pmean of the gradients, would be too large by the number of replicas here.
            return lax.pmean(jnp.mean(losses), REPLICAS), (logits, losses, updated["batch_stats"])

        gradients, (logits, losses, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = self.optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        batch_stats = lax.pmean(batch_stats, BN_GROUP)
        ema = state.ema
        if ema is not None:
            new = {"params": params, "batch_stats": batch_stats}
            ema = update_ema(ema, new, step=state.step, decay=self.ema_decay)
        everything = jnp.ones_like(batch["label"], dtype=bool)
        counts = lax.psum(count(logits, mixed.main_label, losses, everything), REPLICAS)
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema), counts

    @property
    def _mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def _mixed(self, batch: Batch, key: jax.Array) -> Mixed:
        images, label = normalise(batch["image"]), batch["label"]
        if not self._mixes:
            return Mixed(images, label, label, jnp.ones_like(label, dtype=jnp.float32))
        return mix(images, label, jax.random.fold_in(key, 1), mixup=self.mixup, cutmix=self.cutmix)

    def _losses(self, logits: jax.Array, mixed: Mixed) -> jax.Array:
        """Returns (batch,): the cross-entropy is linear in the target, so the two labels' are mixed alike."""
        loss = partial(cross_entropy, logits, label_smoothing=self.label_smoothing)
        if not self._mixes:
            return loss(mixed.label)
        return mixed.share * loss(mixed.label) + (1 - mixed.share) * loss(mixed.partner)


def eval_step(variables: dict[str, PyTree], batch: Batch, *, model: Any) -> Counts:
    """Returns the counts of the global batch's real images, seen by one replica; the loss is not smoothed."""
    logits = model.apply(variables, normalise(batch["image"]), train=False)
    losses = cross_entropy(logits, batch["label"])
    return lax.psum(count(logits, batch["label"], losses, batch["mask"] > 0), REPLICAS)


def compile_train_step(step: TrainStep, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns the jitted (state, batch) → (state, counts) over global arrays; the old state is donated."""
    sharded = jax.shard_map(
        step, mesh=mesh, in_specs=(REPLICATED, SHARDED), out_specs=(REPLICATED, REPLICATED)
    )
    return jax.jit(sharded, donate_argnums=0)


def compile_eval_step(model: Any, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns the jitted (variables, batch) → counts; a batch has ``image``, ``label`` and ``mask``."""
    sharded = jax.shard_map(
        partial(eval_step, model=model), mesh=mesh, in_specs=(REPLICATED, SHARDED), out_specs=REPLICATED
    )
    return jax.jit(sharded)
