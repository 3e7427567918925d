"""Files of weights: what is read to the bit, and what is refused, with a reason, before it can do harm."""

import hashlib
import http.server
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from given_weights import random_weights
from same_tensors import same

from efficientnet_pod.cli.main import main
from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.convert import convert
from efficientnet_pod.weights.folder import write_folder
from efficientnet_pod.weights.formats.safetensors_file import read_safetensors, write_safetensors
from efficientnet_pod.weights.layouts import KERAS, LAYOUTS, OWN, TENSORFLOW, TIMM
from efficientnet_pod.weights.open import open_weights
from efficientnet_pod.weights.reading import read_foreign
from efficientnet_pod.weights.trained import Trained


@pytest.fixture(scope="module", autouse=True)
def few_networks():
    """A file that fits no network is held against all of them: these three take a second and not ten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("efficientnet_pod.weights.convert.NETWORKS", ("b0", "b1", "resnet50"))
        yield


@pytest.fixture(scope="module")
def b0():
    return random_weights()


@pytest.fixture(scope="module")
def folder(b0, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "b0"
    write_folder(b0, path)
    return path


@pytest.mark.parametrize("network", ["b0", "b3", "resnet50", "resnet9", "resnet9_whitened", "resnet18_cifar"])
def test_a_folder_gives_back_the_same_bits(network, tmp_path):
    names = ("a", "Bär", "猫", "d\n", " e")
    given = random_weights(network)
    given = Trained(network, given.variables, names, 48, (0.1, 0.2, 0.3), (1.0, 0.5, 0.25), "whole", "fast")
    write_folder(given, tmp_path / "w")
    found = open_weights(str(tmp_path / "w"))
    assert same(given.tensors, found.tensors)
    assert (found.network, found.class_names, found.image_size) == (network, names, 48)
    assert (found.mean_rgb, found.stddev_rgb) == ((0.1, 0.2, 0.3), (1.0, 0.5, 0.25))
    assert (found.view, found.resize) == ("whole", "fast")


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS], ids=lambda layout: layout.title)
@pytest.mark.parametrize("network", ["b0", "b1", "resnet50"])
def test_a_layout_names_every_tensor_once_and_its_axes_come_back(network, layout):
    tensors = random_weights(network).tensors
    names = layout.names(tensors)
    if network == "resnet50" and layout not in (TIMM, OWN):
        assert names == {}
        return
    assert names.keys() == tensors.keys() and len(set(names.values())) == len(names)
    for path, array in tensors.items():
        assert np.array_equal(layout.to_ours(path, layout.from_ours(path, array)), array)


def save_checkpoint(prefix, tensors):
    names = list(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=list(tensors.values()),
    )


@pytest.mark.parametrize(
    "scope, optimizer",
    [
        ("efficientnet-b0/", ("RMSProp", "RMSProp_1")),
        ("efficientnet-b0/model/", ("LARSOptimizer",)),
        ("efficientnet-b0/", ("Momentum", "Adam", "Adam_1", "Shampoo/preconditioner")),
    ],
)
def test_tensorflows_checkpoint_is_read_with_its_averages(b0, scope, optimizer, tmp_path):
    names = TENSORFLOW.names(b0.tensors)
    ours = {scope + names[path]: TENSORFLOW.from_ours(path, array) for path, array in b0.tensors.items()}
    average = {f"{name}/ExponentialMovingAverage": array for name, array in ours.items()}
    raw = {name: array + 1 for name, array in ours.items()}
    slots = {f"{name}/{slot}": array for name, array in ours.items() for slot in optimizer}
    beside = {"global_step": np.int64(3), "beta1_power": np.float32(1)}
    save_checkpoint(tmp_path / "model.ckpt", raw | average | beside | slots)
    for path in (tmp_path, tmp_path / "model.ckpt", tmp_path / "model.ckpt.index"):
        found = convert(read_foreign(str(path)), network="b0")
        assert same(found.tensors, b0.tensors) and found.mean_rgb == (0.485, 0.456, 0.406)
    found = open_weights(str(tmp_path), raw=True)
    assert all(np.array_equal(found.tensors[path], array + 1) for path, array in b0.tensors.items())
    odd = tmp_path / "lr[0.1] *" / "[b]0?.ckpt"  # a path is no pattern
    odd.parent.mkdir()
    for file in tmp_path.glob("model.ckpt.*"):
        file.rename(odd.parent / file.name.replace("model.ckpt", odd.name))
    again = read_foreign(str(odd), raw=True)
    assert again.sha256 == read_foreign(str(odd.parent), raw=True).sha256 != hashlib.sha256().hexdigest()


def test_a_checkpoint_that_is_cut_off_says_so(tmp_path):
    save_checkpoint(tmp_path / "model.ckpt", {"efficientnet-b0/stem/conv2d/kernel": np.ones((3, 3, 3, 32))})
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(UserError, match="is cut off or damaged"):
        open_weights(str(tmp_path))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floats_become_float32(dtype, tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3).astype(dtype)
    if dtype is ml_dtypes.bfloat16:
        about = {"a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}
        header = json.dumps(about).encode()
        (tmp_path / "f").write_bytes(struct.pack("<Q", len(header)) + header + values.tobytes())
    else:
        write_safetensors(tmp_path / "f", {"a": values})
    found = read_safetensors(tmp_path / "f")["a"]
    assert found.dtype == np.float32 and found.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_missing_and_extra_tensors_are_named_ten_of_them(folder, b0, tmp_path):
    tensors = read_safetensors(folder / "model.safetensors")
    del tensors["blocks.1.0.conv_pw.weight"]
    tensors |= {f"more.{i}": np.zeros((i,), np.float32) for i in range(12)}
    write_safetensors(tmp_path / "w.safetensors", tensors)
    with pytest.raises(UserError) as error:
        convert(read_foreign(str(tmp_path / "w.safetensors")), network="b0")
    said = str(error.value)
    assert "1 tensors are missing: blocks.1.0.conv_pw.weight (1, 1, 16, 96)" in said
    assert "12 tensors are too many: more.0 (0,), " in said and "and 2 more" in said and "\n" not in said


def test_a_tensor_of_another_shape_is_named(folder, tmp_path):
    tensors = read_safetensors(folder / "model.safetensors")
    tensors["bn1.bias"] = np.zeros((31,), np.float32)
    write_safetensors(tmp_path / "w.safetensors", tensors)
    with pytest.raises(UserError, match=r"1 tensors have other shapes: bn1.bias \(31,\)"):
        convert(read_foreign(str(tmp_path / "w.safetensors")), network="b0")


def test_the_network_that_fits_is_found_or_named(tmp_path, folder):
    loose = tmp_path / "w.safetensors"
    loose.write_bytes((folder / "model.safetensors").read_bytes())
    assert open_weights(str(loose)).network == "b0"
    for wrong in ("b1", "resnet50"):
        with pytest.raises(UserError, match="give --model=b0"):
            convert(read_foreign(str(loose)), network=wrong)
    write_safetensors(loose, {"encoder.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(UserError, match=r"has no tensor of any network \(it has encoder.weight …\)"):
        open_weights(str(loose))


def test_networks_that_look_alike_and_compute_otherwise_are_refused(folder, tmp_path):
    def written(tensors, name="w.safetensors"):
        write_safetensors(tmp_path / name, tensors)
        return str(tmp_path / name)

    for name, why in (
        ("features.0.0.weight", "names of torchvision's EfficientNets"),
        ("conv1_conv/kernel", "Keras's ResNet50 is the first version"),
        ("efficientnet.embeddings.convolution.weight", "names of transformers"),
    ):
        with pytest.raises(UserError, match=why):
            open_weights(written({name: np.zeros((1,), np.float32)}))
    tensors = read_safetensors(folder / "model.safetensors")
    assert open_weights(written(tensors, "efficientnet_b0_ra.safetensors")).padding == "symmetric"
    assert open_weights(written(tensors, "tf_efficientnet_b0.safetensors")).padding == "same"
    config = json.loads((folder / "config.json").read_text())
    del config["efficientnet_pod"]
    written(tensors, "model.safetensors")
    for architecture, why in (
        ("efficientnet_b1", "1.* tensors are missing"),
        ("tf_efficientnetv2_xl", "which is no network here"),
        ("tf_efficientnet_b1", "1.* tensors are missing"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": architecture}))
        with pytest.raises(UserError, match=why):
            open_weights(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="says that it is b0, not b1; give --model=b0"):
        convert(read_foreign(str(tmp_path)), network="b1")


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["a.safetensors", "a.h5", "a.pth", "a.bin", "folder/model.safetensors"])
def test_a_pointer_of_git_lfs_is_called_one(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    path = file.parent if name.startswith("folder") else file
    with pytest.raises(UserError, match=f"'{path}' is a pointer of Git LFS, not the file; .*git lfs pull"):
        read_foreign(str(path))


def test_pickles_are_refused_with_the_way_out_and_nothing_runs(tmp_path):
    mark = tmp_path / "executed"
    pickled = pickle.dumps(Bomb(mark))
    (tmp_path / "a.pth").write_bytes(pickled)
    (tmp_path / "named.safetensors").write_bytes(pickled)
    (tmp_path / "pointer.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    np.save(tmp_path / "objects.npy", np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", a=np.array([Bomb(mark)], dtype=object))
    for name in ("a.pth", "named.safetensors", "zip.pth", "objects.npy", "objects.npz"):
        with pytest.raises(UserError, match="pickle.*save the (tensors|arrays)"):
            open_weights(str(tmp_path / name))
    with pytest.raises(UserError, match="a pointer of Git LFS.*git lfs pull"):
        open_weights(str(tmp_path / "pointer.pth"))
    assert not mark.exists()


def test_the_code_in_an_archive_of_keras_is_not_looked_at(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", '{"class_name": "Lambda", "config": "evil"}')
        archive.writestr("metadata.json", "{}")
    with pytest.raises(UserError, match="without model.weights.h5"):
        open_weights(str(tmp_path / "a.keras"))


def test_claims_are_checked_before_memory_is_taken(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    with pytest.raises(UserError, match="is cut off or damaged"):
        open_weights(str(tmp_path / "a.safetensors"))
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("model.weights.h5", "w", force_zip64=True) as member:
            for _ in range(33):
                member.write(bytes(64 << 20))
    assert (tmp_path / "bomb.keras").stat().st_size < 4 << 20
    with pytest.raises(UserError, match="claims 2,214,592,512 bytes of tensors"):
        open_weights(str(tmp_path / "bomb.keras"))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_refused(folder, share, tmp_path):
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match="cut off or damaged"):
        open_weights(str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["nowhere.h5"], "'nowhere.h5' does not exist; weights are"),
        (["/dev/null"], "'/dev/null' holds no weights"),
        ([], "import needs one file or folder of weights"),
        (["x", "--model=b12"], "--model=b12 is unknown; did you mean 'b"),
    ],
)
def test_import_says_what_is_wrong_in_one_line(arguments, said, tmp_path, capsys):
    assert main(["import", *arguments, f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_import_writes_a_folder_with_names_and_never_over_other_files(folder, b0, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("\ufeffä\r\nb\r\n\r\nc\r\nd\u2028x\r\ne\r\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    source = str(folder / "model.safetensors")
    names = f"--class-names={tmp_path / 'names.txt'}"
    assert main(["import", source, names, f"--out={tmp_path / 'mine'}"]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert main(["import", source, names, f"--out={tmp_path / 'w'}", "--image-size=48"]) == 0
    assert "5 classes\n" in capsys.readouterr().out
    found = open_weights(str(tmp_path / "w"))
    assert found.class_names == ("ä", "b", "c", "d\u2028x", "e") and found.image_size == 48
    assert same(found.tensors, b0.tensors)
    (tmp_path / "names.txt").write_text("one\n")
    assert main(["import", source, names, f"--out={tmp_path / 'w'}"]) == 2
    assert "1 class names for the 5 classes" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("a\nb\nc\nb\nd\n")
    assert main(["import", source, names, f"--out={tmp_path / 'w'}"]) == 2
    error = capsys.readouterr().err
    assert "classes 1 and 3, 'b' and 'b', have the same name" in error and error.count("\n") == 1


def serve(root: Path):
    """Serves a folder as the hub serves the repository me/b0."""

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body):
            place, name = self.path.partition("?")[0].rsplit("/", 1)
            there = place == "/me/b0/resolve/main" and (root / name).exists()
            contents = (root / name).read_bytes() if there else b""
            self.send_response(200 if there else 404)
            headers = (
                {"ETag": f'"{len(contents)}"', "X-Repo-Commit": "0" * 40}
                if there
                else {"X-Error-Code": "RepoNotFound"}
            )
            for key, value in (headers | {"Content-Length": str(len(contents))}).items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(contents)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_weights_come_from_the_hub(folder, tmp_path):
    pytest.importorskip("huggingface_hub")
    server = serve(folder)
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "JAX_PLATFORMS": "cpu",
    }

    def run_import(name):
        command = [sys.executable, "-m", "efficientnet_pod", "import", name, f"--out={tmp_path / 'w'}"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    try:
        ended = run_import("hf:me/b0")
        assert ended.returncode == 0, ended.stderr
        found = open_weights(str(tmp_path / "w"))
        assert same(found.tensors, open_weights(str(folder)).tensors)
        assert found.origin["base_model"] == "me/b0"
        ended = run_import("hf:me/none")
        assert ended.returncode == 2 and "hf:me/none cannot be fetched: 404" in ended.stderr
    finally:
        server.shutdown()
        server.server_close()


def test_one_network_in_two_layouts_is_the_same(b0, tmp_path):
    names = KERAS.names(b0.tensors)
    keras = {names[path]: KERAS.from_ours(path, array) for path, array in b0.tensors.items()}
    write_safetensors(tmp_path / "k.safetensors", keras)
    assert same(convert(read_foreign(str(tmp_path / "k.safetensors"))).tensors, b0.tensors)
