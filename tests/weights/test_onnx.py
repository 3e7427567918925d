"""ONNX: what the networks are for a converter, and the other environment that converts them.

The suite has no jax2onnx. With EFFICIENTNET_POD_ONNX_PYTHON=onnxenv/bin/python the last test uses that one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from given_weights import random_weights, with_statistics
from same_logits import assert_same_logits

from efficientnet_pod.cli.main import main
from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.models.converting import for_converter
from efficientnet_pod.models.initial import abstract_variables
from efficientnet_pod.models.registry import NETWORKS
from efficientnet_pod.weights.export import export
from efficientnet_pod.weights.folder import write_folder
from efficientnet_pod.weights.trained import untrained


@pytest.mark.parametrize("network", ["b0", "lite0", *(name for name in NETWORKS if "resnet" in name)])
def test_a_converter_meets_no_platforms(network):
    model = untrained(network, 5)
    variables = abstract_variables(model, 64)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), np.float32)

    def program() -> str:
        return str(jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, images))

    assert "platform_index" in program()
    with for_converter():
        assert "platform_index" not in program()
    assert "platform_index" in program()


@pytest.mark.parametrize(
    "network, size", [("b0", 33), pytest.param("resnet50", 32, marks=pytest.mark.long), ("resnet9", 32)]
)
def test_what_a_converter_meets_computes_the_same(network, size):
    weights = with_statistics(random_weights(network, kernel_noise=0.0), size)
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)

    def logits() -> np.ndarray:
        apply = jax.jit(lambda x: weights.model.apply(weights.variables, x, train=False))
        return np.asarray(apply(images))

    expected = logits()
    with for_converter():
        assert_same_logits(logits(), expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w"
    write_folder(random_weights("resnet9"), path)
    return path


def test_without_jax2onnx_the_remedy_is_one_line_and_nothing_is_left(folder, tmp_path, capsys):
    assert main(["export", str(folder), f"--out={tmp_path / 'out'}", "--to=onnx"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{sys.executable} has no jax2onnx" in error
    assert "-m venv onnxenv && onnxenv/bin/pip install jax2onnx safetensors" in error
    assert list(tmp_path.iterdir()) == []


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_other_python_gets_the_folder_and_none_of_our_modules(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    python = script(
        tmp_path / "python",
        'test -z "$PYTHONPATH" && test "$1" = -P && test -f "$3/config.json" && printf abcd >"$3/model.onnx"',
    )
    out = tmp_path / "out"
    assert main(["export", str(folder), f"--out={out}", "--to=onnx", f"--onnx-python={python}"]) == 0
    assert (out / "model.onnx").read_bytes() == b"abcd"
    assert "model.onnx" in capsys.readouterr().out
    assert "onnxruntime.InferenceSession" in (out / "README.md").read_text()


def test_what_goes_wrong_there_is_said_here(folder, tmp_path):
    weights = random_weights("resnet9")
    python = script(tmp_path / "python", "echo noise >&2; echo 'jax2onnx cannot convert it' >&2; exit 1")
    with pytest.raises(RunError, match="ended with 1: jax2onnx cannot convert it; leave onnx out"):
        export(weights, tmp_path / "out", ["onnx"], onnx_python=python)
    with pytest.raises(UserError, match="--onnx-python=.*/none cannot be started: No such file"):
        export(weights, tmp_path / "out", ["onnx"], onnx_python=str(tmp_path / "none"))
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


@pytest.mark.skipif("EFFICIENTNET_POD_ONNX_PYTHON" not in os.environ, reason="no Python with jax2onnx named")
@pytest.mark.parametrize("network", ["b0", "lite0", "resnet50", "resnet9_whitened"])
def test_onnxruntime_computes_the_same(network, tmp_path):
    python = os.environ["EFFICIENTNET_POD_ONNX_PYTHON"]
    weights = random_weights(network)
    export(weights, tmp_path / "w", ["onnx"], onnx_python=python)  # compares the logits
    program = (
        "import json, sys, onnxruntime as ort; s = ort.InferenceSession(sys.argv[1]);"
        "print(json.dumps([s.get_modelmeta().custom_metadata_map, s.get_inputs()[0].shape]))"
    )
    said = subprocess.run(
        [python, "-c", program, str(tmp_path / "w" / "model.onnx")],
        capture_output=True,
        text=True,
        check=True,
    )
    about, shape = json.loads(said.stdout)
    assert shape == ["batch", 64, 64, 3]
    assert json.loads(about["mean"]) == list(weights.mean_rgb) and about["network"] == network
