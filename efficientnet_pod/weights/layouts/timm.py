"""Names of timm; those of ResNet-50 are torchvision's too.

Source: timm 1.0.31, ``tf_efficientnet_b0`` … ``b7``, ``tf_efficientnet_lite0`` … ``lite4``, ``resnet50``.
"""

from collections.abc import Iterable

from efficientnet_pod.weights.layouts.layout import Layout, is_counter_of_torch, names_for
from efficientnet_pod.weights.layouts.torch_axes import from_torch, to_torch, torch_leaf
from efficientnet_pod.weights.paths import Block

_OUTER = {
    "stem_conv": "conv_stem",
    "stem_bn": "bn1",
    "head_conv": "conv_head",
    "head_bn": "bn2",
    "classifier": "classifier",
}
_SQUEEZE = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand"}
_EXPANDED = _SQUEEZE | {
    "expand_conv": "conv_pw",
    "expand_bn": "bn1",
    "depthwise_conv": "conv_dw",
    "depthwise_bn": "bn2",
    "project_conv": "conv_pwl",
    "project_bn": "bn3",
}
_NOT_EXPANDED = _SQUEEZE | {
    "depthwise_conv": "conv_dw",
    "depthwise_bn": "bn1",
    "project_conv": "conv_pw",
    "project_bn": "bn2",
}
_RESNET_OUTER = {"stem_conv": "conv1", "stem_bn": "bn1", "classifier": "fc"}
_RESNET_BLOCK = {
    "reduce_conv": "conv1",
    "reduce_bn": "bn1",
    "spatial_conv": "conv2",
    "spatial_bn": "bn2",
    "expand_conv": "conv3",
    "expand_bn": "bn3",
    "shortcut_conv": "downsample.0",
    "shortcut_bn": "downsample.1",
}


def _name(block: Block | None, layer: str, leaf: str) -> str:
    if not block:
        return f"{_OUTER[layer]}.{torch_leaf(layer, leaf)}"
    in_block = _EXPANDED if block.is_expanded else _NOT_EXPANDED
    prefix = f"blocks.{block.stage - 1}.{block.place}.{in_block[layer]}"
    return f"{prefix}.{torch_leaf(layer, leaf)}"


def _resnet_name(block: Block | None, layer: str, leaf: str) -> str:
    prefix = f"layer{block.stage}.{block.place}.{_RESNET_BLOCK[layer]}" if block else _RESNET_OUTER[layer]
    return f"{prefix}.{torch_leaf(layer, leaf)}"


def _names(paths: Iterable[str]) -> dict[str, str]:
    paths = list(paths)
    return _efficientnet_names(paths) or _resnet_names(paths)


_efficientnet_names = names_for("depthwise_conv", _name)
_resnet_names = names_for("spatial_conv", _resnet_name)

TIMM = Layout("timm", _names, from_torch, to_torch, is_counter_of_torch)
