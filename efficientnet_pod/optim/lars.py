"""LARS as the authors of "Training EfficientNets at Supercomputer Scale" ran it."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from efficientnet_pod.optim import masks
from efficientnet_pod.optim.hyperparameters import Hyperparameters
from efficientnet_pod.optim.ranges import Decay, Factor, Share


@dataclasses.dataclass(frozen=True)
class Lars(Hyperparameters):
    """Layer-wise adaptive rate scaling: ``v = momentum·v + lr·trust·(g + weight_decay·w)``, ``w -= v``.

    The trust ratio of a kernel is ``trust_coefficient·‖w‖ / (‖g‖ + weight_decay·‖w‖ + epsilon)``, or 1 where
    ``‖w‖`` or ``‖g‖`` is zero. Biases and batch norm are neither decayed nor adapted:
    ``v = momentum·v + lr·g``.

    The learning rate is inside the momentum buffer, unlike SGD's: where it changes from step to step, so does
    the trajectory. Weight decay is this term alone; the authors' code has L2 in the loss besides.

    ``optax.lars`` is another optimizer: it divides by ``‖g + weight_decay·w‖``, and decays and adapts every
    tensor unless told otherwise.

    Attributes:
      momentum: share of the last update that is kept.
      weight_decay: share of a kernel that is added to its gradient.
      trust_coefficient: step of a kernel, relative to its norm, at a learning rate of 1.
      epsilon: number added to the denominator of the trust ratio.

    Source: tensorflow/tpu models/official/efficientnet/lars_optimizer.py; You et al., arXiv:1708.03888.
    """

    momentum: Share = 0.9
    weight_decay: Decay = 1e-5
    trust_coefficient: Factor = 1e-3
    epsilon: Factor = 0.0

    @property
    def decayed_kinds(self) -> masks.Kinds:
        """Kernels, unless there is no decay."""
        return masks.KERNELS if self.weight_decay else masks.NOTHING

    @property
    def adapted_kinds(self) -> masks.Kinds:
        """Kernels."""
        return masks.KERNELS

    def trust_ratios(
        self, gradients: optax.Updates, params: optax.Params, state: optax.OptState
    ) -> jax.Array:
        """Returns the trust ratios of the update with these gradients, float32 (adapted tensors,).

        They are in tree order, as :func:`optimizers.treatment` lists them. Both trees are whole, as for the
        update; where both are compiled together, the compiler finds the norms there already.
        """
        del state
        leaves = zip(*map(jax.tree.leaves, (gradients, params, self.adapted(params))), strict=True)
        return jnp.stack([self._trust_ratio(g, w) for g, w, is_adapted in leaves if is_adapted])

    def transformation(
        self, learning_rate: optax.Schedule, params: optax.Params
    ) -> optax.GradientTransformation:
        """Returns the optimizer, see :meth:`Hyperparameters.transformation`."""
        # The authors' one skip list rules both decay and adaptation, so decay happens inside the adaptation.
        return optax.chain(
            optax.masked(optax.stateless_with_tree_map(self._decay_and_adapt), self.adapted(params)),
            optax.scale_by_schedule(learning_rate),
            optax.trace(self.momentum),
            optax.scale(-1.0),
        )

    def _decay_and_adapt(
        self, gradient: jax.typing.ArrayLike, weight: jax.typing.ArrayLike | None
    ) -> jax.Array:
        """Returns ``trust·(g + weight_decay·w)`` of one whole tensor, in float32."""
        if weight is None:
            raise ValueError("LARS needs the parameters: call update(gradients, state, params)")
        g, w = jnp.asarray(gradient, jnp.float32), jnp.asarray(weight, jnp.float32)
        return self._trust_ratio(g, w) * (g + self.weight_decay * w)

    def _trust_ratio(self, gradient: jax.typing.ArrayLike, weight: jax.typing.ArrayLike) -> jax.Array:
        """Returns the trust ratio of one whole tensor, a float32 scalar."""
        g, w = jnp.asarray(gradient, jnp.float32), jnp.asarray(weight, jnp.float32)
        g_norm, w_norm = jnp.sqrt(jnp.sum(jnp.square(g))), jnp.sqrt(jnp.sum(jnp.square(w)))
        defined = (w_norm > 0) & (g_norm > 0)
        # The divisor is replaced too: 0/0, though never chosen, stops a run under jax_debug_nans without jit.
        divisor = jnp.where(defined, g_norm + self.weight_decay * w_norm + self.epsilon, 1.0)
        return jnp.where(defined, self.trust_coefficient * w_norm / divisor, 1.0)
