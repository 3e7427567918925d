"""Reads one kind of PyTorch checkpoint, known by its digest, without PyTorch and without running its code.

The file is PyTorch's format before 1.6: five pickles (a magic number, a version, the machine's sizes, the
tensors without their values, the keys of the storages), then of each storage the number of values and the
values. A pickle can call anything that it can name; this one can name four things, and what stands for them
does nothing but note its arguments. The product reads no pickle at all.
"""

import hashlib
import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001


class Storage(NamedTuple):
    """A run of values in the file."""

    key: str
    count: int
    dtype: str


class Tensor(NamedTuple):
    """A tensor of which the values are elsewhere."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def tensor_without_values(storage, offset, shape, strides, requires_grad, hooks) -> Tensor:
    """Stands for ``torch._utils._rebuild_tensor_v2``."""
    return Tensor(storage, offset, tuple(shape), tuple(strides))


class Restricted(pickle.Unpickler):
    """Knows the few names of a file of float32 and int64 tensors, and refuses all others."""

    NAMES = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): tensor_without_values,
        ("torch", "FloatStorage"): "<f4",
        ("torch", "LongStorage"): "<i8",
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.NAMES:
            raise pickle.UnpicklingError(f"the file names {module}.{name}, which no tensor needs")
        return self.NAMES[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _device, count, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"{pid!r} is no plain storage")
        return Storage(key, count, dtype)


def read(path: Path, *, sha256: str) -> dict[str, np.ndarray]:
    """Returns the file's tensors by name, float32 or int64; raises ValueError unless it has that digest."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ValueError(f"{path.name} has the sha256 {digest}, not {sha256}")
    return parse(content)


def parse(content: bytes) -> dict[str, np.ndarray]:
    """Returns the tensors; raises UnpicklingError or ValueError where something else is in the file."""
    file = io.BytesIO(content)
    magic, version, machine, described, keys = (Restricted(file).load() for _ in range(5))
    if (magic, version, machine["little_endian"]) != (MAGIC, VERSION, True):
        raise ValueError("this is no checkpoint of PyTorch before 1.6")
    tensors: dict[str, Tensor] = dict(dict.items(described))
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    values = {key: _values(file, storages[key]) for key in keys}
    if file.read(1):
        raise ValueError("something follows the last tensor")
    return {name: _array(values[tensor.storage.key], tensor) for name, tensor in tensors.items()}


def _values(file: io.BytesIO, storage: Storage) -> np.ndarray:
    count = int.from_bytes(file.read(8), "little")
    if count != storage.count:
        raise ValueError(f"storage {storage.key} has {count} values, not {storage.count}")
    dtype = np.dtype(storage.dtype)
    return np.frombuffer(file.read(count * dtype.itemsize), dtype, count)


def _array(values: np.ndarray, tensor: Tensor) -> np.ndarray:
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((extent - 1) * stride for extent, stride in steps)
    if min(tensor.offset, *tensor.strides, 0) < 0 or last >= len(values):
        raise ValueError(f"{tensor} is not within its storage")
    strides = [values.itemsize * stride for stride in tensor.strides]  # those of transposed tensors too
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides).copy()
