"""Paths of a network's variables, such as ``"params/block1a/project_conv/kernel"``."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

Tensors = dict[str, np.ndarray]


class Block(NamedTuple):
    """A block: its stage, from 1; its place in the stage, from 0; its place in the network, from 0."""

    stage: int
    place: int
    number: int


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


def blocks_of(paths: Iterable[str]) -> dict[str, Block]:
    """Returns the blocks by name, ``"block3b"``, in the order of the network."""
    names = {part for path in paths for part in path.split("/") if re.fullmatch(r"block\d+[a-z]", part)}
    ordered = sorted(names, key=lambda name: (int(name[5:-1]), name[-1]))
    return {
        name: Block(int(name[5:-1]), ord(name[-1]) - ord("a"), number) for number, name in enumerate(ordered)
    }


def is_efficientnet(paths: Iterable[str]) -> bool:
    """Returns whether the variables are those of an EfficientNet."""
    return any(split(path)[1] == "depthwise_conv" for path in paths)


def split(path: str) -> tuple[str, str, str]:
    """Returns block, layer and leaf of a path; the block is empty outside the blocks."""
    names = path.split("/")[1:]  # without the collection
    return ("" if len(names) == 2 else names[0], names[-2], names[-1])


def is_head(path: str) -> bool:
    """Returns whether a tensor is the classifier's, whose size is the number of classes."""
    return path.split("/")[1] == "classifier"
