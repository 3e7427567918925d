"""Networks that look like ours in a file and compute something else: refused, with the reason."""

import re

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.registry import NETWORKS
from efficientnet_pod.weights.foreign import Foreign

# Names that only they have, and why they are refused.
_OTHERS = {
    "features.0.0.weight": "torchvision's EfficientNets pad as PyTorch does, alike on both sides, and were "
    "trained so: here, as in TensorFlow, stride 2 pads after more than before, and other logits would come "
    "out; take timm's tf_efficientnet_b* or Keras's weights",
    "conv1_conv/kernel": "Keras's ResNet50 is the first version, with the strides in its 1×1 convolutions "
    "and biases in all; resnet50 here is v1.5, as torchvision's and timm's resnet50 are: take those",
    "embeddings.convolution.weight": "these are names of transformers; take the same weights from timm's "
    "repositories on the hub, tf_efficientnet_b*",
}


def network_said(foreign: Foreign) -> str | None:
    """Returns our name of the network that timm's configuration, or the name of the file, says it is.

    Raises:
      UserError: that one is not here, or pads otherwise.
    """
    said = foreign.about.get("architecture")
    if said is None and foreign.about.get("ours") is None:
        stem = foreign.path.rstrip("/").rpartition("/")[2]
        padded_alike = re.match(r"(timm[._-])?efficientnet_(b\d|lite\d|el|em|es)", stem)
        said = padded_alike.group(0) if padded_alike and "conv_stem.weight" in foreign.tensors else None
    own = (foreign.about.get("ours") or {}).get("network")
    if own or said is None:
        return own
    name = str(said).removeprefix("tf_efficientnet_")
    if name != said and name in NETWORKS:
        return name
    if said == "resnet50":
        return said
    if re.search(r"efficientnet_(b|lite)", str(said)) and not str(said).startswith("tf_"):
        raise UserError(
            f"'{foreign.path}' is timm's {said}, trained with PyTorch's padding, alike on both sides: here, "
            "as in TensorFlow, stride 2 pads after more than before, and other logits would come out; "
            f"take tf_{said}"
        )
    raise UserError(
        f"'{foreign.path}' is '{said}', which is no network here; there are timm's tf_efficientnet_b0 to b7, "
        "tf_efficientnet_lite0 to lite4 and resnet50"
    )


def refuse_others(foreign: Foreign) -> None:
    """Raises UserError for tensors of a network that is built otherwise."""
    for name, why in _OTHERS.items():
        if any(each.endswith(name) for each in foreign.tensors):
            raise UserError(f"'{foreign.path}' is not taken: {why}")
