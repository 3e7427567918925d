"""Names, shapes and logits of timm, which is not here: what benchmarks/timm_agreement.py has kept of it."""

import jax
import numpy as np
import pytest
from same_logits import assert_same_logits
from timm_reference import DATA, images, random_tensors, shapes_of, with_statistics

from efficientnet_pod.models.initial import abstract_variables
from efficientnet_pod.models.registry import NETWORKS
from efficientnet_pod.weights.export import export
from efficientnet_pod.weights.folder import architecture, write_folder
from efficientnet_pod.weights.formats.safetensors_file import read_safetensors, write_safetensors
from efficientnet_pod.weights.open import open_weights
from efficientnet_pod.weights.trained import Trained, untrained

TWINS = [name for name in NETWORKS if architecture(name)]


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
    export(trained, tmp_path / "w", ["safetensors"])
    back = read_safetensors(tmp_path / "w" / "model.safetensors")
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (back[name].shape, back[name].tobytes()) == (array.shape, array.tobytes()), name
