"""The optimizers and learning-rate schedules by name, and what each does to every tensor."""

from typing import NamedTuple

import jax
import optax

from efficientnet_pod.optim.hyperparameters import Hyperparameters
from efficientnet_pod.optim.lars import Lars
from efficientnet_pod.optim.masks import path_name
from efficientnet_pod.optim.rmsprop import RmsProp
from efficientnet_pod.optim.schedules import (
    SCHEDULES,
    LearningRate,
    Schedule,
    Stretch,
    create_schedule,
    in_phases,
    peak_learning_rate,
    schedule_warnings,
)
from efficientnet_pod.optim.sgd import Sgd

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Hyperparameters",
    "Lars",
    "LearningRate",
    "RmsProp",
    "Schedule",
    "Sgd",
    "Stretch",
    "Treatment",
    "create_optimizer",
    "create_schedule",
    "in_phases",
    "peak_learning_rate",
    "schedule_warnings",
    "treatment",
]

OPTIMIZERS: dict[str, type[Hyperparameters]] = {"lars": Lars, "rmsprop": RmsProp, "sgd": Sgd}


class Treatment(NamedTuple):
    """What an optimizer does to one tensor beside following its gradient."""

    path: str
    shape: tuple[int, ...]
    decayed: bool
    adapted: bool


def create_optimizer(
    hyper: Hyperparameters, learning_rate: optax.Schedule, params: optax.Params
) -> optax.GradientTransformation:
    """Returns the optimizer; its update ``k``, from 0, uses ``learning_rate(k)``, to be added to ``params``.

    The count is part of the optimizer's state, so a restored state goes on exactly where it stopped. Of
    ``params`` only the tree and its names are read (``jax.ShapeDtypeStruct`` will do). There are no
    collectives: inside ``shard_map`` gradients and parameters are whole and equal on all replicas.
    """
    return hyper.transformation(learning_rate, params)


def treatment(hyper: Hyperparameters, params: optax.Params) -> list[Treatment]:
    """Returns one entry per tensor of ``params`` (arrays or ``jax.ShapeDtypeStruct``), in tree order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    decayed, adapted = (jax.tree.leaves(mask(params)) for mask in (hyper.decayed, hyper.adapted))
    return [
        Treatment(path_name(path), tuple(leaf.shape), *flags)
        for (path, leaf), *flags in zip(leaves, decayed, adapted, strict=True)
    ]
