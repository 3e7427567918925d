"""Random weights in timm's names and axes, the same wherever numpy is: beside PyTorch, and here."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[1] / "files"
Shapes = dict[str, tuple[int, ...]]


def shapes_of(network: str) -> Shapes:
    """Returns the tensors of timm's twin of one of our networks with 1,000 classes, in timm's order."""
    listed = json.loads(gzip.decompress((DATA / "timm_tensors.json.gz").read_bytes()))[network]
    return {name: tuple(shape) for name, shape in listed}


def random_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns a tensor for each name, drawn from a stream of its own; statistics are 0 and 1.

    Kernels keep the size of what passes through them. With other statistics than the images' nothing of an
    image reaches the logits: take :func:`with_statistics` before they are compared.
    """

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([*name.encode()])
        leaf = name.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            return np.zeros(shape, np.int64)
        if leaf == "running_mean":
            return np.zeros(shape, np.float32)
        if leaf == "running_var":
            return np.ones(shape, np.float32)
        if leaf == "bias":
            values = rng.normal(0, 0.1, shape)
        elif len(shape) == 1:  # a scale of batch norm
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        return values.astype(np.float32)

    return {name: draw(name, tuple(shape)) for name, shape in shapes.items()}


def statistics_of(tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns batch norm's statistics one behind the other in the order of their names, as float16."""
    return np.concatenate([tensors[name] for name in _statistics(tensors)]).astype(np.float16)


def with_statistics(tensors: Mapping[str, np.ndarray], flat: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the tensors with what :func:`statistics_of` returned."""
    tensors, at = dict(tensors), 0
    for name in _statistics(tensors):
        size = tensors[name].size
        tensors[name] = flat[at : at + size].astype(np.float32)
        at += size
    assert at == flat.size
    return tensors


def _statistics(tensors: Mapping[str, np.ndarray]) -> list[str]:
    return sorted(name for name in tensors if name.endswith(("running_mean", "running_var")))


def images(size: int, number: int = 4) -> np.ndarray:
    """Returns uint8 levels (number, size, size, 3)."""
    return np.random.default_rng(size).integers(0, 256, (number, size, size, 3), dtype=np.uint8)
