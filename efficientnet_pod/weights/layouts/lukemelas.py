"""Names of EfficientNet-PyTorch (lukemelas) and of its fork with the lite networks.

Both pad as TensorFlow does. Source: efficientnet_pytorch 0.7.1 and efficientnet_lite_pytorch 0.1.0, model.py.
"""

from efficientnet_pod.weights.layouts.layout import Layout, is_counter_of_torch, names_for
from efficientnet_pod.weights.layouts.torch_axes import from_torch, to_torch, torch_leaf
from efficientnet_pod.weights.paths import Block

# A block numbers its batch norms from 0, that of the expansion, even where it has no expansion.
_IN_BLOCK = {
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise_conv": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "se_reduce": "_se_reduce",
    "se_expand": "_se_expand",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}
_OUTER = {
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "head_conv": "_conv_head",
    "head_bn": "_bn1",
    "classifier": "_fc",
}


def _name(block: Block | None, layer: str, leaf: str) -> str:
    prefix = f"_blocks.{block.number}.{_IN_BLOCK[layer]}" if block else _OUTER[layer]
    return f"{prefix}.{torch_leaf(layer, leaf)}"


LUKEMELAS = Layout(
    "EfficientNet-PyTorch", names_for("depthwise_conv", _name), from_torch, to_torch, is_counter_of_torch
)
