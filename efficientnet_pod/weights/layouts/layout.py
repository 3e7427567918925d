"""The names and axes of one library for the tensors of our networks."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from efficientnet_pod.weights.paths import Block, located

Names = Callable[[Iterable[str]], dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names and axes that one library gives to the tensors of our networks.

    Attributes:
      title: name of the library, for messages.
      names: function from our paths to the library's names; paths of networks that it lacks are left out.
      to_ours: function from our path and the library's array to the array in our axes: height, width, inputs,
        outputs.
      from_ours: inverse of ``to_ours``, exact.
      is_ignored: whether a name in a file is of a tensor that no network computes with: a counter, or an
        optimizer's slot.
    """

    title: str
    names: Names
    to_ours: Callable[[str, np.ndarray], np.ndarray]
    from_ours: Callable[[str, np.ndarray], np.ndarray]
    is_ignored: Callable[[str], bool]


def names_for(
    network_layer: str, name: Callable[[Block | None, str, str], str], *, fused: bool = False
) -> Names:
    """Returns a function from our paths to the names that ``name`` gives for block, layer and leaf.

    It gives none for networks without a layer ``network_layer`` in a block, and none for networks that have
    fused blocks, or with ``fused`` for those that have none.
    """

    def names(paths: Iterable[str]) -> dict[str, str]:
        places = list(located(paths))
        if all(layer != network_layer for _, _, layer, _ in places):
            return {}
        if any(block and block.is_fused for _, block, _, _ in places) != fused:
            return {}
        return {path: name(block, layer, leaf) for path, block, layer, leaf in places}

    return names


def conv_and_bn(**names: tuple[str, str]) -> dict[str, str]:
    """Returns a library's names by our layers, from the names of each convolution and of its batch norm."""
    return {
        f"{layer}_{kind}": name
        for layer, pair in names.items()
        for kind, name in zip(("conv", "bn"), pair, strict=True)
    }


# Our own paths, for networks that no other library has.
OWN = Layout(
    "efficientnet-pod",
    names=lambda paths: {path: path for path in paths},
    to_ours=lambda path, array: array,
    from_ours=lambda path, array: array,
    is_ignored=lambda name: False,
)


def is_counter_of_torch(name: str) -> bool:
    """Returns whether PyTorch counts the batches of a batch norm under this name."""
    return name.endswith("num_batches_tracked")
