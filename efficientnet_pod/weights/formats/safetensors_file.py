"""The safetensors format, read and written."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.foreign import as_float32, check_size
from efficientnet_pod.weights.paths import Tensors
from efficientnet_pod.workdir.files import write_whole


def read_safetensors(path: Path) -> Tensors:
    """Returns the tensors of a file.

    Raises:
      UserError: it is cut off, damaged or too large, or a tensor does not hold numbers.
    """
    size = path.stat().st_size
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            check_size(str(path), len(names), size)  # a header that claims more than the file has is refused
            return {name: as_float32(str(path), name, _read(path, file, name)) for name in names}
    except SafetensorError as error:
        raise UserError(
            f"'{path}' ({size:,} bytes) is cut off or damaged: {error}; fetch it again"
        ) from error


def _read(path: Path, file: Any, name: str) -> np.ndarray:
    """Returns a tensor. The library cannot give numpy bfloat16, so that is read from the file itself."""
    if file.get_slice(name).get_dtype() != "BF16":
        return file.get_tensor(name)
    with path.open("rb") as raw:
        (header,) = struct.unpack("<Q", raw.read(8))
        about = json.loads(raw.read(header))[name]
        begin, end = about["data_offsets"]
        raw.seek(8 + header + begin)
        return np.frombuffer(raw.read(end - begin), ml_dtypes.bfloat16).reshape(about["shape"])


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the tensors, whole or not at all; equal tensors give equal bytes.

    Raises:
      OSError: the file cannot be written.
    """
    # Not np.ascontiguousarray, which makes a vector of a counter.
    ordered = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    write_whole(epath.Path(path), save(ordered, metadata={"format": "pt"}))  # timm asks for the format
