"""Training from existing weights: frozen layers, slower layers, and the statistics of batch norm."""

import dataclasses
from typing import Annotated, Any

import jax
import optax

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.optim.masks import path_name
from efficientnet_pod.optim.ranges import Choices, Count, Range, Ranged, ReadWith

KEEP, TRAIN, REESTIMATE = "keep", "train", "reestimate"
BN_STATISTICS = (KEEP, TRAIN, REESTIMATE)


@dataclasses.dataclass(frozen=True)
class InitSettings(Ranged):
    """The weights that training starts from, and how far it may move them.

    A layer is named by the beginning of its path, ``stem``, ``block1``, ``block3b``, ``head``, ``classifier``
    or ``""`` for all.

    Attributes:
      weights: a workdir, a folder of weights, or a file of another library; empty for random weights.
      frozen: layers that do not change, the statistics of their batch norms included.
      lr_factors: (layer, factor of the learning rate) pairs; the last one that names a tensor counts.
      bn_statistics: treatment of the loaded statistics. ``train``: batches normalise by themselves, and the
        running averages start from the loaded ones. ``keep``: the loaded ones normalise, in training too,
        and do not change. ``reestimate``: the averages start from those of ``bn_images`` training images.
      bn_images: number of training images for ``reestimate``.
    """

    weights: str
    frozen: tuple[str, ...]
    lr_factors: Annotated[tuple[tuple[str, float], ...], Range(0, 1000)]
    bn_statistics: Annotated[str, Choices(BN_STATISTICS)]
    bn_images: Annotated[Count, ReadWith("init.bn_statistics", (REESTIMATE,))]

    @property
    def path(self) -> str:
        """Name of the table in a config."""
        return "config.init"

    @property
    def fixed_statistics(self) -> tuple[str, ...]:
        """The layers whose batch norm uses its running statistics in training and leaves them alone."""
        return ("",) if self.bn_statistics == KEEP else self.frozen

    def is_frozen(self, path: str) -> bool:
        """Returns whether the parameter at a path, e.g. ``block1a/expand_conv/kernel``, is not trained."""
        return path.startswith(self.frozen)

    def lr_factor(self, path: str) -> float:
        """Returns the factor of a parameter's learning rate; 0 if it is frozen."""
        if self.is_frozen(path):
            return 0.0
        of_path = [factor for layer, factor in self.lr_factors if path.startswith(layer)]
        return of_path[-1] if of_path else 1.0

    def __str__(self) -> str:
        """Returns the settings in a line, for people."""
        parts = [self.weights]
        if self.frozen:
            parts.append(f"frozen: {', '.join(layer or 'all' for layer in self.frozen)}")
        if self.lr_factors:
            slower = (f"{layer or 'all'} × {factor:g}" for layer, factor in self.lr_factors)
            parts.append(f"learning rate: {', '.join(slower)}")
        if self.bn_statistics != TRAIN:
            of_images = f" from {self.bn_images:,} images" if self.bn_statistics == REESTIMATE else ""
            parts.append(f"statistics of batch norm: {self.bn_statistics}{of_images}")
        return "; ".join(parts)

    def check(self, params: Any) -> None:
        """Raises UserError for a layer that the network lacks, or where nothing is left to be trained."""
        paths = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
        named = {"frozen": self.frozen, "lr_factors": [layer for layer, _ in self.lr_factors]}
        for field, layers in named.items():
            for layer in layers:
                if not any(path.startswith(layer) for path in paths):
                    near = did_you_mean(layer, {path.partition("/")[0] for path in paths})
                    raise UserError(f"config.init.{field} names '{layer}', and no layer begins so{near}")
        if all(self.lr_factor(path) == 0 for path in paths):
            raise UserError(
                f"config.init.frozen={self.frozen} and config.init.lr_factors={self.lr_factors} leave "
                "nothing to be trained; name fewer layers"
            )


def scaled(optimizer: optax.GradientTransformation, init: InitSettings) -> optax.GradientTransformation:
    """Returns the optimizer with the learning rate of every tensor multiplied by its factor.

    Its own state, and the optimizer itself where there are no factors, stay as they are. A frozen tensor
    keeps its bits.
    """
    if not (init.frozen or init.lr_factors):
        return optimizer

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = optimizer.update(updates, state, params)
        # An update is the learning rate times something that does not depend on it, momentum included.
        return jax.tree.map_with_path(lambda p, leaf: leaf * init.lr_factor(path_name(p)), updates), state

    return optax.GradientTransformation(optimizer.init, update)


def without_gradient(params: Any, init: InitSettings) -> Any:
    """Returns the parameters, the frozen ones as constants: nothing is computed for their gradients."""
    return jax.tree.map_with_path(
        lambda p, leaf: jax.lax.stop_gradient(leaf) if init.is_frozen(path_name(p)) else leaf, params
    )


def with_fixed_statistics(new: Any, old: Any, init: InitSettings) -> Any:
    """Returns the new BN statistics, but the old ones, to the bit, where they are not to change."""
    fixed = init.fixed_statistics
    return jax.tree.map_with_path(
        lambda p, new, old: old if path_name(p).startswith(fixed) else new, new, old
    )
