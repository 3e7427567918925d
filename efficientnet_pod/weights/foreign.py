"""The contents of a file of weights, not yet matched with a network, and the limits of all readers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.paths import Tensors

# The two files of a folder of weights, as timm and the Hugging Face hub name them.
WEIGHTS, CONFIG = "model.safetensors", "config.json"
TORCH_WEIGHTS = "pytorch_model.bin"  # in older folders of the hub
# Twice B7 in float64. A few bytes of a header can claim any size.
MAX_BYTES = 2 << 30
MAX_TENSORS = 20_000


@dataclasses.dataclass(frozen=True)
class Foreign:
    """Tensors by the names they have in their file.

    Attributes:
      tensors: float32, or the integers of counters.
      path: place of the file or folder, for messages.
      about: facts stated next to the tensors: ``architecture``, ``mean`` and ``std`` (of pixels in 0..1),
        ``image_size``, ``view``, ``eval_crop_share``, ``resize``, ``class_names`` and the
        ``class_names_fault`` for which they are not kept, ``bn_epsilon``, ``license``, ``table`` (of several
        in the file), ``warnings``, and ``ours``, our own table; unknown ones are left out.
      sha256: digest of the file, or of several files in a row.
    """

    tensors: Tensors
    path: str
    about: Mapping[str, Any]
    sha256: str


def check_size(path: str, tensors: int, size: int) -> None:
    """Raises UserError for more tensors, or more bytes in all, than a network has."""
    if tensors > MAX_TENSORS:
        raise UserError(
            f"'{path}' claims {tensors:,} tensors; at most {MAX_TENSORS:,} are read: is it one network?"
        )
    if size > MAX_BYTES:
        raise UserError(
            f"'{path}' claims {size:,} bytes of tensors; at most {MAX_BYTES:,} are read: "
            "is it one network, without its optimizer?"
        )


def as_float32(path: str, name: str, array: np.ndarray) -> np.ndarray:
    """Returns floating-point numbers as float32, integers as they are; raises UserError for anything else."""
    if array.dtype == np.float32 or array.dtype.kind in "iu":
        return array
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    raise UserError(
        f"tensor '{name}' in '{path}' is of type {array.dtype}; weights are numbers: save it anew"
    )
