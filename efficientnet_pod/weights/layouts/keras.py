"""Names of ``keras.applications.EfficientNetB0`` … ``B7``, by layer or, in some files, by number alone."""

from collections.abc import Iterable

import numpy as np

from efficientnet_pod.weights.layouts.layout import Layout
from efficientnet_pod.weights.paths import blocks_of, is_efficientnet, split

_OUTER = {
    "stem_conv": "stem_conv",
    "stem_bn": "stem_bn",
    "head_conv": "top_conv",
    "head_bn": "top_bn",
    "classifier": "predictions",
}
_IN_BLOCK = {
    "expand_conv": "expand_conv",
    "expand_bn": "expand_bn",
    "depthwise_conv": "dwconv",
    "depthwise_bn": "bn",
    "se_reduce": "se_reduce",
    "se_expand": "se_expand",
    "project_conv": "project_conv",
    "project_bn": "project_bn",
}
BN_LEAVES = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
# In the order in which they are built: files without names number the layers of each class so.
_ORDER = ("stem_conv", "stem_bn", *_IN_BLOCK, "head_conv", "head_bn", "classifier")


def _names(paths: Iterable[str]) -> dict[str, str]:
    paths = list(paths)
    if not is_efficientnet(paths):
        return {}
    names = {}
    for path in paths:
        block, layer, leaf = split(path)
        keras = f"{block}_{_IN_BLOCK[layer]}" if block else _OUTER[layer]
        names[path] = f"{keras}/{BN_LEAVES[leaf] if layer.endswith('_bn') else leaf}"
    return names


def _numbered(paths: Iterable[str]) -> dict[str, str]:
    """Returns names such as ``conv2d_3/kernel``: the class of the layer, and its number among these."""
    by_name = _names(paths)
    blocks = blocks_of(by_name)

    def place(path: str) -> tuple[int, int]:
        block, layer, _ = split(path)
        number = blocks[block].number if block else -1 if layer.startswith("stem") else len(blocks)
        return number, _ORDER.index(layer)

    numbers: dict[tuple[str, str], str] = {}
    counts: dict[str, int] = {}
    names = {}
    for path in sorted(by_name, key=place):
        block, layer, _ = split(path)
        kind = _class_of(layer)
        if (block, layer) not in numbers:
            count = counts.setdefault(kind, 0)
            numbers[block, layer] = f"{kind}_{count}" if count else kind
            counts[kind] += 1
        names[path] = f"{numbers[block, layer]}/{by_name[path].rpartition('/')[2]}"
    return names


def _class_of(layer: str) -> str:
    if layer.endswith("_bn"):
        return "batch_normalization"
    return {"depthwise_conv": "depthwise_conv2d", "classifier": "dense"}.get(layer, "conv2d")


def from_keras(path: str, array: np.ndarray) -> np.ndarray:
    """Returns a depthwise kernel (height, width, channels, 1) as (height, width, 1, channels).

    The kernel of a 1×1 convolution that is a dense layer here becomes (inputs, outputs). All else stays.
    """
    _, layer, leaf = split(path)
    if leaf == "kernel" and layer == "depthwise_conv" and array.ndim == 4:
        return array.transpose(0, 1, 3, 2)
    if leaf == "kernel" and layer.startswith("se_") and array.shape[:2] == (1, 1):
        return array[0, 0]
    return array


def to_keras(path: str, array: np.ndarray) -> np.ndarray:
    """Returns the array as Keras has it; the inverse of :func:`from_keras`."""
    _, layer, leaf = split(path)
    if leaf == "kernel" and layer == "depthwise_conv":
        return array.transpose(0, 1, 3, 2)
    return array[None, None] if leaf == "kernel" and layer.startswith("se_") else array


def _is_ignored(name: str) -> bool:
    """Returns whether a name is the normalisation's, which is read separately, or an optimizer's."""
    layer = name.partition("/")[0]
    return layer.startswith(("normalization", "rescaling", "optimizer", "seed_generator", "dropout"))


KERAS = Layout("Keras", _names, from_keras, to_keras, _is_ignored)
KERAS_NUMBERED = Layout("Keras (by number)", _numbered, from_keras, to_keras, _is_ignored)
