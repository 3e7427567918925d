"""The networks by the names that configs have for them: defaults, what can be set, and how they are built."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flax import linen as nn

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.models.cifar_resnet import resnet9, resnet9_whitened, resnet18_cifar
from efficientnet_pod.models.efficientnet import VARIANTS, efficientnet
from efficientnet_pod.models.resnet import resnet50
from efficientnet_pod.models.titles import TITLES

Model = nn.Module

# Fields of `config.model` that some networks have: the value at which one that lacks them is as it is.
NEUTRAL = {
    "dropout": -1.0,
    "survival_probability": 1.0,
    "zero_init_residual": False,
    "ghost_batch": 0,
    "bn_scale": 0.0,
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as a config can ask for it.

    Attributes:
      title: what people call it.
      image_size: pixels, where the recipe has no size of its own.
      dropout: before the classifier, likewise.
      create: builds it.
      settings: the fields of :data:`NEUTRAL` that it has.
      packs: whether it can put images side by side for a TPU.
      whitens: whether it has a whitening layer, whose kernel comes from the training images.
    """

    title: str
    image_size: int
    dropout: float
    create: Callable[..., Model]
    settings: tuple[str, ...]
    packs: bool = False
    whitens: bool = False


NETWORKS = {
    name: Network(
        TITLES[name],
        variant.image_size,
        variant.dropout,
        partial(efficientnet, name),
        ("dropout", "survival_probability"),
        packs=True,
    )
    for name, variant in VARIANTS.items()
} | {
    "resnet50": Network(TITLES["resnet50"], 224, 0.0, resnet50, ("zero_init_residual", "ghost_batch")),
    "resnet18_cifar": Network(TITLES["resnet18_cifar"], 32, 0.0, resnet18_cifar, ("ghost_batch",)),
    "resnet9": Network(TITLES["resnet9"], 32, 0.0, resnet9, ("ghost_batch",)),
    "resnet9_whitened": Network(
        TITLES["resnet9_whitened"], 32, 0.0, resnet9_whitened, ("ghost_batch", "bn_scale"), whitens=True
    ),
}


def network_named(name: str) -> Network:
    """Returns the network that ``config.model.name`` asks for; raises UserError if there is none."""
    if name not in NETWORKS:
        raise UserError(f"config.model.name='{name}' is unknown{did_you_mean(name, NETWORKS)}")
    return NETWORKS[name]


def with_settings(model: Any, settings: Mapping[str, Any]) -> Model:
    """Returns the network with these values of the fields of :data:`NEUTRAL` that it keeps as its own."""
    return model.clone(**{name: settings[name] for name in NEUTRAL if hasattr(model, name)})


def create_network(
    name: str, *, num_classes: int, dtype: Any, bn_axis: str | None, packed: bool, settings: Mapping[str, Any]
) -> Model:
    """Returns the network.

    Args:
      name: of the network.
      num_classes: size of the logits.
      dtype: of convolutions and activations.
      bn_axis: mesh axis that batch norm reduces over in training; None outside a mesh.
      packed: put images side by side, as is good for a TPU, where the network can.
      settings: the fields of the recipe's model; those that the network lacks are not read.

    Raises:
      UserError: no such network.
    """
    network = network_named(name)
    own = {field: settings[field] for field in ("bn_momentum", "bn_epsilon", *network.settings)}
    own |= {"packed": packed} if network.packs else {}
    return network.create(num_classes=num_classes, dtype=dtype, bn_axis=bn_axis, **own)
