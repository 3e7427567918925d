"""RMSProp with the semantics of TensorFlow's kernel, which EfficientNet was published with."""

import dataclasses
from typing import Annotated

import optax

from efficientnet_pod.optim import masks
from efficientnet_pod.optim.hyperparameters import Hyperparameters
from efficientnet_pod.optim.ranges import Decay, Factor, Rate, ReadWith, Share


@dataclasses.dataclass(frozen=True)
class RmsProp(Hyperparameters):
    """``s = decay·s + (1-decay)·g²``, ``v = momentum·v + lr·g/√(s+epsilon)``, ``w -= v``; ``s`` starts at 1.

    ``g`` includes ``l2·w``, the gradient of ``½·l2·‖w‖²``, for every tensor but batch norm's, without
    ``l2_biases`` for kernels alone: weight decay as L2 in the loss. It is added here, before the second
    moment, and nowhere else.

    The start at 1, ``epsilon`` inside the root and the learning rate inside the momentum buffer are
    TensorFlow's. By default Optax and PyTorch start at 0, which makes the first steps far larger.

    Attributes:
      decay: share of the old mean of squared gradients that a step keeps.
      momentum: share of the last update that is kept.
      epsilon: number added to that mean, inside the root.
      l2: factor of half the squared norm of the weights in the loss.
      l2_biases: whether biases are in that norm too.

    Source: tensorflow/python/training/rmsprop.py; tensorflow/tpu models/official/efficientnet, utils.py and
    main.py.
    """

    lr_per_256: Rate = 0.016
    decay: Share = 0.9
    momentum: Share = 0.9
    epsilon: Factor = 1e-3
    l2: Decay = 1e-5
    l2_biases: Annotated[bool, ReadWith("optimizer.l2")] = True

    @property
    def decayed_kinds(self) -> masks.Kinds:
        """Kernels, and biases or not, unless there is no decay."""
        if not self.l2:
            return masks.NOTHING
        return masks.KERNELS_AND_BIASES if self.l2_biases else masks.KERNELS

    def transformation(
        self, learning_rate: optax.Schedule, params: optax.Params
    ) -> optax.GradientTransformation:
        """Returns the optimizer, see :meth:`Hyperparameters.transformation`."""
        return optax.chain(
            optax.add_decayed_weights(self.l2, mask=self.decayed(params)),
            optax.scale_by_rms(self.decay, self.epsilon, initial_scale=1.0, eps_in_sqrt=True),
            optax.scale_by_schedule(learning_rate),
            optax.trace(self.momentum),
            optax.scale(-1.0),
        )
