"""Files and folders of weights, opened by their contents, not by their suffix; no code in them runs."""

import dataclasses
import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.foreign import TORCH_WEIGHTS, WEIGHTS, Foreign
from efficientnet_pod.weights.formats.keras import MEMBER, normalisation_of, read_h5, read_keras_archive
from efficientnet_pod.weights.formats.safetensors_file import read_safetensors
from efficientnet_pod.weights.formats.tensorflow_checkpoint import files_of, find_checkpoint, read_checkpoint
from efficientnet_pod.weights.formats.torch_file import LEGACY, read_torch
from efficientnet_pod.weights.hub import fetch
from efficientnet_pod.weights.timm_config import about_folder
from efficientnet_pod.workdir.files import GIT_LFS

_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK"
_PICKLE, _NUMPY = b"\x80", b"\x93NUMPY"


def read_foreign(name: str, *, raw: bool = False) -> Foreign:
    """Returns the tensors of a file or folder, local or ``hf:OWNER/NAME`` of the Hugging Face hub.

    Args:
      name: a safetensors file, or a folder with ``model.safetensors`` and ``config.json`` as timm writes it;
        ``.h5``, ``.weights.h5`` and ``.keras`` of Keras; the prefix, a file or the folder of a checkpoint of
        TensorFlow; ``.pth``, ``.pt`` and ``.bin`` of PyTorch.
      raw: take a checkpoint's raw weights, not their averages.

    Raises:
      UserError: there is none, it is a pickle, damaged, or too large.
    """
    if name.startswith("hf:"):
        return dataclasses.replace(read_foreign(fetch(name.removeprefix("hf:")), raw=raw), path=name)
    path = Path(name)
    file = next((path / own for own in (WEIGHTS, TORCH_WEIGHTS) if (path / own).exists()), path)
    if not file.is_file():
        return _read_checkpoint(path, name, raw=raw)
    with file.open("rb") as opened:
        start = opened.read(32)
    if start.startswith(GIT_LFS):
        raise UserError(f"'{name}' is a pointer of Git LFS, not the file; fetch it with: git lfs pull")
    if start.startswith(LEGACY) or (start.startswith(_ZIP) and _is_of_torch(file)):
        tensors, table = read_torch(file, raw=raw)
        about = about_folder(file.parent) if file.name == TORCH_WEIGHTS else {}
        return Foreign(tensors, name, about | ({"table": table} if table else {}), _digest([file]))
    if start.startswith((_HDF5, _ZIP)):
        tensors = read_h5(file) if start.startswith(_HDF5) else read_keras_archive(file)
        return Foreign(tensors, name, normalisation_of(tensors), _digest([file]))
    if start[8:9] == b"{":
        about = about_folder(file.parent) if file.name == WEIGHTS else {}
        return Foreign(read_safetensors(file), name, about, _digest([file]))
    if not start:
        raise UserError(f"'{name}' (0 bytes) is cut off or damaged; fetch it again")
    if start.startswith((_PICKLE, _NUMPY)) or file.suffix in (".pkl", ".pt", ".pth", ".bin"):
        raise UserError(
            f"'{name}' is a pickle of Python, or may hold one, and no file of tensors; nothing in it is "
            "executed: save the tensors as .safetensors, or by torch.save(model.state_dict(), 'weights.pth')"
        )
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
            f"'{name}' {fault}; weights are a file .safetensors, .h5, .weights.h5, .keras or .pth, "
            "a folder with model.safetensors, a checkpoint of TensorFlow, or hf:OWNER/NAME"
        )
    tensors = read_checkpoint(prefix, raw=raw)
    return Foreign(tensors, name, {}, _digest([file for file in files_of(prefix) if file.suffix != ".meta"]))


def _is_of_torch(path: Path) -> bool:
    """Returns whether a zip archive is PyTorch's; raises UserError for a damaged one, and for numpy's."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise UserError(f"'{path}' is cut off or damaged: {error}; save or fetch it again") from error
    if MEMBER not in names and any(name.endswith(".npy") for name in names):
        raise UserError(
            f"'{path}' is numpy's archive, which may hold a pickle; save the arrays as .safetensors: "
            "safetensors.numpy.save_file"
        )
    return MEMBER not in names and any(name.rpartition("/")[2] == "data.pkl" for name in names)


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
