"""A three-block EfficientNet that compiles in seconds, and batches for it."""

from typing import Any

import numpy as np
import pytest

from efficientnet_pod.models.efficientnet import EfficientNet, Stage, Variant, efficientnet
from efficientnet_pod.run import run

CLASSES = 10
SIZE = 32
STAGES = (Stage(3, 1, 16, 1, 1), Stage(5, 2, 24, 6, 2))
VARIANT = Variant(width=0.25, depth=1.0, image_size=SIZE, dropout=0.0)


def tiny_model(**options) -> EfficientNet:
    """Both kinds of block and a shortcut; dropout and stochastic depth only if asked for."""
    options = {"dropout": 0.0, "survival_probability": 1.0, "num_classes": CLASSES, **options}
    return efficientnet("b0", **options).clone(variant=VARIANT, stages=STAGES)


def tiny_network(name: str, *, settings: dict[str, Any], **options: Any) -> EfficientNet:
    """Takes what ``registry.create_network`` takes; the network is tiny, its options the real one's."""
    own = ("bn_momentum", "bn_epsilon", "dropout", "survival_probability")
    return tiny_model(**options, **{field: settings[field] for field in own})


def build_tiny_networks(patch: pytest.MonkeyPatch, stages: tuple[Stage, ...] = STAGES) -> None:
    """Makes every run build the tiny network, with the options its recipe gives the real one."""
    patch.setattr(
        run, "create_network", lambda name, **options: tiny_network(name, **options).clone(stages=stages)
    )


def batch(images: int, seed: int = 0, size: int = SIZE) -> dict[str, np.ndarray]:
    """Noise, in levels of 0..255, with random labels."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(120, 57, (images, size, size, 3)).astype(np.float32),
        "label": rng.integers(0, CLASSES, images, dtype=np.int32),
    }
