"""AdamW: Adam with a weight decay that does not enter the moments."""

import dataclasses
from typing import Any

import jax
import optax

from efficientnet_pod.optim import masks
from efficientnet_pod.optim.hyperparameters import Hyperparameters
from efficientnet_pod.optim.ranges import Decay, Factor, Rate, Share


@dataclasses.dataclass(frozen=True)
class AdamW(Hyperparameters):
    """``w -= lr·(m̂/(√ŝ + epsilon) + weight_decay·w)``, by the moments of the gradients.

    They are ``m = beta1·m + (1-beta1)·g`` and ``s = beta2·s + (1-beta2)·g²``; step k, from 1, has
    ``m̂ = m/(1-beta1ᵏ)`` and ``ŝ = s/(1-beta2ᵏ)``. Biases and batch norm are not decayed.

    The decay is multiplied by the learning rate, as PyTorch and Optax do; the paper keeps the two apart.

    Attributes:
      beta1: share of the old mean of gradients that a step keeps.
      beta2: share of the old mean of squared gradients that a step keeps.
      epsilon: number added to the root of that mean.
      weight_decay: share of a kernel that a step takes off it, times the learning rate.

    Source: arXiv 1711.05101; PyTorch's ``torch.optim.AdamW``, whose defaults these are.
    """

    lr_per_256: Rate = 1e-3
    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: Factor = 1e-8
    weight_decay: Decay = 1e-2

    @property
    def decayed_kinds(self) -> masks.Kinds:
        """Kernels, unless there is no decay."""
        return masks.KERNELS if self.weight_decay else masks.NOTHING

    def direction(self, params: optax.Params) -> optax.GradientTransformation:
        """Returns the update before the learning rate: Adam's, and the decay of :meth:`decayed` tensors."""
        return optax.chain(
            _promoting(optax.scale_by_adam(self.beta1, self.beta2, self.epsilon)),
            optax.add_decayed_weights(self.weight_decay, mask=self.decayed(params)),
        )

    def transformation(
        self, learning_rate: optax.Schedule, params: optax.Params
    ) -> optax.GradientTransformation:
        """Returns the optimizer, see :meth:`Hyperparameters.transformation`."""
        return optax.chain(self.direction(params), optax.scale_by_schedule(learning_rate), optax.scale(-1.0))


def _promoting(adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns the transformation where dtypes are strict too: Optax raises a share to a whole number."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(updates, state, params)

    return optax.GradientTransformation(adam.init, update)
