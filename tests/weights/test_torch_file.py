"""PyTorch's files: the common forms give the same tensors, and a pickle in disguise gets nowhere."""

import os
import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict

import lite0
import ml_dtypes
import numpy as np
import pytest
from given_weights import random_resnet9
from same_tensors import same
from torch_files import REBUILD, Call, Module, Parameter, write_torch

from efficientnet_pod.cli.main import main
from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.formats.torch_file import read_torch
from efficientnet_pod.weights.open import open_weights
from efficientnet_pod.workdir.checkpoints.commit import leaves_of

TENSORS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "bn.running_mean": np.array([0.5, -2], np.float32),
    "bn.num_batches_tracked": np.array(7),
}
OTHER = {name: np.asarray(array + 1) for name, array in TENSORS.items()}


def transposed():
    return {
        **TENSORS,
        "conv.weight": np.ascontiguousarray(TENSORS["conv.weight"].transpose(2, 0, 1)).transpose(1, 2, 0),
    }


def of_one_storage():
    numbers = np.concatenate([[9, 9], TENSORS["conv.weight"].ravel(), TENSORS["bn.running_mean"]])
    numbers = numbers.astype(np.float32)
    views = {"conv.weight": numbers[2:26].reshape(2, 3, 4), "bn.running_mean": numbers[26:]}
    return {**views, "bn.num_batches_tracked": TENSORS["bn.num_batches_tracked"]}


def prefixed(prefix, tensors=TENSORS):
    return {f"{prefix}{name}": array for name, array in tensors.items()}


FORMS = {
    "plain": (OrderedDict(TENSORS), None),
    "nested": ({"state_dict": TENSORS, "epoch": 3, "best": np.float32(0.5), "lr": 1e-3}, "state_dict"),
    "model": ({"model": OrderedDict(TENSORS), "optimizer": {"state": {0: {"step": 1}}}}, "model"),
    "averaged": ({"state_dict": OTHER, "state_dict_ema": TENSORS, "args": Namespace(lr=1)}, "state_dict_ema"),
    "model_ema": (
        {"model": OTHER, "model_ema": {"n_averaged": np.array(5), **prefixed("module.")}},
        "model_ema",
    ),
    "parallel": (prefixed("module."), None),
    "compiled": ({"state_dict": prefixed("module._orig_mod.")}, "state_dict"),
    "transposed": (transposed(), None),
    "shared": (of_one_storage(), None),
    "parameters": ({**TENSORS, "conv.weight": Parameter(TENSORS["conv.weight"])}, None),
    "beside an object": ({"ema": Module(), "model": TENSORS, "state_dict_ema": {}}, "model"),
    "beside a tensor": ({"state_dict": TENSORS, "top1": np.array(71.5, np.float32)}, "state_dict"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_common_forms_give_the_same_tensors(form, legacy, tmp_path):
    content, table = FORMS[form]
    found, taken = read_torch(write_torch(tmp_path / "w.pth", content, legacy=legacy))
    assert same(found, TENSORS) and taken == table
    assert all(array.flags.owndata and array.flags.c_contiguous for array in found.values())


def test_raw_weights_are_taken_where_asked(tmp_path):
    path = write_torch(tmp_path / "w.pt", FORMS["averaged"][0])
    found, table = read_torch(path, raw=True)
    assert same(found, OTHER) and table == "state_dict"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32(dtype, tmp_path):
    path = write_torch(tmp_path / "w.bin", {"a": np.array([[1.5, -2], [0, 0.25]], dtype)})
    found = read_torch(path)[0]["a"]
    assert found.dtype == np.float32 and found.tolist() == [[1.5, -2], [0, 0.25]]


def test_the_file_of_trained_weights_is_read_and_imported(tmp_path, capsys):
    path = lite0.path()
    tensors = lite0.tensors()
    assert len(tensors) == 296 and tensors["_bn0.num_batches_tracked"].dtype == np.int64
    assert main(["import", str(path), f"--out={tmp_path / 'lite0'}"]) == 0
    assert "EfficientNet-Lite0 of EfficientNet-PyTorch: 247 tensors" in capsys.readouterr().out
    found = open_weights(str(tmp_path / "lite0"))
    assert same(found.tensors, leaves_of(lite0.variables()))


def test_the_table_that_is_taken_is_said(tmp_path, capsys):
    trained = random_resnet9()
    path = write_torch(tmp_path / "w.pth", {"model_ema": trained.tensors, "model": {}})
    assert main(["import", str(path), f"--out={tmp_path / 'w'}"]) == 0
    assert "of efficientnet-pod, its table 'model_ema': " in capsys.readouterr().out
    found = open_weights(str(tmp_path / "w"))
    assert same(found.tensors, trained.tensors) and found.origin["table"] == "model_ema"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("function", [os.system, eval, getattr, __import__, print])
def test_a_file_that_calls_something_is_refused_and_nothing_is_called(function, legacy, tmp_path, capsys):
    mark = tmp_path / "called"
    arguments = {
        os.system: (f"touch {mark}",),
        eval: (f"open({str(mark)!r}, 'w')",),
        getattr: (OrderedDict, "fromkeys"),
        __import__: ("os",),
        print: ("called",),
    }[function]
    for content in (Call(function, *arguments), OrderedDict(TENSORS, bad=Call(function, *arguments))):
        path = write_torch(tmp_path / "w.pth", content, legacy=legacy)
        with pytest.raises(UserError, match=rf"object.*{function.__name__}.*nothing in it is|is no tensor"):
            open_weights(str(path))
    assert not mark.exists() and capsys.readouterr().out == ""


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_module_is_refused_in_one_line(legacy, tmp_path, capsys):
    for content in (Module(weight=TENSORS["conv.weight"]), {"model": Module()}):
        path = write_torch(tmp_path / "w.pth", content, legacy=legacy)
        assert main(["import", str(path), f"--out={tmp_path / 'w'}"]) == 2
        error = capsys.readouterr().err
        assert "holds an object, torch_files.Module, and not its tensors" in error and error.count("\n") == 1


def rebuilt(*arguments):
    """Returns a table of one tensor, rebuilt from its storage of 4 numbers in this way."""
    return {"a": Call(REBUILD["_rebuild_tensor_v2"], *arguments)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": 1, "b": {"c": 2}}, "has no table of tensors, but 'a', 'b'"),
        ({}, "has no table of tensors, but nothing"),
        (3, "holds an object, int"),
        (rebuilt("x", 0, (2,), (1,)), "has no table of tensors, but 'a'"),
        ({"a": np.array([True])}, "of type bool"),
    ],
)
def test_files_without_tensors_are_refused_in_one_line(content, words, tmp_path):
    with pytest.raises(UserError, match=words) as error:
        open_weights(str(write_torch(tmp_path / "w.pth", content)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((2, 2), (2, 1), 1), ((2, 2), (3, 1), 0), ((5,), (1,), 0), ((1 << 40,), (0,), 0), ((-1,), (1,), 0)],
)
def test_tensors_that_reach_beyond_their_storage_are_refused(shape, strides, offset, tmp_path, monkeypatch):
    reduced = REBUILD["_rebuild_tensor_v2"]

    def changed(self, obj):
        if not isinstance(obj, np.ndarray):
            return NotImplemented
        storage = self.storages.setdefault(0, torch_files._Storage("0", obj))
        return reduced, (storage, offset, shape, strides, False, OrderedDict())

    import torch_files

    monkeypatch.setattr(torch_files._Pickler, "reducer_override", changed)
    path = write_torch(tmp_path / "w.pth", {"a": np.zeros(4, np.float32)})
    with pytest.raises(UserError, match=r"cut off or damaged|at most .* are read"):
        open_weights(str(path))


@pytest.mark.parametrize("legacy", [False, True])
def test_files_that_are_cut_off_are_refused_in_one_line(legacy, tmp_path):
    path = write_torch(tmp_path / "w.pth", OrderedDict(TENSORS), legacy=legacy)
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(UserError, match="cut off or damaged") as error:
            open_weights(str(path))
        assert "\n" not in str(error.value)


def test_deep_and_endless_pickles_are_refused(tmp_path):
    for steps in (
        b"\x80\x02)" + b"\x85" * 200_000 + b".",
        b"\x80\x02}q\x00X\x05\0\0\0modelh\x00s.",
        b"\x80\x02N0.",
    ):
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            archive.writestr("w/data.pkl", steps)
        with pytest.raises(UserError, match=r"holds an object, tuple|no table of tensors|cut off or damaged"):
            open_weights(str(tmp_path / "w.pth"))


def test_archives_whose_numbers_are_not_those_described_are_refused(tmp_path):
    for others in ({"byteorder": b"big"}, {"data/0": b"1234"}):
        path = write_torch(tmp_path / "w.pth", OrderedDict(TENSORS), **others)
        with pytest.raises(UserError, match="the other way round|has 4 bytes, not 24 numbers"):
            open_weights(str(path))
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"]" * (17 << 20))
    with pytest.raises(UserError, match="describes more than a network"):
        open_weights(str(tmp_path / "bomb.pth"))


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_pickles_is_followed(protocol, tmp_path):
    content = {
        "state": [1, 2.5, "é", b"x", None, True, (1,), (1, 2), (), {3}, 1 << 70, [[]]],
        "model": {"a": {}},
    }
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps(content, protocol=protocol))
    with pytest.raises(UserError, match="has no table of tensors, but 'a'"):
        open_weights(str(tmp_path / "w.pth"))
