"""The optimizers by the names that configs have for them, and their treatment of each tensor."""

from typing import NamedTuple

import jax
import optax

from efficientnet_pod.optim.adamw import AdamW
from efficientnet_pod.optim.hyperparameters import Hyperparameters
from efficientnet_pod.optim.lamb import Lamb
from efficientnet_pod.optim.lars import Lars
from efficientnet_pod.optim.masks import path_name
from efficientnet_pod.optim.rmsprop import RmsProp
from efficientnet_pod.optim.sgd import Sgd

OPTIMIZERS: dict[str, type[Hyperparameters]] = {
    "adamw": AdamW,
    "lamb": Lamb,
    "lars": Lars,
    "rmsprop": RmsProp,
    "sgd": Sgd,
}


class Treatment(NamedTuple):
    """The treatment of one tensor by an optimizer: whether it is decayed, and adapted by a trust ratio."""

    path: str
    shape: tuple[int, ...]
    decayed: bool
    adapted: bool


def treatment(hyper: Hyperparameters, params: optax.Params) -> list[Treatment]:
    """Returns one entry per tensor of ``params`` (arrays or ``jax.ShapeDtypeStruct``), in tree order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    decayed, adapted = (jax.tree.leaves(mask(params)) for mask in (hyper.decayed, hyper.adapted))
    return [
        Treatment(path_name(path), tuple(leaf.shape), *flags)
        for (path, leaf), *flags in zip(leaves, decayed, adapted, strict=True)
    ]
