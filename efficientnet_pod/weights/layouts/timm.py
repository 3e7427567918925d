"""Names of timm; those of ResNet-50 are torchvision's too.

Source: timm 1.0.31, ``tf_efficientnet_b0`` … ``b7``, ``tf_efficientnet_lite0`` … ``lite4``,
``tf_efficientnetv2_b0`` … ``b3``, ``s``, ``m``, ``l``, ``resnet50``.
"""

from collections.abc import Iterable

from efficientnet_pod.weights.layouts.layout import Layout, conv_and_bn, is_counter_of_torch, names_for
from efficientnet_pod.weights.layouts.torch_axes import from_torch, to_torch, torch_leaf
from efficientnet_pod.weights.paths import Block

_OUTER = {"classifier": "classifier"} | conv_and_bn(stem=("conv_stem", "bn1"), head=("conv_head", "bn2"))
_SQUEEZE = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand"}
_EXPANDED = _SQUEEZE | conv_and_bn(
    expand=("conv_pw", "bn1"), depthwise=("conv_dw", "bn2"), project=("conv_pwl", "bn3")
)
_NOT_EXPANDED = _SQUEEZE | conv_and_bn(depthwise=("conv_dw", "bn1"), project=("conv_pw", "bn2"))
_FUSED = conv_and_bn(expand=("conv_exp", "bn1"), project=("conv_pwl", "bn2"))
_FUSED_NOT_EXPANDED = conv_and_bn(project=("conv", "bn1"))
_RESNET_OUTER = {"stem_conv": "conv1", "stem_bn": "bn1", "classifier": "fc"}
_RESNET_BLOCK = conv_and_bn(
    reduce=("conv1", "bn1"),
    spatial=("conv2", "bn2"),
    expand=("conv3", "bn3"),
    shortcut=("downsample.0", "downsample.1"),
)


def _name(block: Block | None, layer: str, leaf: str) -> str:
    if not block:
        return f"{_OUTER[layer]}.{torch_leaf(layer, leaf)}"
    if block.is_fused:
        in_block = _FUSED if block.is_expanded else _FUSED_NOT_EXPANDED
    else:
        in_block = _EXPANDED if block.is_expanded else _NOT_EXPANDED
    prefix = f"blocks.{block.stage - 1}.{block.place}.{in_block[layer]}"
    return f"{prefix}.{torch_leaf(layer, leaf)}"


def _resnet_name(block: Block | None, layer: str, leaf: str) -> str:
    prefix = f"layer{block.stage}.{block.place}.{_RESNET_BLOCK[layer]}" if block else _RESNET_OUTER[layer]
    return f"{prefix}.{torch_leaf(layer, leaf)}"


def _names(paths: Iterable[str]) -> dict[str, str]:
    paths = list(paths)
    return _efficientnet_names(paths) or _efficientnet_v2_names(paths) or _resnet_names(paths)


_efficientnet_names = names_for("depthwise_conv", _name)
_efficientnet_v2_names = names_for("depthwise_conv", _name, fused=True)
_resnet_names = names_for("spatial_conv", _resnet_name)

TIMM = Layout("timm", _names, from_torch, to_torch, is_counter_of_torch)
