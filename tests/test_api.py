"""What a notebook uses: the documented examples run, and nothing heavy is imported before it is needed."""

import doctest
import subprocess
import sys

import pytest

import efficientnet_pod
from efficientnet_pod.errors import UserError
from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.weights.folder import write_folder
from efficientnet_pod.weights.trained import Trained, untrained


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """weights/b0, as the examples have it; small images."""
    monkeypatch.chdir(tmp_path)
    variables = initial_variables(untrained("b0", 3), 32, seed=0)
    write_folder(Trained("b0", variables, ("cat", "dog", "horse"), 32), tmp_path / "weights" / "b0")
    return tmp_path / "weights" / "b0"


def test_the_examples_run(weights):
    found = doctest.DocTestFinder().find(efficientnet_pod, "efficientnet_pod")
    examples = [test for test in found if test.examples]
    assert [test.name for test in examples] == ["efficientnet_pod.load", "efficientnet_pod.predictor"]
    for test in examples:
        assert doctest.DocTestRunner().run(test).failed == 0


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
