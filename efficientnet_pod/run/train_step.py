"""The train step as one replica sees it."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from efficientnet_pod.models.amoebanet import AUXILIARY_LOGITS
from efficientnet_pod.models.inputs import normalise
from efficientnet_pod.models.layers import stream_of
from efficientnet_pod.pod.agreement import ABANDON, GO
from efficientnet_pod.pod.cpu import compiler_options
from efficientnet_pod.pod.mesh import (
    BN_GROUP,
    BN_MEMBER,
    BY_REPLICA,
    EVERYWHERE,
    REPLICAS,
    batch_sharding,
    platform_of,
)
from efficientnet_pod.pod.pace import pace_columns
from efficientnet_pod.run.metrics import Counts, count, cross_entropy
from efficientnet_pod.run.mixing import MixedBatch, mix
from efficientnet_pod.run.state import PyTree, TrainState, update_ema

Batch = dict[str, jax.Array]
# Percent of a core's memory above which the compiler computes activations anew. Its own choice leaves B5 at
# 64 images a replica 14 % of 16 GiB for all else; this one 20 %, for 1 % more cycles. A step that needs less
# stays as it is (records/tpu_step.md).
_TPU_OPTIONS = {"xla_jf_rematerialization_percent_shared_memory_limit": 87}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one train step, the same on every replica; int32 scalars beside the counts.

    Attributes:
      counts: of the global batch; of no use where the update was not made.
      updated: 1 if the state has this step's update, else 0: its parameters are those from before.
      finite: 1 if loss, gradient and BN statistics are finite.
      stops: replicas whose host was told to stop.
      halted: 1 from a step on that was abandoned, or not finite where that stops a run: no later step that is
        given it makes an update. Hosts dispatch a step before they have read the one before.
      trust_ratios: float32 (adapted tensors,), of this update; None with an optimizer that has none.
      pace: int32 (2 × hosts,), how late each host was with the step, see :class:`.Pace`; None with one host.
    """

    counts: Counts
    updated: jax.Array
    finite: jax.Array
    stops: jax.Array
    halted: jax.Array
    trust_ratios: jax.Array | None = None
    pace: jax.Array | None = None

    def read(self) -> "Outcome":
        """Returns the outcome on the host; waits for it. Trust ratios stay on the devices: few are read."""
        scalars = jax.device_get(dataclasses.replace(self, trust_ratios=None))
        return dataclasses.replace(scalars, trust_ratios=self.trust_ratios)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
    """What the devices have summed over the micro-batches of a step, each for itself.

    Every array has the devices as its first dimension. A device holds one set of gradients, float32, however
    many micro-batches there are.

    Attributes:
      gradients: for this device's copy of the parameters; a micro-batch adds the gradient of its mean loss.
      batch_stats: new BN statistics.
      counts: of the images.
      losses: sum of the losses, which is not finite where one of them is not.
      flags: int32: micro-batches with a command to stop, and to abandon; then the pace of the hosts.
      turn: micro-batches summed, int32.
    """

    gradients: PyTree
    batch_stats: PyTree
    counts: Counts
    losses: jax.Array
    flags: jax.Array
    turn: jax.Array


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """One optimizer step, seen by one replica.

    Attributes:
      model: network with ``apply``; its batch norm reduces over the mesh axis of the BN members.
      optimizer: applied to the mean gradient of the global batch.
      label_smoothing: of the training loss.
      ema_decay: of the averaged weights.
      key: base of all random draws; folded with the step and the replica.
      auxiliary_weight: weight of the second classifier's loss, where the network has one.
      skip_non_finite: where a step is not finite, count it and go on; else halt.
      trust_ratios: of the optimizer's update, given gradients, parameters and the optimizer's state.
      mixup: see :func:`mixing.mix`; 0 for none.
      cutmix: likewise.
      class_weights: factors of an image's loss, by its label; () for none. The mean is
        over the images, not over the weights, so that it does not depend on what else is in a batch.
      normalise: levels of 0..255 → what the network takes.
      trainable: the parameters, those that are not trained as constants.
      statistics: given new and old BN statistics, those to keep.
      micro_batches: parts of a global batch, see :meth:`accumulate`.
      replicas_at_once: replicas of one BN group that a device computes together in a part.
    """

    model: Any
    optimizer: optax.GradientTransformation
    label_smoothing: float
    ema_decay: float
    key: jax.Array
    mixup: float = 0.0
    cutmix: float = 0.0
    class_weights: tuple[float, ...] = ()
    auxiliary_weight: float = 0.0
    skip_non_finite: bool = False
    trust_ratios: Callable[[PyTree, PyTree, PyTree], jax.Array | None] = lambda *_: None
    normalise: Callable[[jax.Array], jax.Array] = normalise
    trainable: Callable[[PyTree], PyTree] = lambda params: params
    statistics: Callable[[PyTree, PyTree], PyTree] = lambda new, old: new
    micro_batches: int = 1
    replicas_at_once: int = 1

    def __call__(self, state: TrainState, batch: Batch, halted: jax.Array) -> tuple[TrainState, Outcome]:
        """Returns the next state and what became of the step.

        The loss is smoothed, and has that of a second classifier in it. The hits of a mixed image are those
        of the label with the greater share.
        Nothing of a state changes, its step included, where ``halted`` is set (by the outcome of the step
        before), where a replica abandons its batch, or where loss, gradient or BN statistics are not finite;
        only the step goes on in the last case with ``skip_non_finite``.
        """
        key = jax.random.fold_in(jax.random.fold_in(self.key, state.step), lax.axis_index(REPLICAS))
        mixed = self._mixed(batch, key)
        gradients, (logits, losses, batch_stats) = self._gradients(state, mixed, key)
        with jax.named_scope("metrics"):
            counts = count(logits, mixed.main_label, losses, jnp.ones_like(batch["label"], dtype=bool))
        return self._concluded(state, gradients, batch_stats, counts, losses, _flags(batch), halted)

    def accumulate(self, state: TrainState, batch: Batch, sums: Sums) -> tuple[Sums, jax.Array]:
        """Adds a micro-batch to the sums of a step; returns them, and how many devices were told to stop.

        Replica number ``r`` of the step has the draws, the images and the BN group that it has where every
        replica has a device. A device computes ``replicas_at_once`` of one group together, so that the group
        is complete before anything is normalised.
        """
        place = sums.turn[0] * lax.axis_size(REPLICAS) + lax.axis_index(REPLICAS)
        numbers = place * self.replicas_at_once + jnp.arange(self.replicas_at_once)
        of_step = jax.random.fold_in(self.key, state.step)
        keys = jax.vmap(lambda number: jax.random.fold_in(of_step, number))(numbers)
        images = {name: _apart(batch[name], self.replicas_at_once) for name in ("image", "label")}
        mixed = jax.tree.map(_together, jax.vmap(self._mixed)(images, keys))
        # One batch to the network, whose batch norm takes all of the group; masks are each replica's.
        key = stream_of(keys)

        def loss_fn(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array, PyTree]]:
            found = self._forward(self.trainable(params), state.batch_stats, mixed, key)
            with jax.named_scope("loss"):
                return lax.pmean(jnp.mean(found[1]), REPLICAS), found

        # Of each device's own copy: the sum over the devices is made once, at the end of the step.
        gradients, (logits, losses, batch_stats) = jax.grad(loss_fn, has_aux=True)(
            lax.pcast(state.params, REPLICAS, to="varying")
        )
        with jax.named_scope("metrics"):
            label = mixed.main_label
            counts = count(logits, label, losses, jnp.ones_like(label, bool))
        with jax.named_scope("checks"):
            flags = _flags(batch)
            new = Sums(
                gradients,
                batch_stats,
                counts,
                jnp.sum(losses),
                flags,
                jnp.ones((), jnp.int32),
            )
            added = jax.tree.map(lambda old, value: old + value[None], sums, new)
            return added, lax.psum(flags[0], REPLICAS)

    def finish(self, state: TrainState, sums: Sums, halted: jax.Array) -> tuple[TrainState, Outcome]:
        """Returns what ``__call__`` returns, from the sums of all micro-batches."""
        sums = jax.tree.map(lambda leaf: leaf[0], sums)
        with jax.named_scope("loss"):
            gradients = jax.tree.map(
                lambda leaf: leaf / self.micro_batches, lax.psum(sums.gradients, REPLICAS)
            )
        with jax.named_scope("statistics"):
            batch_stats = jax.tree.map(lambda leaf: leaf / self.micro_batches, sums.batch_stats)
            batch_stats = lax.pmean(batch_stats, BN_MEMBER)  # which are alike
        return self._concluded(state, gradients, batch_stats, sums.counts, sums.losses, sums.flags, halted)

    def _concluded(
        self,
        state: TrainState,
        gradients: PyTree,
        batch_stats: PyTree,
        counts: Counts,
        losses: jax.Array,
        flags: jax.Array,
        halted: jax.Array,
    ) -> tuple[TrainState, Outcome]:
        """Returns the next state and the outcome, from the mean gradient and what one device has counted."""
        new_state, ratios = self._updated(state, gradients, batch_stats)
        with jax.named_scope("checks"):
            finite = _all_finite((losses, new_state.batch_stats), gradients)
            # Summed, so that all agree, even should one replica's copy of the state have gone astray.
            flags = jnp.concatenate([(~finite).astype(jnp.int32)[None], flags])
            counts, flags = lax.psum((counts, flags), REPLICAS)
            finite, stops, abandoned = flags[0] == 0, flags[1], flags[2] > 0
            pace = flags[3:] if flags.size > 3 else None
            goes_on = (halted == 0) & ~abandoned & (finite | self.skip_non_finite)
            updated = goes_on & finite
            with jax.named_scope("optimizer"):
                kept = jax.tree.map(lambda new, old: jnp.where(updated, new, old), new_state, state)
            kept = dataclasses.replace(kept, step=state.step + goes_on.astype(jnp.int32))
            flag = partial(jnp.asarray, dtype=jnp.int32)
            return kept, Outcome(counts, flag(updated), flag(finite), stops, flag(~goes_on), ratios, pace)

    def _gradients(
        self, state: TrainState, mixed: MixedBatch, key: jax.Array
    ) -> tuple[PyTree, tuple[jax.Array, jax.Array, PyTree]]:
        """Returns the global batch's mean gradient; and logits, losses and BN statistics of this replica."""

        def loss_fn(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array, PyTree]]:
            with jax.named_scope("loss"):
                # The transpose of this cast sums the gradient over the replicas: here, in float32. Without it
                # the sum would happen behind the layers' own cast, in bfloat16.
                params = self.trainable(lax.pcast(params, REPLICAS, to="varying"))
            logits, losses, batch_stats = self._forward(params, state.batch_stats, mixed, key)
            with jax.named_scope("loss"):
                # The mean over replicas stands in the loss, so that transposition gives the mean gradient.
                # pmap's habit, pmean of the gradients, would be too large by the number of replicas here.
                return lax.pmean(jnp.mean(losses), REPLICAS), (logits, losses, batch_stats)

        return jax.grad(loss_fn, has_aux=True)(state.params)

    def _forward(
        self, params: PyTree, batch_stats: PyTree, mixed: MixedBatch, key: Any
    ) -> tuple[jax.Array, jax.Array, PyTree]:
        """Returns logits, the loss of each image, and new BN statistics, of one replica, or of one a key."""
        logits, updated = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            mixed.images,
            train=True,
            mutable=["batch_stats", AUXILIARY_LOGITS],
            rngs={"dropout": key},
        )
        with jax.named_scope("loss"):
            losses = self._losses(logits, mixed)
            for auxiliary in jax.tree.leaves(updated.get(AUXILIARY_LOGITS)):
                losses = losses + self.auxiliary_weight * self._losses(auxiliary, mixed)
        return logits, losses, updated["batch_stats"]

    def _updated(
        self, state: TrainState, gradients: PyTree, batch_stats: PyTree
    ) -> tuple[TrainState, jax.Array | None]:
        """Returns the state after this update, and the update's trust ratios."""
        with jax.named_scope("optimizer"):
            clocked = _with_count(state.opt_state, state.step)
            updates, opt_state = self.optimizer.update(gradients, clocked, state.params)
            ratios = self.trust_ratios(gradients, state.params, clocked)
            params = optax.apply_updates(state.params, updates)
        with jax.named_scope("statistics"):
            batch_stats = self.statistics(lax.pmean(batch_stats, BN_GROUP), state.batch_stats)
        ema = state.ema
        if ema is not None:
            with jax.named_scope("optimizer"):
                new = {"params": params, "batch_stats": batch_stats}
                ema = update_ema(ema, new, count=state.step + 1, decay=self.ema_decay)
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema), ratios

    @property
    def _mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def _mixed(self, batch: Batch, key: jax.Array) -> MixedBatch:
        with jax.named_scope("input"):
            images, label = self.normalise(batch["image"]), batch["label"]
            if not self._mixes:
                return MixedBatch(images, label, label, jnp.ones_like(label, dtype=jnp.float32))
            return mix(images, label, jax.random.fold_in(key, 1), mixup=self.mixup, cutmix=self.cutmix)

    def _losses(self, logits: jax.Array, mixed: MixedBatch) -> jax.Array:
        """Returns (batch,): the cross-entropy is linear in the target, so the two labels' are mixed alike."""

        def loss(label: jax.Array) -> jax.Array:
            losses = cross_entropy(logits, label, label_smoothing=self.label_smoothing)
            if not self.class_weights:
                return losses
            return jnp.asarray(self.class_weights, jnp.float32)[label] * losses

        if not self._mixes:
            return loss(mixed.label)
        return mixed.share * loss(mixed.label) + (1 - mixed.share) * loss(mixed.partner)


def _flags(batch: Batch) -> jax.Array:
    """Returns int32: whether this device's host was told to stop, whether it abandons its batch, its pace."""
    command = batch["command"][0]
    flags = jnp.stack([command != GO, command == ABANDON]).astype(jnp.int32)
    return jnp.concatenate([flags, batch["pace"][0]]) if "pace" in batch else flags


def _apart(array: jax.Array, replicas: int) -> jax.Array:
    """Returns a device's share of a batch as (replicas, images of a replica, ...)."""
    return array.reshape(replicas, -1, *array.shape[1:])


def _together(array: jax.Array) -> jax.Array:
    """Returns what :func:`_apart` was given."""
    return array.reshape(-1, *array.shape[2:])


def _with_count(opt_state: optax.OptState, step: jax.Array) -> optax.OptState:
    """Returns the optimizer's state whose count, which the learning rate goes by, is the run's.

    Its own count leaves out the steps that were skipped. The count of Adam's moments does so too, and stays:
    they have seen as many gradients.
    """
    return jax.tree.map(
        lambda part: part._replace(count=step) if isinstance(part, optax.ScaleByScheduleState) else part,
        opt_state,
        is_leaf=lambda part: isinstance(part, optax.ScaleByScheduleState),
    )


def _all_finite(values: PyTree, gradients: PyTree) -> jax.Array:
    """Returns whether all values, and the squares of all gradients, are finite."""
    floats = [leaf for leaf in jax.tree.leaves(values) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    squares = [jnp.square(leaf) for leaf in jax.tree.leaves(gradients)]
    # LARS needs the kernels' sums too. Vectors are short, and there are hundreds: looked at one by one, they
    # took a third of an update's time on a CPU.
    looked_at = floats + [jnp.sum(leaf) if leaf.ndim > 1 else leaf for leaf in squares]
    return jnp.all(jnp.isfinite(jnp.concatenate([jnp.ravel(leaf) for leaf in looked_at])))


def compile_train_step(step: TrainStep, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns the jitted (state, batch, halted) → (state, outcome) over global arrays.

    A batch has ``image``, ``label``, ``command`` and, with several hosts, ``pace``. The old state is donated.
    """
    sharded = jax.shard_map(
        step, mesh=mesh, in_specs=(EVERYWHERE, BY_REPLICA, EVERYWHERE), out_specs=(EVERYWHERE, EVERYWHERE)
    )
    return jax.jit(sharded, donate_argnums=0, compiler_options=options_of(mesh))


def compile_accumulation(step: TrainStep, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns the jitted :meth:`TrainStep.accumulate` over global arrays; the old sums are donated."""
    sharded = jax.shard_map(
        step.accumulate,
        mesh=mesh,
        in_specs=(EVERYWHERE, BY_REPLICA, BY_REPLICA),
        out_specs=(BY_REPLICA, EVERYWHERE),
    )
    return jax.jit(sharded, donate_argnums=2, compiler_options=options_of(mesh))


def compile_update(step: TrainStep, mesh: Mesh) -> jax.stages.Wrapped:
    """Returns the jitted :meth:`TrainStep.finish` over global arrays; the old state is donated."""
    sharded = jax.shard_map(
        step.finish,
        mesh=mesh,
        in_specs=(EVERYWHERE, BY_REPLICA, EVERYWHERE),
        out_specs=(EVERYWHERE, EVERYWHERE),
    )
    return jax.jit(sharded, donate_argnums=0, compiler_options=options_of(mesh))


def options_of(mesh: Mesh) -> dict[str, Any] | None:
    """Returns the compiler's options for the programs of a train step; None: its defaults."""
    platform = platform_of(mesh)
    return _TPU_OPTIONS if platform == "tpu" else compiler_options(platform, training=True)


def no_sums(state: TrainState, mesh: Mesh) -> Sums:
    """Returns the sums before the first micro-batch; of the state, only shapes are read."""

    def zeros(*shape: int, dtype: Any = jnp.int32) -> jax.Array:
        return jnp.zeros((mesh.size, *shape), dtype)

    def like(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: zeros(*leaf.shape, dtype=leaf.dtype), tree)

    counts = Counts(loss=zeros(dtype=jnp.float32), top1=zeros(), top5=zeros(), images=zeros())
    losses, flags = zeros(dtype=jnp.float32), zeros(2 + pace_columns(mesh))
    return Sums(like(state.params), like(state.batch_stats), counts, losses, flags=flags, turn=zeros())


def abstract_sums(state: TrainState, mesh: Mesh) -> Sums:
    """Returns shapes, dtypes and sharding of the sums of a step."""
    shapes = jax.eval_shape(partial(no_sums, mesh=mesh), state)
    shape = partial(jax.ShapeDtypeStruct, sharding=batch_sharding(mesh))
    return jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype), shapes)
