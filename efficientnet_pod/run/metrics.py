"""Cross-entropy with label smoothing, and counts that are summed until the last division."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax


def cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Returns the float32 loss of each example, shape (batch,), in nats.

    The target is ``onehot · (1 − s) + s / classes``.

    Args:
      logits: float32 (batch, classes).
      labels: integers (batch,).
      label_smoothing: s. Evaluation uses 0, so that losses compare across recipes.

    Source: Szegedy et al., arXiv 1512.00567, section 7.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    of_label = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    return -(1 - label_smoothing) * of_label - label_smoothing * jnp.mean(log_probabilities, axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counts:
    """Sums over images: of the loss (float32), of hits and of the images themselves (int32 scalars)."""

    loss: jax.Array
    top1: jax.Array
    top5: jax.Array
    images: jax.Array


def count(logits: jax.Array, labels: jax.Array, losses: jax.Array, mask: jax.Array) -> Counts:
    """Returns the sums over the images whose mask is set.

    An image is a top-k hit if fewer than k classes come before its label in a stable sort of the logits, so
    that a network whose logits are all equal scores as ``argmax`` would. A non-finite loss is never a hit.

    Args:
      logits: float32 (batch, classes).
      labels: integers (batch,).
      losses: float32 (batch,).
      mask: bool (batch,), False for padding, whatever stands in the other arguments there.
    """
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=1)
    earlier = jnp.arange(logits.shape[1])[None, :] < labels[:, None]
    rank = jnp.sum((logits > of_label) | ((logits == of_label) & earlier), axis=1)
    valid = mask & jnp.isfinite(losses)  # NaN logits compare as smaller than everything: rank 0
    return Counts(
        loss=jnp.sum(jnp.where(mask, losses, 0.0)),
        top1=jnp.sum(valid & (rank < 1), dtype=jnp.int32),
        top5=jnp.sum(valid & (rank < 5), dtype=jnp.int32),
        images=jnp.sum(mask, dtype=jnp.int32),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TopClasses:
    """The most probable classes of each image, in order, and their probabilities.

    Attributes:
      classes: int32 (batch, k); the first one is the prediction.
      probabilities: float32 (batch, k).
    """

    classes: jax.Array
    probabilities: jax.Array


def top_classes(logits: jax.Array) -> TopClasses:
    """Returns the three most probable classes of each image, or all if there are fewer.

    Of equal logits the lower class comes first, as for :func:`count`. The logits, float32 (batch, classes),
    are sorted and not the probabilities, of which two may be equal where the logits are not.
    """
    largest, classes = lax.top_k(logits, min(3, logits.shape[1]))
    total = jax.nn.logsumexp(logits, axis=1, keepdims=True)
    return TopClasses(classes.astype(jnp.int32), jnp.exp(largest - total))


@dataclasses.dataclass(frozen=True)
class Rates:
    """Averages over images: mean loss in nats, and top-1 and top-5 as shares between 0 and 1."""

    loss: float
    top1: float
    top5: float
    images: int


def rates(counts: list[Counts]) -> Rates:
    """Returns the merged counts divided by their images; host arithmetic, float64.

    Raises:
      ValueError: no image was counted.
    """
    images = sum(int(c.images) for c in counts)
    if images == 0:
        raise ValueError("no image was counted")
    return Rates(
        loss=sum(float(c.loss) for c in counts) / images,
        top1=sum(int(c.top1) for c in counts) / images,
        top5=sum(int(c.top5) for c in counts) / images,
        images=images,
    )
