"""The networks by the names that configs have for them: defaults, what can be set, and how they are built."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.models.amoebanet import AmoebaNet
from efficientnet_pod.models.batch_norm import BatchNorm
from efficientnet_pod.models.cifar_resnet import CifarResNet18, ResNet9, whitened_resnet9
from efficientnet_pod.models.efficientnet import STAGES, VARIANTS, EfficientNet
from efficientnet_pod.models.efficientnet_v2 import VARIANTS_V2
from efficientnet_pod.models.resnet import ResNet
from efficientnet_pod.models.titles import TITLES

Model = nn.Module

# Optional fields of `config.model`: the value that means "off", the only one for a network without the field.
NEUTRAL = {
    "dropout": -1.0,
    "survival_probability": 1.0,
    "zero_init_residual": False,
    "ghost_batch": 0,
    "bn_scale": 0.0,
    "auxiliary_weight": 0.0,
    "recompute": False,
    "padding": "same",
}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as a config can ask for it.

    Attributes:
      title: name that people know it by.
      image_size: pixels, where the recipe has no size of its own.
      dropout: rate before the classifier, where the recipe has none of its own.
      bn_epsilon: number added to the variances of batch norm, as published.
      build: builds it from ``num_classes``, ``norm``, ``dtype`` and the settings that it keeps as its own.
      settings: the fields of :data:`NEUTRAL` that it has.
      packs: whether it can put images side by side for a TPU.
      whitens: whether it has a whitening layer, whose kernel comes from the training images.
      least_size: smallest height and width of an image, in pixels, that its pools leave something of.
    """

    title: str
    image_size: int
    dropout: float
    bn_epsilon: float
    build: Callable[..., Model]
    settings: tuple[str, ...]
    packs: bool = False
    whitens: bool = False
    least_size: int = 1

    def require_size(self, pixels: int, name: str) -> None:
        """Raises UserError for images that are too small; ``name`` is the field or flag of their size."""
        if pixels < self.least_size:
            raise UserError(
                f"{name}={pixels} is too small for {self.title}, whose pools leave nothing of it; the least: "
                f"--{name}={self.least_size}"
            )


def _cifar(name: str, build: Callable[..., Model], *settings: str, **options: Any) -> Network:
    return Network(TITLES[name], 32, 0.0, 1e-5, build, ("ghost_batch", *settings), **options)


_EFFICIENTNETS = {name: (variant, STAGES) for name, variant in VARIANTS.items()} | VARIANTS_V2
NETWORKS = {
    name: Network(
        TITLES[name],
        variant.image_size,
        variant.dropout,
        1e-3,
        partial(EfficientNet, variant, stages=stages),
        ("dropout", "survival_probability", "recompute", "padding"),
        packs=True,
    )
    for name, (variant, stages) in _EFFICIENTNETS.items()
} | {
    "resnet50": Network(
        TITLES["resnet50"], 224, 0.0, 1e-5, ResNet, ("zero_init_residual", "ghost_batch", "recompute")
    ),
    # Smaller images leave the second classifier's pool nothing.
    "amoebanet_d": Network(
        TITLES["amoebanet_d"],
        224,
        0.5,
        1e-5,
        AmoebaNet,
        ("dropout", "ghost_batch", "auxiliary_weight", "recompute"),
        least_size=67,
    ),
    "resnet18_cifar": _cifar("resnet18_cifar", CifarResNet18),
    "resnet9": _cifar("resnet9", ResNet9, least_size=8),
    "resnet9_whitened": _cifar("resnet9_whitened", whitened_resnet9, "bn_scale", whitens=True, least_size=8),
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
    name: str,
    *,
    num_classes: int,
    dtype: Any = jnp.float32,
    bn_axis: str | None = None,
    packed: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Model:
    """Returns the network.

    Args:
      name: name of the network.
      num_classes: size of the logits.
      dtype: type of convolutions and activations.
      bn_axis: axis that batch norm reduces over in training; None outside a mesh.
      packed: whether to put images side by side, which is good for a TPU, where the network can.
      settings: fields of the recipe's model. A missing field is as published or off; fields that the network
        lacks are not read.

    Raises:
      UserError: no such network.
    """
    network = network_named(name)
    published = {"dropout": network.dropout, "bn_momentum": 0.9, "bn_epsilon": network.bn_epsilon}
    values: dict[str, Any] = {**NEUTRAL, **published, **(settings or {})}
    own = {field: values[field] for field in network.settings}
    norm = partial(
        BatchNorm,
        axis_name=bn_axis,
        momentum=values["bn_momentum"],
        epsilon=values["bn_epsilon"],
        dtype=dtype,
        ghost_batch=own.pop("ghost_batch", 0),
    )
    if network.packs:
        own["packed"] = packed
    return network.build(num_classes=num_classes, norm=norm, dtype=dtype, **own)
