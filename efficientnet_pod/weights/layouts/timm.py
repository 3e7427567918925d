"""timm's names, which are torchvision's for ResNet-50.

Source: timm 1.0.31, ``tf_efficientnet_b0`` … ``b7``, ``tf_efficientnet_lite0`` … ``lite4``, ``resnet50``.
"""

from collections.abc import Iterable

from efficientnet_pod.weights.layouts.layout import Layout
from efficientnet_pod.weights.layouts.torch_axes import from_ours, leaf_of, to_ours
from efficientnet_pod.weights.paths import blocks_of, split

_OUTER = {"stem_conv": "conv_stem", "stem_bn": "bn1", "head_conv": "conv_head", "head_bn": "bn2"}
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
    if ("block1a", "spatial_conv") in layers:
        outer, stages, first = _RESNET_OUTER, "layer", 1
    elif ("block1a", "depthwise_conv") in layers:
        outer, stages, first = _OUTER | {"classifier": "classifier"}, "blocks.", 0
    else:
        return {}
    names = {}
    for path in paths:
        block, layer, leaf = split(path)
        if not block:
            names[path] = f"{outer[layer]}.{leaf_of(layer, leaf)}"
            continue
        if first:
            in_block = _RESNET_BLOCK
        else:
            in_block = _EXPANDED if (block, "expand_conv") in layers else _NOT_EXPANDED
        stage, place, _ = blocks[block]
        where = f"{stages}{stage - 1 + first}.{place}"
        names[path] = f"{where}.{in_block[layer]}.{leaf_of(layer, leaf)}"
    return names


TIMM = Layout("timm", _names, to_ours, from_ours, is_beside=lambda name: name.endswith("num_batches_tracked"))
