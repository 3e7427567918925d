"""Names of the released TensorFlow checkpoints, without the ``efficientnet-b0/`` before them.

Source: tensorflow/tpu, models/official/efficientnet: the variables' scopes.
"""

from efficientnet_pod.weights.layouts.keras import BN_LEAVES, from_keras, to_keras
from efficientnet_pod.weights.layouts.layout import Layout, names_for
from efficientnet_pod.weights.paths import Block

_BN = "tpu_batch_normalization"
_OUTER = {
    "stem_conv": "stem/conv2d",
    "stem_bn": f"stem/{_BN}",
    "head_conv": "head/conv2d",
    "head_bn": f"head/{_BN}",
    "classifier": "head/dense",
}
_SQUEEZE = {"se_reduce": "se/conv2d", "se_expand": "se/conv2d_1", "depthwise_conv": "depthwise_conv2d"}
_EXPANDED = _SQUEEZE | {
    "expand_conv": "conv2d",
    "expand_bn": _BN,
    "depthwise_bn": f"{_BN}_1",
    "project_conv": "conv2d_1",
    "project_bn": f"{_BN}_2",
}
_NOT_EXPANDED = _SQUEEZE | {"depthwise_bn": _BN, "project_conv": "conv2d", "project_bn": f"{_BN}_1"}
_SLOTS = ("RMSProp", "RMSProp_1", "Momentum", "ExponentialMovingAverage")


def _name(block: Block | None, layer: str, leaf: str) -> str:
    if layer.endswith("_bn"):
        leaf = BN_LEAVES[leaf]
    elif layer == "depthwise_conv":
        leaf = "depthwise_kernel"
    if not block:
        return f"{_OUTER[layer]}/{leaf}"
    in_block = _EXPANDED if block.is_expanded else _NOT_EXPANDED
    return f"blocks_{block.number}/{in_block[layer]}/{leaf}"


def _is_ignored(name: str) -> bool:
    return "/" not in name or name.rpartition("/")[2] in _SLOTS


TENSORFLOW = Layout(
    "TensorFlow's checkpoints", names_for("depthwise_conv", _name), from_keras, to_keras, _is_ignored
)
