"""Names of the released TensorFlow checkpoints, without the ``efficientnet-b0/`` before them.

Source: tensorflow/tpu, models/official/efficientnet: the variables' scopes.
"""

from efficientnet_pod.weights.layouts.keras import BN_LEAVES, from_keras, to_keras
from efficientnet_pod.weights.layouts.layout import Layout, conv_and_bn, names_for
from efficientnet_pod.weights.paths import Block

_BN = "tpu_batch_normalization"
_OUTER = {"classifier": "head/dense"} | conv_and_bn(
    stem=("stem/conv2d", f"stem/{_BN}"), head=("head/conv2d", f"head/{_BN}")
)
_SQUEEZE = {"se_reduce": "se/conv2d", "se_expand": "se/conv2d_1"}
_EXPANDED = _SQUEEZE | conv_and_bn(
    expand=("conv2d", _BN), depthwise=("depthwise_conv2d", f"{_BN}_1"), project=("conv2d_1", f"{_BN}_2")
)
_NOT_EXPANDED = _SQUEEZE | conv_and_bn(depthwise=("depthwise_conv2d", _BN), project=("conv2d", f"{_BN}_1"))


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
    return "/" not in name  # global_step, beta1_power: of no layer


TENSORFLOW = Layout(
    "TensorFlow's checkpoints", names_for("depthwise_conv", _name), from_keras, to_keras, _is_ignored
)
