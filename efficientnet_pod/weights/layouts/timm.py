"""Names of timm; those of ResNet-50 are torchvision's too.

Source: timm 1.0.31, ``tf_efficientnet_b0`` … ``b7``, ``tf_efficientnet_lite0`` … ``lite4``, ``resnet50``.
"""

from collections.abc import Iterable

from efficientnet_pod.weights.layouts.layout import Layout, is_counter_of_torch
from efficientnet_pod.weights.layouts.torch_axes import from_torch, to_torch, torch_leaf
from efficientnet_pod.weights.paths import blocks_of, is_efficientnet, split

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


def _names(paths: Iterable[str]) -> dict[str, str]:
    paths = list(paths)
    blocks, layers = blocks_of(paths), {split(path)[:2] for path in paths}
    is_resnet = ("block1a", "spatial_conv") in layers
    if not is_resnet and not is_efficientnet(paths):
        return {}
    outer = _RESNET_OUTER if is_resnet else _OUTER
    names = {}
    for path in paths:
        block, layer, leaf = split(path)
        if not block:
            names[path] = f"{outer[layer]}.{torch_leaf(layer, leaf)}"
            continue
        stage, place, _ = blocks[block]
        if is_resnet:
            prefix = f"layer{stage}.{place}.{_RESNET_BLOCK[layer]}"
        else:
            in_block = _EXPANDED if (block, "expand_conv") in layers else _NOT_EXPANDED
            prefix = f"blocks.{stage - 1}.{place}.{in_block[layer]}"
        names[path] = f"{prefix}.{torch_leaf(layer, leaf)}"
    return names


TIMM = Layout("timm", _names, from_torch, to_torch, is_counter_of_torch)
