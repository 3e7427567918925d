"""Stochastic gradient descent with momentum, as TensorFlow's MomentumOptimizer computes it."""

import dataclasses
from typing import Annotated

import optax

from efficientnet_pod.optim import masks
from efficientnet_pod.optim.hyperparameters import Hyperparameters
from efficientnet_pod.optim.ranges import Decay, Rate, ReadWith, Share


@dataclasses.dataclass(frozen=True)
class Sgd(Hyperparameters):
    """``v = momentum·v + g``, ``w -= lr·v``; with ``nesterov``, ``w -= lr·(g + momentum·v)``.

    The learning rate is outside the momentum buffer, unlike LARS's and RMSProp's. ``g`` includes ``l2·w``,
    the gradient of ``½·l2·‖w‖²``, for every tensor but batch norm's, with ``l2_everywhere`` for those too. It
    is added here and nowhere else.

    Attributes:
      momentum: share of the last update that is kept.
      nesterov: whether the momentum is applied before the step, as Nesterov's.
      l2: factor of half the squared norm of the weights in the loss.
      l2_everywhere: whether the scales and biases of batch norm are in that norm too.

    Source: tensorflow/python/training/momentum.py and its kernel ResourceApplyMomentum. PyTorch's SGD is the
    same up to the learning rate outside the buffer; it decays everything unless told otherwise, as
    cifar10-fast does, and imagenet18 does not.
    """

    lr_per_256: Rate = 0.1
    momentum: Share = 0.9
    nesterov: Annotated[bool, ReadWith("optimizer.momentum")] = False
    l2: Decay = 1e-4
    l2_everywhere: Annotated[bool, ReadWith("optimizer.l2")] = False

    @property
    def decayed_kinds(self) -> masks.Kinds:
        """Kernels and biases, or everything, unless there is no decay."""
        if not self.l2:
            return masks.NOTHING
        return masks.EVERYTHING if self.l2_everywhere else masks.KERNELS_AND_BIASES

    def transformation(
        self, learning_rate: optax.Schedule, params: optax.Params
    ) -> optax.GradientTransformation:
        """Returns the optimizer, see :meth:`Hyperparameters.transformation`."""
        return optax.chain(
            optax.add_decayed_weights(self.l2, mask=self.decayed(params)),
            optax.trace(self.momentum, nesterov=self.nesterov),
            optax.scale_by_schedule(learning_rate),
            optax.scale(-1.0),
        )
