"""LAMB: AdamW's direction, and for each kernel a step in proportion to its norm."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from efficientnet_pod.optim import masks
from efficientnet_pod.optim.adamw import AdamW
from efficientnet_pod.optim.ranges import Factor


@dataclasses.dataclass(frozen=True)
class Lamb(AdamW):
    """``w -= lr·trust·u``, where ``u = m̂/(√ŝ + epsilon) + weight_decay·w`` is the direction of AdamW.

    The trust ratio of a kernel is ``‖w‖ / ‖u‖``, or 1 where one of the two is zero. Biases and batch norm are
    neither decayed nor adapted.

    Attributes:
      epsilon: number added to the root of the mean of squared gradients.

    Source: arXiv 1904.00962, algorithm 2, without bounds on the norms; Optax's ``lamb``, which decays and
    adapts every tensor unless told otherwise.
    """

    epsilon: Factor = 1e-6

    @property
    def adapted_kinds(self) -> masks.Kinds:
        """Kernels."""
        return masks.KERNELS

    def trust_ratios(self, gradients: optax.Updates, params: optax.Params, state: Any) -> jax.Array:
        """Returns the trust ratios of the update with these gradients, float32 (adapted tensors,).

        They are in tree order, as :func:`optimizers.treatment` lists them. The compiler finds the direction
        where the update has computed it already.
        """
        direction, _ = self.direction(params).update(gradients, state[0], params)
        leaves = zip(*map(jax.tree.leaves, (direction, params, self.adapted(params))), strict=True)
        norms = [(_norm(u), _norm(w)) for u, w, is_adapted in leaves if is_adapted]
        u, w = (jnp.stack(each) for each in zip(*norms, strict=True))
        defined = (u > 0) & (w > 0)
        return jnp.where(defined, w / jnp.where(defined, u, 1.0), 1.0)

    def transformation(
        self, learning_rate: optax.Schedule, params: optax.Params
    ) -> optax.GradientTransformation:
        """Returns the optimizer, see :meth:`Hyperparameters.transformation`."""
        return optax.chain(
            self.direction(params),
            optax.masked(optax.scale_by_trust_ratio(), self.adapted(params)),
            optax.scale_by_schedule(learning_rate),
            optax.scale(-1.0),
        )


def _norm(tensor: jax.typing.ArrayLike) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(jnp.asarray(tensor, jnp.float32))))
