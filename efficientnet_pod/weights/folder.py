"""The folder of weights: ``model.safetensors`` and ``config.json``, which timm opens as one of its own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.convert import layout_for
from efficientnet_pod.weights.foreign import CONFIG, WEIGHTS
from efficientnet_pod.weights.formats.safetensors_file import write_safetensors
from efficientnet_pod.weights.layouts import TIMM
from efficientnet_pod.weights.timm_config import architecture
from efficientnet_pod.weights.trained import CENTRE, INTERPOLATIONS, WHOLE, Trained, default_epsilon
from efficientnet_pod.workdir.files import cannot_write, is_remote, require_output, write_whole
from efficientnet_pod.workdir.values import to_json


def write_folder(trained: Trained, folder: Path) -> None:
    """Writes weights and configuration to a folder: new, empty or ours. Reading them gives the same bits.

    Raises:
      UserError: it cannot be written, or holds other files.
    """
    require_own(folder)
    tensors = trained.tensors
    layout = layout_for(tensors)
    names = layout.names(tensors)
    foreign = {names[path]: layout.from_ours(path, array) for path, array in tensors.items()}
    if layout is TIMM:  # PyTorch's strict loading asks for the counters; nothing reads them
        counters = [name for name in foreign if name.endswith("running_mean")]
        zero = np.zeros((), np.int64)
        foreign |= {name.replace("running_mean", "num_batches_tracked"): zero for name in counters}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / WEIGHTS, foreign)
        config = to_json(_config(trained), indent=2, ensure_ascii=False)
        write_whole(epath.Path(folder / CONFIG), f"{config}\n".encode())
    except OSError as error:
        raise UserError(cannot_write(epath.Path(folder / WEIGHTS), error)) from error


def local_folder(out: str) -> Path:
    """Returns the folder of ``--out``.

    Raises:
      UserError: it is not on this machine, holds other files or cannot be written.
    """
    if is_remote(out):
        raise UserError(f"--out={out} is not on this machine; name a local folder and copy it there")
    folder = Path(out)
    require_own(folder)
    require_output(out, "--out", folder=True)
    return folder


def require_own(folder: Path) -> None:
    """Raises UserError if a folder holds files that we may not write over."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out={folder} is a file; name a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not _is_own(folder):
        raise UserError(f"--out={folder} holds other files; name a new or empty folder")


def _is_own(folder: Path) -> bool:
    """Returns whether the folder is one of ours; workdirs and foreign folders have a config too."""
    if not (folder / WEIGHTS).exists():
        return False
    try:
        return "efficientnet_pod" in json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def public_name(source: str) -> str:
    """Returns the name of weights without the folders of a machine; ``hf:OWNER/NAME`` is public as it is."""
    return source if source.startswith("hf:") else source.rstrip("/").rpartition("/")[2]


def _config(trained: Trained) -> dict[str, Any]:
    """Returns ``config.json``: timm's fields, and ours under ``efficientnet_pod``."""
    size = trained.image_size
    name = architecture(trained.network, trained.bn_epsilon, padding=trained.padding)
    # The first convolution and the classifier, as timm calls them.
    ends = ("conv1", "fc") if trained.network == "resnet50" else ("conv_stem", "classifier")
    config: dict[str, Any] = {"architecture": name} if name else {}
    config |= {
        "num_classes": trained.num_classes,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": False,
            "interpolation": INTERPOLATIONS[trained.resize],
            "crop_pct": 1.0 if trained.view == WHOLE else trained.eval_crop_share,
            "crop_mode": "center" if trained.view == CENTRE else "squash",
            "mean": list(trained.mean_rgb),
            "std": list(trained.stddev_rgb),
            "num_classes": trained.num_classes,
            "first_conv": ends[0],
            "classifier": ends[1],
        },
        "efficientnet_pod": {
            "network": trained.network,
            "image_size": size,
            "view": trained.view,
            "resize": trained.resize,
            "exif": trained.exif,
            "settings": {**trained.settings, "bn_epsilon": trained.bn_epsilon, "padding": trained.padding},
            "origin": {
                name: public_name(str(fact)) if name == "source" else fact
                for name, fact in trained.origin.items()
                if name != "workdir"
            },
        },
    }
    if name and trained.bn_epsilon != default_epsilon(trained.network, trained.padding):
        config["model_args"] = {"bn_eps": trained.bn_epsilon}
    if trained.class_names:
        config["label_names"] = list(trained.class_names)
    return config
