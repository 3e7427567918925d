"""The base of all optimizers: hyper-parameters, the tensors they treat, the update."""

import abc
import dataclasses

import jax
import optax

from efficientnet_pod.optim import masks
from efficientnet_pod.optim.ranges import Ranged, Rate


@dataclasses.dataclass(frozen=True)
class Hyperparameters(Ranged, abc.ABC):
    """The hyper-parameters of one optimizer; raises UserError if one of them is out of range.

    Attributes:
      lr_per_256: base learning rate, per 256 images of the global batch.
    """

    lr_per_256: Rate

    @property
    def path(self) -> str:
        """Name of the table in a config."""
        return f"config.optimizer.{type(self).__name__.lower()}"

    @property
    @abc.abstractmethod
    def decayed_kinds(self) -> masks.Kinds:
        """The kinds of tensors whose weights are pulled towards zero."""

    @property
    def adapted_kinds(self) -> masks.Kinds:
        """The kinds of tensors whose step is scaled by a trust ratio; none here."""
        return masks.NOTHING

    def decayed(self, params: optax.Params) -> optax.Params:
        """Returns a tree of bool, True at the tensors whose weights are pulled towards zero."""
        return masks.where(self.decayed_kinds, params)

    def adapted(self, params: optax.Params) -> optax.Params:
        """Returns a tree of bool, True at the tensors whose step is scaled by the trust ratio."""
        return masks.where(self.adapted_kinds, params)

    def trust_ratios(
        self, gradients: optax.Updates, params: optax.Params, state: optax.OptState
    ) -> jax.Array | None:
        """Returns the trust ratios of the update with these gradients; None here, where there are none.

        ``state`` is the state of :meth:`transformation` before the update.
        """
        del gradients, params, state
        return None

    @abc.abstractmethod
    def transformation(
        self, learning_rate: optax.Schedule, params: optax.Params
    ) -> optax.GradientTransformation:
        """Returns the optimizer; its update ``k``, from 0, uses ``learning_rate(k)`` and is to be added.

        The count is part of the optimizer's state, so a restored state goes on exactly where it stopped. Only
        the tree of ``params`` and its names are read (``jax.ShapeDtypeStruct`` will do). There are no
        collectives: inside ``shard_map`` gradients and parameters are whole and equal on all replicas.
        """
