"""A three-block EfficientNet that compiles in seconds, and batches for it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from efficientnet_pod.models.efficientnet import EfficientNet, Stage, Variant
from efficientnet_pod.models.registry import NETWORKS, create_network
from efficientnet_pod.models.resnet import ResNet
from efficientnet_pod.run import run
from efficientnet_pod.weights import convert, trained

CLASSES = 10
SIZE = 32
KINDS = [name for name in NETWORKS if name in ("b0", "lite0", "v2_b0") or not NETWORKS[name].packs]
STAGES = (Stage(3, 1, 16, 1, 1), Stage(5, 2, 24, 6, 2))
FUSED_STAGES = (
    Stage(3, 2, 16, 1, 1, fused=True),
    Stage(3, 2, 24, 4, 2, fused=True),
    Stage(3, 1, 40, 4, 2),
)
VARIANT = Variant(width=0.25, depth=1.0, image_size=SIZE, dropout=0.0)


def tiny_model(*, num_classes: int = CLASSES, **options: Any) -> EfficientNet:
    """Both kinds of block and a shortcut; dropout and stochastic depth only if asked for."""
    of_network = {name: options.pop(name) for name in ("dtype", "bn_axis", "packed") if name in options}
    settings = {"dropout": 0.0, "bn_momentum": 0.99, **options}
    model = create_network("b0", num_classes=num_classes, settings=settings, **of_network)
    return model.clone(variant=VARIANT, stages=STAGES)


def tiny_network(name: str, *, settings: Mapping[str, Any] | None = None, **options: Any) -> EfficientNet:
    """Takes what ``registry.create_network`` takes; the network is tiny, its options the real one's."""
    own = ("bn_momentum", "bn_epsilon", "dropout", "survival_probability", "padding")
    return tiny_model(**options, **{field: settings[field] for field in own if field in (settings or {})})


def build_tiny_networks(patch: pytest.MonkeyPatch, stages: tuple[Stage, ...] = STAGES[:1]) -> None:
    """Makes runs and weights build the tiny network, by default of one block, with its recipe's options."""

    def create(name: str, **options: Any) -> EfficientNet:
        return tiny_network(name, **options).clone(stages=stages)

    for module in (run, trained):
        patch.setattr(module, "create_network", create)
    patch.setattr(convert, "_shapes", cache(convert._shapes.__wrapped__))  # those kept are of real networks


def tiny_form(model: Any) -> Any:
    """A network of any kind with few blocks and channels, all of them of its own kinds."""
    if isinstance(model, EfficientNet):
        stages = FUSED_STAGES if any(stage.fused for stage in model.stages) else STAGES
        return model.clone(variant=replace(VARIANT, lite=model.variant.lite), stages=stages)
    smaller = {"width": 8, "cells": 1, "filters": 16}
    smaller |= {"stages": ((1, 8, 1), (1, 16, 2))} if isinstance(model, ResNet) else {}
    return model.clone(**{name: value for name, value in smaller.items() if hasattr(model, name)})


def batch(images: int, seed: int = 0, size: int = SIZE) -> dict[str, np.ndarray]:
    """Noise, in levels of 0..255, with random labels."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(120, 57, (images, size, size, 3)).astype(np.float32),
        "label": rng.integers(0, CLASSES, images, dtype=np.int32),
    }
