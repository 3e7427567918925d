"""Names of ``keras.applications``' EfficientNets, by layer or, in some files, by number alone.

They are ``EfficientNetB0`` … ``B7`` and ``EfficientNetV2B0`` … ``B3``, ``S``, ``M`` and ``L``.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from efficientnet_pod.weights.layouts.layout import Layout, conv_and_bn, names_for
from efficientnet_pod.weights.paths import Block, located, split

_OUTER = {"classifier": "predictions"} | conv_and_bn(
    stem=("stem_conv", "stem_bn"), head=("top_conv", "top_bn")
)
_IN_BLOCK = (
    conv_and_bn(expand=("expand_conv", "expand_bn"), depthwise=("dwconv", "bn"))
    | {"se_reduce": "se_reduce", "se_expand": "se_expand"}
    | conv_and_bn(project=("project_conv", "project_bn"))
)
_IN_BLOCK_OF_V2 = _IN_BLOCK | {"depthwise_conv": "dwconv2"}
BN_LEAVES = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
# In the order in which they are built: files without names number the layers of each class so.
_ORDER = ("stem_conv", "stem_bn", *_IN_BLOCK, "head_conv", "head_bn", "classifier")


def _name_with(in_block: dict[str, str]) -> Callable[[Block | None, str, str], str]:
    def name(block: Block | None, layer: str, leaf: str) -> str:
        prefix = f"{block.name}_{in_block[layer]}" if block else _OUTER[layer]
        return f"{prefix}/{BN_LEAVES[leaf] if layer.endswith('_bn') else leaf}"

    return name


def _names(paths: Iterable[str]) -> dict[str, str]:
    paths = list(paths)
    return _names_of_v1(paths) or _names_of_v2(paths)


def _numbered(paths: Iterable[str]) -> dict[str, str]:
    """Returns names such as ``conv2d_3/kernel``: the class of the layer, and its number among these."""

    def order(place: tuple[str, Block | None, str, str]) -> tuple[float, int]:
        _, block, layer, _ = place
        number = block.number if block else -1 if layer.startswith("stem") else math.inf
        return number, _ORDER.index(layer)

    by_name = _names(paths)
    numbered: dict[str, str] = {}  # by the layer's own name
    counts: Counter[str] = Counter()
    names = {}
    for path, _, layer, _ in sorted(located(by_name), key=order):
        keras_layer, _, leaf = by_name[path].partition("/")
        if keras_layer not in numbered:
            kind = _class_of(layer)
            numbered[keras_layer] = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
        names[path] = f"{numbered[keras_layer]}/{leaf}"
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


_names_of_v1 = names_for("depthwise_conv", _name_with(_IN_BLOCK))
_names_of_v2 = names_for("depthwise_conv", _name_with(_IN_BLOCK_OF_V2), fused=True)
KERAS = Layout("Keras", _names, from_keras, to_keras, _is_ignored)
KERAS_NUMBERED = Layout("Keras (by number)", _numbered, from_keras, to_keras, _is_ignored)
