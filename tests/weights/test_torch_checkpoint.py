"""The reader of one PyTorch file: what it reads, and that a pickle in disguise gets nowhere."""

import hashlib
import io
import os
import pickle
import re
import sys
import types
from collections import OrderedDict

import lite0
import numpy as np
import pytest
from torch_checkpoint import MAGIC, VERSION, parse, read

MACHINE = {"protocol_version": VERSION, "little_endian": True, "type_sizes": {}}


class Call:
    """Becomes, in a pickle, a call of anything that has a name."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def file_of(content, *, magic=MAGIC):
    """Returns a file with that content, of no tensors."""
    return b"".join(pickle.dumps(part, protocol=2) for part in (magic, VERSION, MACHINE, content, []))


def named(module, name):
    """Returns a file whose fourth pickle calls ``module.name`` without arguments."""
    call = f"c{module}\n{name}\n".encode() + b"(tR."
    first = b"".join(pickle.dumps(part, protocol=2) for part in (MAGIC, VERSION, MACHINE))
    return first + b"\x80\x02" + call


def test_tensors_of_the_real_file():
    tensors = lite0.tensors()
    assert len(tensors) == 296
    assert (tensors["_fc.weight"].shape, tensors["_fc.weight"].dtype) == ((1000, 1280), np.float32)
    assert tensors["_bn0.num_batches_tracked"].dtype == np.int64
    assert all(np.isfinite(array).all() for array in tensors.values())


def test_a_file_of_another_digest_is_not_opened(tmp_path):
    (tmp_path / "weights.pth").write_bytes(content := file_of(OrderedDict()))
    with pytest.raises(ValueError, match=r"weights\.pth has the sha256"):
        read(tmp_path / "weights.pth", sha256=lite0.SHA256)
    assert read(tmp_path / "weights.pth", sha256=hashlib.sha256(content).hexdigest()) == {}


@pytest.mark.parametrize("function", [os.system, eval, getattr, __import__, print])
def test_a_file_that_calls_something_is_refused_before_the_call(function, tmp_path, capsys):
    mark = tmp_path / "called"
    arguments = {
        os.system: (f"touch {mark}",),
        eval: (f"open({str(mark)!r}, 'w')",),
        getattr: (OrderedDict, "fromkeys"),
        __import__: ("os",),
        print: ("called",),
    }
    content = file_of(OrderedDict(a=Call(function, *arguments[function])))
    with pytest.raises(
        pickle.UnpicklingError, match=rf"names \w+\.{function.__name__}, which no tensor needs"
    ):
        parse(content)
    assert not mark.exists() and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("collections", "OrderedDict.fromkeys"),
        ("numpy", "load"),
    ],
)
def test_names_near_those_allowed_are_refused(module, name):
    with pytest.raises(pickle.UnpicklingError, match=re.escape(f"names {module}.{name}, which")):
        parse(named(module, name))


@pytest.fixture
def fake_torch(monkeypatch):
    """Returns a function: the file of one tensor in a storage of float32, as PyTorch would write it."""

    def rebuild(*arguments):
        raise AssertionError("the reader has its own")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    floats = type("FloatStorage", (), {"__module__": "torch"})
    modules = {"torch": {"FloatStorage": floats}, "torch._utils": {"_rebuild_tensor_v2": rebuild}}
    for name, content in modules.items():
        monkeypatch.setitem(sys.modules, name, module := types.ModuleType(name))
        vars(module).update(content)

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return obj.pid if isinstance(obj, types.SimpleNamespace) else None

    def file(*, offset=0, shape=(2, 2), strides=(2, 1), count=4, view=None, values=4, tail=b""):
        storage = types.SimpleNamespace(pid=("storage", floats, "0", "cpu", count, view))
        tensor = Call(rebuild, storage, offset, shape, strides, False, OrderedDict())
        content = io.BytesIO()
        for part in (MAGIC, VERSION, MACHINE):
            pickle.dump(part, content, protocol=2)
        Pickler(content, protocol=2).dump(OrderedDict(a=tensor))
        pickle.dump(["0"], content, protocol=2)
        numbers = np.arange(values, dtype="<f4").tobytes()
        return content.getvalue() + values.to_bytes(8, "little") + numbers + tail

    return file


def test_strides_are_followed(fake_torch):
    np.testing.assert_array_equal(parse(fake_torch())["a"], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(parse(fake_torch(strides=(1, 2)))["a"], [[0, 2], [1, 3]])
    np.testing.assert_array_equal(parse(fake_torch(offset=3, shape=(1,), strides=(1,)))["a"], [3])
    assert parse(fake_torch(offset=3, shape=(), strides=()))["a"] == 3


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"offset": 1}, ValueError, "not within its storage"),
        ({"offset": -1}, ValueError, "not within its storage"),
        ({"strides": (3, 1)}, ValueError, "not within its storage"),
        ({"offset": 3, "strides": (-2, 1)}, ValueError, "not within its storage"),
        ({"count": 5}, ValueError, "has 4 values, not 5"),
        ({"count": 10**15, "values": 4}, ValueError, "has 4 values"),
        ({"view": ("0", 0, 4)}, pickle.UnpicklingError, "no plain storage"),
        ({"tail": b"more"}, ValueError, "something follows"),
    ],
)
def test_tensors_that_reach_beyond_the_file_are_refused(fake_torch, changes, error, words):
    with pytest.raises(error, match=words):
        parse(fake_torch(**changes))


def test_truncated_and_foreign_files_are_refused(fake_torch):
    with pytest.raises(ValueError, match="buffer is smaller"):
        parse(fake_torch()[:-1])
    with pytest.raises(ValueError, match=r"no checkpoint of PyTorch before 1\.6"):
        parse(file_of(OrderedDict(), magic=1))
    with pytest.raises(pickle.UnpicklingError):
        parse(b"PK\x03\x04")  # PyTorch's format since then is a zip
