"""Files as PyTorch writes them, made without it: arrays stand for tensors, in both forms of the file."""

import contextlib
import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
_KINDS = {"float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "float64": "Double"} | {
    "int64": "Long",
    "bool": "Bool",
}


class Call:
    """Becomes a call of anything that has a name."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Parameter:
    """An array as a parameter of a module."""

    def __init__(self, array):
        self.array = array


class Module:
    """Pickled whole, as ``torch.save(model)`` does it."""

    def __init__(self, **tensors):
        self._parameters = OrderedDict(tensors)


def _stub(module: str, name: str, kind: Any) -> Any:
    kind.__module__, kind.__name__, kind.__qualname__ = module, name, name
    return kind


REBUILD = {
    name: _stub("torch._utils", name, types.FunctionType((lambda *_: 1 / 0).__code__, {}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter")
}
_STORAGES = {kind: _stub("torch", f"{kind}Storage", type(kind, (), {})) for kind in _KINDS.values()}


class _Storage:
    def __init__(self, key, values):
        self.key, self.values = key, values


class _Pickler(pickle.Pickler):
    def __init__(self, file, *, legacy):
        super().__init__(file, protocol=2)
        self.storages, self._legacy = {}, legacy

    def reducer_override(self, obj):
        if isinstance(obj, Parameter):
            return REBUILD["_rebuild_parameter"], (obj.array, True, OrderedDict())
        if not isinstance(obj, np.ndarray):
            return NotImplemented
        base = obj if obj.base is None else obj.base
        storage = self.storages.setdefault(id(base), _Storage(str(len(self.storages)), base.ravel()))
        offset = (obj.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // obj.itemsize
        strides = tuple(step // obj.itemsize for step in obj.strides)
        return REBUILD["_rebuild_tensor_v2"], (storage, offset, obj.shape, strides, False, OrderedDict())

    def persistent_id(self, obj):
        if not isinstance(obj, _Storage):
            return None
        kind = _STORAGES[_KINDS[obj.values.dtype.name]]
        return ("storage", kind, obj.key, "cpu", obj.values.size, *((None,) if self._legacy else ()))


@contextlib.contextmanager
def _torch():
    modules = {"torch": types.ModuleType("torch"), "torch._utils": types.ModuleType("torch._utils")}
    vars(modules["torch"]).update({kind.__name__: kind for kind in _STORAGES.values()})
    vars(modules["torch._utils"]).update(REBUILD)
    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            before = sys.modules.get(name)
            sys.modules[name] = module
            stack.callback(
                lambda n=name, b=before: sys.modules.pop(n) if b is None else sys.modules.update({n: b})
            )
        yield


def write_torch(path: Path, content: Any, *, legacy: bool = False, **others: bytes) -> Path:
    """Writes what ``torch.save`` writes of the content; ``others`` are members of the archive."""
    file = io.BytesIO()
    if legacy:
        for part in (MAGIC, VERSION, {"protocol_version": VERSION, "little_endian": True, "type_sizes": {}}):
            pickle.dump(part, file, protocol=2)
    with _torch():
        pickler = _Pickler(file, legacy=legacy)
        pickler.dump(content)
    storages = {storage.key: storage.values for storage in pickler.storages.values()}
    if legacy:
        pickle.dump(list(storages), file, protocol=2)
        for values in storages.values():
            file.write(values.size.to_bytes(8, "little") + values.tobytes())
        path.write_bytes(file.getvalue())
        return path
    members = {"data.pkl": file.getvalue(), "byteorder": b"little", "version": b"3\n"}
    members |= {f"data/{key}": values.tobytes() for key, values in storages.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in (members | others).items():
            archive.writestr(f"archive/{name}", value)
    return path
