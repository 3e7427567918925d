"""Networks that look like ours in a file and compute something else; they are refused, with the reason."""

import re

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.registry import NETWORKS
from efficientnet_pod.weights.foreign import Foreign

# Names that only such networks have, and why these are refused.
_LOOKALIKES = {
    "features.0.0.weight": "torchvision's EfficientNets pad as PyTorch does, alike on both sides, and were "
    "trained so: here, as in TensorFlow, stride 2 pads after more than before, and other logits would come "
    "out; take timm's tf_efficientnet_b* or Keras's weights",
    "conv1_conv/kernel": "Keras's ResNet50 is the first version, with the strides in its 1×1 convolutions "
    "and biases in all; resnet50 here is v1.5, as torchvision's and timm's resnet50 are: take those",
    "embeddings.convolution.weight": "these are names of transformers; take the same weights from timm's "
    "repositories on the hub, tf_efficientnet_b*",
}


def refuse_lookalikes(foreign: Foreign) -> None:
    """Raises UserError if a tensor's name is of a network that only looks like one of ours."""
    for suffix, why in _LOOKALIKES.items():
        if any(name.endswith(suffix) for name in foreign.tensors):
            raise UserError(f"'{foreign.path}' is not taken: {why}")


def stated_network(foreign: Foreign) -> str | None:
    """Returns our name of the network that a configuration or the file's name states; None if neither does.

    Raises:
      UserError: it is not one of ours, or pads otherwise.
    """
    if own := (foreign.about.get("ours") or {}).get("network"):
        return own
    stated = foreign.about.get("architecture") or _in_file_name(foreign)
    if stated is None or stated == "resnet50":
        return stated
    name = str(stated).removeprefix("tf_efficientnet").removeprefix("_")
    if name != stated and name in NETWORKS:
        return name
    if re.search(r"efficientnet(_b|_lite|v2_)", str(stated)) and not str(stated).startswith("tf_"):
        raise UserError(
            f"'{foreign.path}' is timm's {stated}, trained with PyTorch's padding, alike on both sides: "
            "here, as in TensorFlow, stride 2 pads after more than before, and other logits would come out; "
            f"take tf_{stated}"
        )
    raise UserError(
        f"'{foreign.path}' is '{stated}', which is no network here; there are timm's tf_efficientnet_b0 "
        "to b7, tf_efficientnet_lite0 to lite4, tf_efficientnetv2_b0 to b3, s, m and l, and resnet50"
    )


def _in_file_name(foreign: Foreign) -> str | None:
    """Returns timm's name of a network with PyTorch's padding, if the file has its tensors and its name."""
    stem = foreign.path.rstrip("/").rpartition("/")[2]
    name = re.match(r"(timm[._-])?efficientnet_(b\d|lite\d|el|em|es)", stem)
    return name.group(0) if name and "conv_stem.weight" in foreign.tensors else None
