"""Paths of a network's variables, such as ``"params/block1a/project_conv/kernel"``."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

Tensors = dict[str, np.ndarray]


class Block(NamedTuple):
    """A block of a network.

    Attributes:
      name: e.g. ``"block3b"``.
      stage: number of its stage, from 1.
      place: place in the stage, from 0.
      number: place in the network, from 0.
      is_expanded: whether it begins with an expansion.
      is_fused: whether one dense convolution does the work of a depthwise one.
    """

    name: str
    stage: int
    place: int
    number: int
    is_expanded: bool
    is_fused: bool


def unflatten(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested tables of a table by path, the inverse of :func:`.commit.leaves_of`."""
    variables: dict[str, Any] = {}
    for path, value in tensors.items():
        *outer, name = path.split("/")
        table = variables
        for part in outer:
            table = table.setdefault(part, {})
        table[name] = value
    return variables


def located(paths: Iterable[str]) -> Iterator[tuple[str, Block | None, str, str]]:
    """Yields each path with its block, layer and leaf; the block is None outside the blocks."""
    places = {path: split(path) for path in paths}
    expanded, projected, depthwise = (
        {block for block, layer, _ in places.values() if layer == name}
        for name in ("expand_conv", "project_conv", "depthwise_conv")
    )
    fused = projected - depthwise
    names = {block for block, *_ in places.values() if re.fullmatch(r"block\d[a-z]", block)}
    blocks = {
        name: Block(name, int(name[5]), ord(name[-1]) - ord("a"), number, name in expanded, name in fused)
        for number, name in enumerate(sorted(names))
    }
    for path, (block, layer, leaf) in places.items():
        yield path, blocks.get(block), layer, leaf


def split(path: str) -> tuple[str, str, str]:
    """Returns block, layer and leaf of a path; the block is empty outside the blocks."""
    names = path.split("/")[1:]  # without the collection
    return ("" if len(names) == 2 else names[0], names[-2], names[-1])


def is_head(path: str) -> bool:
    """Returns whether a tensor is the classifier's, whose size is the number of classes."""
    return path.split("/")[1] == "classifier"
