"""Opens a file or folder of weights by what it is, not by its suffix; refuses what could run code."""

import hashlib
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.foreign import Foreign
from efficientnet_pod.weights.formats.keras_files import (
    MEMBER,
    image_constants,
    read_h5,
    read_keras_archive,
)
from efficientnet_pod.weights.formats.safetensors_file import read_safetensors

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_NUMPY = b"\x93NUMPY"
_KINDS = (
    "a file .safetensors, .h5, .weights.h5 or .keras, a folder with model.safetensors, "
    "a checkpoint of TensorFlow"
)


def read_foreign(name: str, *, raw: bool = False) -> Foreign:
    """Returns the tensors of a file or folder, local or ``hf:OWNER/NAME`` of the Hugging Face hub.

    Args:
      name: a safetensors file, or a folder with ``model.safetensors`` and ``config.json`` as timm writes it;
        ``.h5``, ``.weights.h5`` and ``.keras`` of Keras; the prefix, a file or the folder of a checkpoint of
        TensorFlow.
      raw: of a checkpoint, the weights themselves and not their averages.

    Raises:
      UserError: there is none, it is a pickle, damaged, or too large.
    """
    if name.startswith("hf:"):
        from efficientnet_pod.weights.hub import fetch

        return read_foreign(fetch(name.removeprefix("hf:")))
    path = Path(name)
    if path.is_dir() and (path / WEIGHTS).exists():
        about = _about_folder(path)
        return Foreign(read_safetensors(path / WEIGHTS), name, about, _digest([path / WEIGHTS]))
    if not path.is_file():
        return _read_checkpoint(path, name, raw=raw)
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(_HDF5):
        tensors = read_h5(path)
        return Foreign(tensors, name, image_constants(tensors), _digest([path]))
    if start.startswith(b"PK"):
        _refuse_archives_of_torch(path)
        tensors = read_keras_archive(path)
        return Foreign(tensors, name, image_constants(tensors), _digest([path]))
    if start[8:9] == b"{":
        beside = path.parent / CONFIG
        about = _about_folder(path.parent) if path.name == WEIGHTS and beside.exists() else {}
        return Foreign(read_safetensors(path), name, about, _digest([path]))
    if start.startswith((b"\x80", _NUMPY)) or path.suffix in (".pkl", ".pt", ".pth", ".bin"):
        raise _refusal(path)
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"'{name}' is a pointer of Git LFS, not the file; fetch it with: git lfs pull")
    if path.suffix == ".safetensors" or path.suffix in (".h5", ".hdf5", ".keras"):
        size = path.stat().st_size
        raise UserError(
            f"'{name}' ({size:,} bytes) is no {path.suffix} file: cut off or damaged; fetch it again"
        )
    return _read_checkpoint(path, name, raw=raw)


def _read_checkpoint(path: Path, name: str, *, raw: bool) -> Foreign:
    # TensorFlow takes seconds to import, for these alone.
    from efficientnet_pod.weights.formats.tensorflow_checkpoint import find_checkpoint, read_checkpoint

    prefix = find_checkpoint(path)
    if prefix is None:
        what = "holds no weights" if path.exists() else "does not exist"
        raise UserError(f"'{name}' {what}; weights are {_KINDS}, or hf:OWNER/NAME")
    tensors = read_checkpoint(prefix, raw=raw)
    files = sorted(Path(prefix).parent.glob(f"{Path(prefix).name}.*"))
    return Foreign(tensors, name, {}, _digest([file for file in files if file.suffix != ".meta"]))


def _refuse_archives_of_torch(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise UserError(f"'{path}' is cut off or damaged: {error}; save or fetch it again") from error
    if MEMBER not in names and any(name.endswith((".pkl", ".npy")) for name in names):
        raise _refusal(path)


def _refusal(path: Path) -> UserError:
    return UserError(
        f"'{path}' is a pickle of Python or may hold one, and reading a pickle runs whatever code is in it; "
        'where torch is, make tensors of it: python -c "import torch, safetensors.torch as s; '
        f"s.save_file(torch.load('{path.name}', weights_only=True), '{path.stem}.safetensors')\""
    )


def _about_folder(folder: Path) -> dict[str, Any]:
    """Returns what timm's ``config.json`` says of the weights beside it."""
    file = folder / CONFIG
    if not file.exists():
        return {}
    try:
        config = json.loads(file.read_bytes())
        given = config.get("pretrained_cfg") or {}
        about = {"architecture": config.get("architecture"), "class_names": config.get("label_names")}
        about |= {"mean": given.get("mean"), "std": given.get("std"), "ours": config.get("efficientnet_pod")}
        about["image_size"] = (given.get("input_size") or (None,))[-1]
        about["crop_pct"] = given.get("crop_pct")
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"'{file}' is damaged: {error}; restore it, or name {WEIGHTS} without it") from error
    return {name: value for name, value in about.items() if value is not None}


def _digest(files: Iterable[Path]) -> str:
    sha = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                sha.update(chunk)
    return sha.hexdigest()
