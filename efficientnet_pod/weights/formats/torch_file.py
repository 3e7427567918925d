"""Files of PyTorch, ``.pth``, ``.pt`` and ``.bin``, read without PyTorch; nothing in them is executed.

They hold a pickle, which :mod:`pickle_steps` follows without calling anything. What stands for the rebuilding
of a tensor becomes a tensor; all else, such as the arguments of a training, is left alone. Two forms exist: a
zip archive since PyTorch 1.6, and before it five pickles in a row and the numbers behind them.
"""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.foreign import MAX_BYTES, as_float32, check_size
from efficientnet_pod.weights.formats.pickle_steps import Call, Name, follow
from efficientnet_pod.weights.paths import Tensors

# The first pickle before PyTorch 1.6: a number of ten bytes.
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# Tables of tensors within a file, the first one is taken: averages over the training come before raw weights.
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_RAW = ("state_dict", "model_state_dict", "model", "net", "weights", "params")
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, torch.compile, Lightning
_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_MOST_STEPS = 16 << 20  # bytes of a pickle; that of a network has 0.1 MB, without its numbers


class _Storage(NamedTuple):
    """A run of numbers in the file."""

    key: str
    length: int
    dtype: np.dtype


class _Tensor(NamedTuple):
    """A tensor, its numbers elsewhere; the strides count numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.storage.dtype.itemsize


def read_torch(path: Path, *, raw: bool = False) -> tuple[Tensors, str | None]:
    """Returns the tensors of a file, and the name of the table that they are from; None for a file of one.

    Prefixes that all names have, such as ``module.``, are left out.

    Args:
      path: place of the file.
      raw: take the raw weights, where averages over the training are kept beside them.

    Raises:
      UserError: it is cut off, damaged or too large, or has no table of tensors.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(LEGACY)) == LEGACY:
                file.seek(0)
                return _read_legacy(path, file, raw=raw)
        return _read_archive(path, raw=raw)
    except UserError:
        raise
    except Exception as error:  # a damaged pickle or archive can break any step
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"'{path}' is cut off or damaged: {reason}; save or fetch it again") from error


def _read_archive(path: Path, *, raw: bool) -> tuple[Tensors, str | None]:
    with zipfile.ZipFile(path) as archive:
        [steps] = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        folder = steps.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            with archive.open(f"{folder}byteorder") as member:
                if member.read(16) != b"little":
                    raise UserError(
                        f"'{path}' has the bytes of its numbers the other way round; save it here"
                    )

        def numbers(storage: _Storage) -> bytes:
            member = archive.getinfo(f"{folder}data/{storage.key}")
            if member.file_size != storage.length * storage.dtype.itemsize:
                raise ValueError(
                    f"storage {storage.key} has {member.file_size:,} bytes, not {storage.length:,} numbers"
                )
            return archive.read(member)

        if archive.getinfo(steps).file_size > _MOST_STEPS:
            raise UserError(f"'{path}' describes more than a network; save its state_dict alone")
        table, name = _table(path, _followed(io.BytesIO(archive.read(steps)), {}), raw=raw)
        return _tensors(path, table, numbers), name


def _read_legacy(path: Path, file: IO[bytes], *, raw: bool) -> tuple[Tensors, str | None]:
    kinds: dict[str, _Storage] = {}
    _, version, machine, content, keys = (_followed(file, kinds) for _ in range(5))
    if version != 1001 or machine.get("little_endian") is not True:
        raise ValueError("it is of another version of PyTorch, or of another kind of machine")
    table, name = _table(path, content, raw=raw)
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if int.from_bytes(file.read(8), "little") != kinds[key].length:
            raise ValueError(f"storage {key} has not {kinds[key].length:,} numbers")
        places[key] = file.tell(), kinds[key].length * kinds[key].dtype.itemsize
        file.seek(places[key][1], io.SEEK_CUR)

    def numbers(storage: _Storage) -> bytes:
        start, size = places[storage.key]
        file.seek(start)
        return file.read(size)

    return _tensors(path, table, numbers), name


def _table(path: Path, content: Any, *, raw: bool) -> tuple[dict[str, Any], str | None]:
    """Returns the table of tensors in what a file holds, and its name there."""
    names: list[str] = []
    order = (*_RAW, *_AVERAGED) if raw else (*_AVERAGED, *_RAW)
    while isinstance(content, dict) and len(names) < 4:
        named = {name: content[name] for name in order if content.get(name)}
        tables = [name for name, value in named.items() if isinstance(value, dict)]
        name = next(iter(tables), next((n for n, value in named.items() if isinstance(value, Call)), None))
        if name is None:
            break
        names.append(name)
        content = content[name]
    if not isinstance(content, dict):
        kind = content.name if isinstance(content, Call) else type(content).__name__
        raise UserError(
            f"'{path}' is a pickle that holds an object, {kind}, and not its tensors; nothing in it is "
            "executed: where its code is, save the tensors: torch.save(model.state_dict(), 'weights.pth')"
        )
    if not any(isinstance(value, _Tensor) for value in content.values()):
        keys = ", ".join(map(repr, list(content)[:5])) or "nothing"
        raise UserError(f"'{path}' has no table of tensors, but {keys}; save the network's state_dict()")
    return content, ".".join(names) or None


def _tensors(path: Path, table: Mapping[str, Any], numbers: Callable[[_Storage], bytes]) -> Tensors:
    for name, value in table.items():
        if isinstance(value, Call | Name):
            raise UserError(
                f"'{path}' has an object at '{name}', {value.name}, which is no tensor; nothing is "
                "executed: save the network's state_dict()"
            )
    tensors = {str(name): value for name, value in table.items() if isinstance(value, _Tensor)}
    tensors.pop("n_averaged", None)  # the counter of torch.optim.swa_utils.AveragedModel
    while prefix := next((p for p in _PREFIXES if tensors and all(n.startswith(p) for n in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    sizes = (storage.length * storage.dtype.itemsize for storage in storages.values())
    check_size(str(path), len(tensors), max(sum(sizes), sum(tensor.nbytes for tensor in tensors.values())))
    values = {
        key: np.frombuffer(numbers(storage), storage.dtype, storage.length)
        for key, storage in storages.items()
    }
    return {
        name: as_float32(str(path), name, _array(name, values[tensor.storage.key], tensor))
        for name, tensor in tensors.items()
    }


def _array(name: str, values: np.ndarray, tensor: _Tensor) -> np.ndarray:
    """Returns a tensor of its own memory, whatever its strides; raises ValueError beyond its storage."""
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((extent - 1) * stride for extent, stride in steps)
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, values.dtype)
    if last >= len(values):
        raise ValueError(f"tensor '{name}' is not within its storage")
    strides = [values.itemsize * stride for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides).copy()


def _followed(file: IO[bytes], storages: dict[str, _Storage]) -> Any:
    """Returns what the next pickle of a file would make; ``storages`` gets those that it names, by key."""

    def outside(reference: Any) -> _Storage | Name:
        """Returns what PyTorch keeps outside its pickle: numbers, and modules with their source."""
        kind, named, *more = reference
        if kind == "module" and isinstance(named, Name):
            return named
        key, _, count = more[:3]
        dtype = _DTYPES.get(named.name.removeprefix("torch."))
        if kind != "storage" or dtype is None or type(count) is not int or not 0 <= count <= MAX_BYTES:
            raise ValueError(f"a tensor's numbers are {count!r} of {named.name}")
        return storages.setdefault(str(key), _Storage(str(key), count, np.dtype(dtype)))

    return follow(file, _rebuilt, outside)


def _rebuilt(name: str, arguments: tuple[Any, ...]) -> _Tensor | None:
    """Returns the tensor that a call would rebuild; None for all other calls."""
    match name, arguments:
        case "torch._utils._rebuild_tensor_v2", (_Storage() as storage, int(offset), shape, strides, *_):
            if not all(type(size) is int and size >= 0 for size in (offset, *shape, *strides)):
                raise ValueError(f"a tensor has the shape {shape!r} and the strides {strides!r}")
            return _Tensor(storage, offset, tuple(shape), tuple(strides))
        case (
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state",
            (_Tensor() as tensor, *_),
        ):
            return tensor
        case "torch._tensor._rebuild_from_type_v2", (Name() as inner, _, tuple(inner_arguments), *_):
            return _rebuilt(inner.name, inner_arguments)
    return None
