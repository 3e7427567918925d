"""Names of EfficientNet-PyTorch (lukemelas) and of its fork with the lite networks.

Both pad as TensorFlow does. Source: efficientnet_pytorch 0.7.1 and efficientnet_lite_pytorch 0.1.0, model.py.
"""

from efficientnet_pod.weights.layouts.layout import Layout, conv_and_bn, is_counter_of_torch, names_for
from efficientnet_pod.weights.layouts.torch_axes import from_torch, to_torch, torch_leaf
from efficientnet_pod.weights.paths import Block

# A block numbers its batch norms from 0, that of the expansion, even where it has no expansion.
_IN_BLOCK = {"se_reduce": "_se_reduce", "se_expand": "_se_expand"} | conv_and_bn(
    expand=("_expand_conv", "_bn0"), depthwise=("_depthwise_conv", "_bn1"), project=("_project_conv", "_bn2")
)
_OUTER = {"classifier": "_fc"} | conv_and_bn(stem=("_conv_stem", "_bn0"), head=("_conv_head", "_bn1"))


def _name(block: Block | None, layer: str, leaf: str) -> str:
    prefix = f"_blocks.{block.number}.{_IN_BLOCK[layer]}" if block else _OUTER[layer]
    return f"{prefix}.{torch_leaf(layer, leaf)}"


LUKEMELAS = Layout(
    "EfficientNet-PyTorch", names_for("depthwise_conv", _name), from_torch, to_torch, is_counter_of_torch
)
