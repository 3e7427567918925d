"""The names of EfficientNet-PyTorch (lukemelas) and of its fork with the lite networks.

Both pad as TensorFlow does. Source: efficientnet_pytorch 0.7.1 and efficientnet_lite_pytorch 0.1.0, model.py.
"""

from collections.abc import Iterable

from efficientnet_pod.weights.layouts.layout import Layout
from efficientnet_pod.weights.layouts.torch_axes import from_ours, leaf_of, to_ours
from efficientnet_pod.weights.paths import blocks_of, split

# They number a block's batch norms from the expansion's on, 0, also where there is none.
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


def _names(paths: Iterable[str]) -> dict[str, str]:
    paths = list(paths)
    if not any(split(path)[1] == "depthwise_conv" for path in paths):
        return {}
    blocks, names = blocks_of(paths), {}
    for path in paths:
        block, layer, leaf = split(path)
        where = f"_blocks.{blocks[block].number}.{_IN_BLOCK[layer]}" if block else _OUTER[layer]
        names[path] = f"{where}.{leaf_of(layer, leaf)}"
    return names


LUKEMELAS = Layout(
    "EfficientNet-PyTorch", _names, to_ours, from_ours, lambda name: name.endswith("num_batches_tracked")
)
