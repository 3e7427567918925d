"""Variables as a flat table: ``"params/block1a/project_conv/kernel"`` → array."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

Tensors = dict[str, np.ndarray]


class Block(NamedTuple):
    """Which block a path is in: stage and place in it, both from 1 and 0 on, and its place in the network."""

    stage: int
    place: int
    number: int


def flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the leaves of nested tables by their path, sorted by it."""

    def walk(table: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
        for name, value in table.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{prefix}{name}/")
            else:
                yield prefix + name, value

    return dict(sorted(walk(variables, "")))


def unflatten(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested tables that :func:`flatten` made flat."""
    variables: dict[str, Any] = {}
    for path, value in tensors.items():
        *outer, name = path.split("/")
        table = variables
        for each in outer:
            table = table.setdefault(each, {})
        table[name] = value
    return variables


def blocks_of(paths: Iterable[str]) -> dict[str, Block]:
    """Returns the blocks by name, ``"block3b"``, in the order of the network."""
    names = {part for path in paths for part in path.split("/") if re.fullmatch(r"block\d+[a-z]", part)}
    ordered = sorted(names, key=lambda name: (int(name[5:-1]), name[-1]))
    return {
        name: Block(int(name[5:-1]), ord(name[-1]) - ord("a"), number) for number, name in enumerate(ordered)
    }


def split(path: str) -> tuple[str, str, str]:
    """Returns the block of a path, empty outside the blocks, then its layer and its leaf."""
    names = path.split("/")[1:]  # without the collection
    return ("" if len(names) == 2 else names[0], names[-2], names[-1])


def is_head(path: str) -> bool:
    """Whether a tensor is of the classifier, whose size is the number of classes."""
    return path.split("/")[1] == "classifier"
