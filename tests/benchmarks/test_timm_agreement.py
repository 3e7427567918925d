"""Names, shapes and logits of timm, which is not here: what benchmarks/timm_agreement.py has kept of it."""

import json

import jax
import numpy as np
import pytest
from same_logits import assert_same_logits
from timm_reference import DATA, images, random_tensors, shapes_of, with_statistics

from efficientnet_pod.errors import UserError
from efficientnet_pod.evaluate.overrides import config_for
from efficientnet_pod.models.initial import abstract_variables
from efficientnet_pod.models.registry import NETWORKS
from efficientnet_pod.weights.export import export
from efficientnet_pod.weights.folder import write_folder
from efficientnet_pod.weights.formats.safetensors_file import read_safetensors, write_safetensors
from efficientnet_pod.weights.open import open_weights
from efficientnet_pod.weights.timm_config import architecture
from efficientnet_pod.weights.trained import Trained, untrained

LARGE = ("b6", "b7", "v2_m", "v2_l")  # seconds each
TWINS = [
    pytest.param(name, marks=pytest.mark.long) if name in LARGE else name
    for name in NETWORKS
    if architecture(name)
]


@pytest.mark.parametrize("network", TWINS)
def test_a_folder_has_exactly_timms_tensors(network, tmp_path):
    shapes = abstract_variables(untrained(network, 1000), 64)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    write_folder(Trained(network, variables, (), 64), tmp_path / "w")
    found = read_safetensors(tmp_path / "w" / "model.safetensors")
    assert {name: array.shape for name, array in found.items()} == shapes_of(network)


@pytest.mark.parametrize(
    "network", ["b0", *(pytest.param(name, marks=pytest.mark.long) for name in ("resnet50", "v2_b0"))]
)
def test_logits_are_those_of_pytorch_and_the_weights_go_back_as_they_came(network, tmp_path):
    kept = np.load(DATA / "timm_logits.npz")
    tensors = with_statistics(random_tensors(shapes_of(network)), kept[f"{network}_statistics"])
    write_safetensors(tmp_path / "timm.safetensors", tensors)
    trained = open_weights(str(tmp_path / "timm.safetensors"))
    assert trained.network == network
    apply = jax.jit(lambda x: trained.model.apply(trained.variables, trained.normalise(x), train=False))
    assert_same_logits(apply(images(64)), kept[f"{network}_logits"])
    _assert_goes_back(trained, tensors, tmp_path)


def test_pytorchs_padding_stays_with_the_weights(tmp_path):
    """timm's efficientnet_b0, whose batch norm has PyTorch's epsilon too."""
    kept = np.load(DATA / "timm_logits.npz")
    tensors = random_tensors(shapes_of("efficientnet_b0"))
    tensors = with_statistics(tensors, kept["efficientnet_b0_statistics"])
    stated = {"input_size": [3, 224, 224], "crop_pct": 0.9}
    (tmp_path / "timm").mkdir()
    write_safetensors(tmp_path / "timm" / "model.safetensors", tensors)
    config = {"architecture": "efficientnet_b0", "pretrained_cfg": stated}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    trained = open_weights(str(tmp_path / "timm"))
    assert (trained.network, trained.padding, trained.bn_epsilon) == ("b0", "symmetric", 1e-5)
    assert_same_logits(jax.jit(trained.logits)(images(64)), kept["efficientnet_b0_logits"])
    _assert_goes_back(trained, tensors, tmp_path)
    written = json.loads((tmp_path / "w" / "config.json").read_text())
    assert written["architecture"] == "efficientnet_b0" and "model_args" not in written
    again = open_weights(str(tmp_path / "w"))
    assert again.settings == trained.settings
    assert config_for(again)["model"]["padding"] == "symmetric"
    with pytest.raises(UserError, match="config.model.padding=symmetric of these weights"):
        export(trained, tmp_path / "keras", ["keras"])
    del written["efficientnet_pod"]  # as timm would write it of the same network
    (tmp_path / "w" / "config.json").write_text(json.dumps(written))
    assert open_weights(str(tmp_path / "w")).settings == trained.settings


def _assert_goes_back(trained, tensors, tmp_path):
    export(trained, tmp_path / "w", ["safetensors"])
    back = read_safetensors(tmp_path / "w" / "model.safetensors")
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (back[name].shape, back[name].tobytes()) == (array.shape, array.tobytes()), name
