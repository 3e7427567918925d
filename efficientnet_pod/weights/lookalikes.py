"""Networks that look like ours in a file and compute something else; they are refused, with the reason."""

import re
from typing import NamedTuple

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.registry import NETWORKS
from efficientnet_pod.weights.foreign import Foreign
from efficientnet_pod.weights.timm_config import SYMMETRIC, architecture

# Names that only such networks have, and why these are refused.
_LOOKALIKES = {
    "features.0.0.weight": "these are names of torchvision's EfficientNets, which are not read; take timm's "
    "weights of the same networks, efficientnet_b* or tf_efficientnet_b*, or Keras's",
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


class Stated(NamedTuple):
    """The network that a file states.

    Attributes:
      network: our name.
      padding: as of ``config.model.padding``.
    """

    network: str
    padding: str = "same"


def stated_network(foreign: Foreign) -> Stated | None:
    """Returns the network that a configuration or the file's name states; None if neither does.

    timm's ``tf_`` networks pad as TensorFlow does, and the same names without ``tf_`` pad as PyTorch does.

    Raises:
      UserError: it is not one of ours.
    """
    if own := foreign.about.get("ours") or {}:
        return Stated(own["network"], own.get("settings", {}).get("padding", "same"))
    stated = foreign.about.get("architecture") or _in_file_name(foreign)
    if stated is None:
        return None
    name = str(stated)
    if name == "resnet50":
        return Stated(name)
    by_timm = {timms: Stated(ours, "symmetric") for ours, timms in SYMMETRIC.items()}
    by_timm |= {timms: Stated(ours) for ours in NETWORKS if (timms := architecture(ours))}
    if name in by_timm:
        return by_timm[name]
    raise UserError(
        f"'{foreign.path}' is '{name}', which is no network here; there are timm's efficientnet_b0 to b7, "
        "efficientnet_lite0 to lite4, efficientnetv2_s, m and l, the same with tf_ before them, "
        "tf_efficientnetv2_b0 to b3, and resnet50"
    )


def _in_file_name(foreign: Foreign) -> str | None:
    """Returns timm's name of a network with PyTorch's padding, if the file has its tensors and its name."""
    stem = foreign.path.rstrip("/").rpartition("/")[2]
    name = re.match(
        r"(?:timm[._-])?(efficientnet(?:_b\d|_lite\d|_el|_em|_es|v2_s|v2_m|v2_l)(?![a-z0-9]))", stem
    )
    return name.group(1) if name and "conv_stem.weight" in foreign.tensors else None
