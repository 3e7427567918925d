"""What a notebook uses: the documented examples run, and nothing heavy is imported before it is needed."""

import doctest
import os
import subprocess
import sys

import pytest
from given_weights import random_resnet9
from photos import encoded, photo, write_folder
from tiny import build_tiny_networks

import efficientnet_pod
from efficientnet_pod.errors import UserError
from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.weights.folder import write_folder as write_weights
from efficientnet_pod.weights.trained import Trained, untrained


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """weights/b0, cat.jpg and photos/, as the examples have them; a network of one block, small images."""
    build_tiny_networks(monkeypatch)
    monkeypatch.chdir(tmp_path)
    variables = initial_variables(untrained("b0", 3), 32, seed=0)
    trained = Trained("b0", variables, ("cat", "dog", "horse"), 32, origin={"source": "b0.h5"})
    write_weights(trained, tmp_path / "weights" / "b0")
    (tmp_path / "cat.jpg").write_bytes(encoded(photo(0), "JPEG"))
    write_folder(tmp_path / "photos", {"cat": 20, "dog": 20})
    return tmp_path / "weights" / "b0"


@pytest.mark.parametrize("name", [name for name in efficientnet_pod.__all__ if name[0].islower()])
def test_the_examples_run(weights, name):
    found = doctest.DocTestFinder(recurse=False).find(getattr(efficientnet_pod, name), name)
    [example] = [test for test in found if test.examples]
    assert doctest.DocTestRunner().run(example).failed == 0


def test_what_is_trained_says_what_it_sees(weights):
    trained = efficientnet_pod.trained(str(weights))
    assert (trained.title, trained.num_classes, trained.label(2)) == ("EfficientNet-B0", 3, "horse")
    assert (trained.image_size, trained.mean_rgb) == (32, (0.485, 0.456, 0.406))


def test_nothing_there_is_an_error_with_the_remedy(weights):
    with pytest.raises(UserError, match="'weights/b1' does not exist; weights are"):
        efficientnet_pod.load("weights/b1")


def test_importing_it_imports_neither_jax_nor_tensorflow():
    code = (
        "import sys, efficientnet_pod; print([m for m in ('jax', 'flax', 'tensorflow') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_a_notebook_is_told_nothing_but_what_it_asked_for(tmp_path):
    write_weights(random_resnet9(), tmp_path / "weights")
    (tmp_path / "cat.jpg").write_bytes(encoded(photo(0), "JPEG"))
    code = (
        "import jax, efficientnet_pod as ep; predictor = ep.predictor('weights')\n"
        "print(len(predictor('cat.jpg')[0].names))"
    )
    options = {"capture_output": True, "text": True, "check": True, "cwd": tmp_path}
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, **options)
    assert (ended.stdout, ended.stderr) == ("3\n", "")
