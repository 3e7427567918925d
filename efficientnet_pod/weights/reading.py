"""Files and folders of weights, opened by their contents, not by their suffix; no code in them runs."""

import hashlib
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.foreign import CONFIG, WEIGHTS, Foreign
from efficientnet_pod.weights.formats.keras import MEMBER, normalisation_of, read_h5, read_keras_archive
from efficientnet_pod.weights.formats.safetensors_file import read_safetensors
from efficientnet_pod.weights.formats.tensorflow_checkpoint import find_checkpoint, read_checkpoint
from efficientnet_pod.weights.hub import fetch
from efficientnet_pod.workdir.files import GIT_LFS

_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK"
_PICKLE, _NUMPY = b"\x80", b"\x93NUMPY"


def read_foreign(name: str, *, raw: bool = False) -> Foreign:
    """Returns the tensors of a file or folder, local or ``hf:OWNER/NAME`` of the Hugging Face hub.

    Args:
      name: a safetensors file, or a folder with ``model.safetensors`` and ``config.json`` as timm writes it;
        ``.h5``, ``.weights.h5`` and ``.keras`` of Keras; the prefix, a file or the folder of a checkpoint of
        TensorFlow.
      raw: take a checkpoint's raw weights, not their averages.

    Raises:
      UserError: there is none, it is a pickle, damaged, or too large.
    """
    if name.startswith("hf:"):
        return read_foreign(fetch(name.removeprefix("hf:")))
    path = Path(name)
    file = path / WEIGHTS if (path / WEIGHTS).exists() else path
    if not file.is_file():
        return _read_checkpoint(path, name, raw=raw)
    with file.open("rb") as opened:
        start = opened.read(len(GIT_LFS))
    if start == GIT_LFS:
        raise UserError(f"'{name}' is a pointer of Git LFS, not the file; fetch it with: git lfs pull")
    if start.startswith((_HDF5, _ZIP)):
        if start.startswith(_ZIP):
            _refuse_archives_of_torch(file)
        tensors = read_h5(file) if start.startswith(_HDF5) else read_keras_archive(file)
        return Foreign(tensors, name, normalisation_of(tensors), _digest([file]))
    if start[8:9] == b"{":
        about = _about_folder(file.parent) if file.name == WEIGHTS else {}
        return Foreign(read_safetensors(file), name, about, _digest([file]))
    if start.startswith((_PICKLE, _NUMPY)) or file.suffix in (".pkl", ".pt", ".pth", ".bin"):
        raise _refusal(file)
    if file.suffix in (".safetensors", ".h5", ".hdf5", ".keras"):
        size = file.stat().st_size
        raise UserError(
            f"'{name}' ({size:,} bytes) is no {file.suffix} file: cut off or damaged; fetch it again"
        )
    return _read_checkpoint(path, name, raw=raw)


def _read_checkpoint(path: Path, name: str, *, raw: bool) -> Foreign:
    prefix = find_checkpoint(path)
    if prefix is None:
        fault = "holds no weights" if path.exists() else "does not exist"
        raise UserError(
            f"'{name}' {fault}; weights are a file .safetensors, .h5, .weights.h5 or .keras, "
            "a folder with model.safetensors, a checkpoint of TensorFlow, or hf:OWNER/NAME"
        )
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
        'convert it where torch is installed: python -c "import torch, safetensors.torch as s; '
        f"s.save_file(torch.load('{path.name}', weights_only=True), '{path.stem}.safetensors')\""
    )


def _about_folder(folder: Path) -> dict[str, Any]:
    """Returns the facts in timm's ``config.json``, see :class:`Foreign`; none where there is no such file."""
    file = folder / CONFIG
    if not file.exists():
        return {}
    try:
        config = json.loads(file.read_bytes())
        pretrained = config.get("pretrained_cfg") or {}
        about = {
            "architecture": config.get("architecture"),
            "class_names": config.get("label_names"),
            "mean": pretrained.get("mean"),
            "std": pretrained.get("std"),
            "image_size": (pretrained.get("input_size") or (None,))[-1],
            "crop_pct": pretrained.get("crop_pct"),
            "ours": config.get("efficientnet_pod"),
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"'{file}' is damaged: {error}; restore it, or name {WEIGHTS} without it") from error
    return {name: value for name, value in about.items() if value is not None}


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
