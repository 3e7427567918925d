"""The evaluation step, and the step that measures batch norm's statistics, as one replica sees them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from efficientnet_pod.models.inputs import mean_with_mirror, normalise
from efficientnet_pod.pod.agreement import GO
from efficientnet_pod.pod.cpu import compiler_options
from efficientnet_pod.pod.mesh import BN_GROUP, BY_REPLICA, EVERYWHERE, REPLICAS, platform_of
from efficientnet_pod.run.metrics import Counts, TopClasses, count, cross_entropy, top_classes
from efficientnet_pod.run.state import PyTree
from efficientnet_pod.run.train_step import Batch


def eval_step(
    variables: dict[str, PyTree],
    batch: Batch,
    *,
    model: Any,
    flip: bool = False,
    normalise: Callable[[jax.Array], jax.Array] = normalise,
) -> tuple[Counts, jax.Array, TopClasses]:
    """Returns the counts of the global batch's real images, seen by one replica; the loss is not smoothed.

    The int32 scalar beside them is the number of replicas whose host was told to stop. The predictions are of
    this replica's images, padding too. With ``flip``, logits are the mean of an image and its mirror image.
    """
    with jax.named_scope("input"):
        images = normalise(batch["image"])
    logits = mean_with_mirror(partial(model.apply, variables, train=False), images, flip=flip)
    with jax.named_scope("loss"):
        losses = cross_entropy(logits, batch["label"])
    with jax.named_scope("metrics"):
        counts = count(logits, batch["label"], losses, batch["mask"] > 0)
        counts, stops = lax.psum((counts, (batch["command"][0] != GO).astype(jnp.int32)), REPLICAS)
        return counts, stops, top_classes(logits)


def statistics_step(
    variables: dict[str, PyTree],
    batch: Batch,
    *,
    model: Any,
    normalise: Callable[[jax.Array], jax.Array],
) -> PyTree:
    """Returns the BN statistics of one global batch, seen by one device: of each group, then their mean.

    The model keeps nothing of older statistics (momentum 0), and drops nothing.
    """
    with jax.named_scope("input"):
        images = normalise(batch["image"])
    statistics = model.apply(variables, images, train=True, mutable=["batch_stats"])[1]["batch_stats"]
    return lax.pmean(statistics, BN_GROUP)


def compile_eval_step(model: Any, mesh: Mesh, **how: Any) -> jax.stages.Wrapped:
    """Returns the jitted (variables, batch) → (counts, stops, predictions); a batch has ``mask`` too.

    The predictions lie where the images do. ``how`` is what :func:`eval_step` takes besides.
    """
    sharded = jax.shard_map(
        partial(eval_step, model=model, **how),
        mesh=mesh,
        in_specs=(EVERYWHERE, BY_REPLICA),
        out_specs=(EVERYWHERE, EVERYWHERE, BY_REPLICA),
    )
    return jax.jit(sharded, compiler_options=compiler_options(platform_of(mesh)))


def compile_statistics_step(model: Any, mesh: Mesh, **how: Any) -> jax.stages.Wrapped:
    """Returns the jitted (variables, batch) → BN statistics, over global arrays.

    ``how`` is what :func:`statistics_step` takes besides.
    """
    step = partial(statistics_step, model=model, **how)
    sharded = jax.shard_map(step, mesh=mesh, in_specs=(EVERYWHERE, BY_REPLICA), out_specs=EVERYWHERE)
    return jax.jit(sharded, compiler_options=compiler_options(platform_of(mesh)))
