"""timm's names of our networks, and its ``config.json``.

Facts about the network, its images and classes are checked; those that are not kept are warned of.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from efficientnet_pod.data.class_names import fault_of
from efficientnet_pod.errors import UserError
from efficientnet_pod.models.registry import NETWORKS
from efficientnet_pod.weights.foreign import CONFIG, WEIGHTS
from efficientnet_pod.weights.trained import CENTRE, INTERPOLATIONS, STRETCHED, WHOLE, default_epsilon

# timm's networks with PyTorch's padding, by our names; its efficientnetv2_b* do not exist.
SYMMETRIC = {
    **{name: f"efficientnet_{name}" for name in NETWORKS if name[:1] == "b" or name.startswith("lite")},
    **{name: f"efficientnet{name}" for name in ("v2_s", "v2_m", "v2_l")},
}


def architecture(network: str, bn_epsilon: float | None = None, *, padding: str = "same") -> str | None:
    """Returns timm's name of a network; None if timm has none that computes the same.

    ``bn_epsilon`` and ``padding`` belong to the weights; None: the published epsilon.
    """
    if network == "resnet50":  # timm's takes no other epsilon
        return network if bn_epsilon in (None, default_epsilon(network)) else None
    if padding == "symmetric":
        return SYMMETRIC.get(network)
    if network.startswith("v2_"):
        return f"tf_efficientnet{network}"
    return f"tf_efficientnet_{network}" if network[:1] == "b" or network.startswith("lite") else None


def about_folder(folder: Path) -> dict[str, Any]:
    """Returns the facts in a folder's ``config.json``, see :class:`.Foreign`; none where it has none.

    ``warnings`` are sentences on what it states and is not kept.

    Raises:
      UserError: the file is damaged, or a number in it is impossible.
    """
    file = folder / CONFIG
    if not file.exists():
        return {}
    try:
        config = json.loads(file.read_bytes())
        pretrained = config.get("pretrained_cfg", config) or {}  # timm's first versions had one table
        warnings: list[str] = []
        about = {
            "architecture": config.get("architecture"),
            **_class_names(config.get("label_names", config.get("labels"))),
            "license": pretrained.get("license"),
            "ours": config.get("efficientnet_pod"),
            **_images(file, pretrained, warnings),
            **_network(file, config.get("model_args") or {}, warnings),
            "warnings": tuple(warnings),
        }
    except (ValueError, AttributeError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"'{file}' is damaged: {error}; restore it, or name {WEIGHTS} without it") from error
    return {name: value for name, value in about.items() if value is not None}


def _images(file: Path, stated: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Returns how the weights see an image."""

    def number(name: str, holds: Callable[[float], bool], rule: str) -> Any:
        value = stated.get(name)
        for one in value if isinstance(value, list) else () if value is None else (value,):
            if (
                isinstance(one, bool)
                or not isinstance(one, int | float)
                or not math.isfinite(one)
                or not holds(one)
            ):
                raise UserError(f"'{file}' states {name}={value!r}; {rule}; mend it")
        return value

    def rgb(name: str, holds: Callable[[float], bool], rule: str) -> Any:
        value = number(name, holds, rule)
        if value is not None and (not isinstance(value, list) or len(value) != 3):
            raise UserError(f"'{file}' states {name}={value!r}; it must be three numbers; mend it")
        return value and tuple(map(float, value))

    def not_kept(name: str, what: str) -> None:
        warnings.append(f"'{file}' states {name}={stated[name]!r}, which is not kept: {what}")

    crop = number("crop_pct", lambda value: 0 < value <= 1, "it must be above 0 and at most 1")
    size = number("input_size", lambda value: value >= 1 and value == int(value), "pixels are whole numbers")
    mode, interpolation = stated.get("crop_mode"), stated.get("interpolation")
    squashed = WHOLE if crop == 1.0 else STRETCHED
    if mode not in (None, "center", "squash"):
        not_kept("crop_mode", "images are cropped centrally")
    if interpolation not in (None, *INTERPOLATIONS.values()):
        not_kept("interpolation", "images are resized bicubically")
    if isinstance(size, list) and len(set(size[-2:])) > 1:
        not_kept("input_size", f"images are square here, of {size[-1]} pixels")
    for name, own in (("test_input_size", size), ("test_crop_pct", crop)):
        if stated.get(name) not in (None, own):
            not_kept(name, "images are evaluated as they were trained; evaluate has --image-size=PIXELS")
    resize = {kernel: ours for ours, kernel in INTERPOLATIONS.items()}.get(str(interpolation))
    return {
        "mean": rgb("mean", lambda value: True, "means are numbers"),
        "std": rgb("std", lambda value: value > 0, "standard deviations are above 0"),
        "image_size": size[-1] if isinstance(size, list) and size else size or None,
        "eval_crop_share": crop if crop is None else float(crop),
        "view": mode and (squashed if mode == "squash" else CENTRE),
        "resize": resize,
    }


def _network(file: Path, arguments: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Returns batch norm's epsilon, where the arguments of timm's network set it."""
    for name in sorted(arguments.keys() - {"bn_eps"}):
        warnings.append(
            f"'{file}' gives timm's network {name}={arguments[name]!r}, which is not followed here: "
            "the logits may be others"
        )
    epsilon = arguments.get("bn_eps")
    return {"bn_epsilon": None if epsilon is None else float(epsilon)}


def _class_names(value: Any) -> dict[str, Any]:
    """Returns the names by label, if any are stated, or what is wrong with them."""
    if value is None:
        return {}
    names = _in_order(value)
    fault = "they are no list of names" if names is None else fault_of(names)
    return {"class_names": names or (), "class_names_fault": fault}


def _in_order(value: Any) -> tuple[str, ...] | None:
    """Returns the names of a list, or of a table by label or of labels; None for anything else."""
    if isinstance(value, dict):
        numbers = all(isinstance(label, int) for label in value.values())
        table = {str(label): name for name, label in value.items()} if numbers else value
        value = [table.get(str(label)) for label in range(len(table))]
    if not isinstance(value, list) or not all(isinstance(name, str | int) for name in value):
        return None
    return tuple(map(str, value))
