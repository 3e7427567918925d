"""The names of EfficientNet-PyTorch: complete, and those of real weights, whose logits PyTorch computed."""

from pathlib import Path

import jax
import lite0
import numpy as np
import pytest
from same_logits import assert_same_logits

from efficientnet_pod.models.efficientnet import VARIANTS
from efficientnet_pod.models.initial import abstract_variables
from efficientnet_pod.models.registry import create_network
from efficientnet_pod.weights.layouts import LUKEMELAS
from efficientnet_pod.workdir.checkpoints.commit import leaves_of

# Tensors without the counters of batch norm, from state_dict() of both packages' networks.
TENSORS = {"b0": 311, "b1": 439, "b2": 439, "b3": 496, "b4": 610, "b5": 738, "b6": 852, "b7": 1037} | {
    "lite0": 247, "lite1": 322, "lite2": 322, "lite3": 367, "lite4": 457,
}  # fmt: skip


def names(network):
    return LUKEMELAS.names(leaves_of(abstract_variables(create_network(network, num_classes=10), 32)))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variable_has_a_name_of_its_own(name):
    variables = abstract_variables(create_network(name, num_classes=10), 32)
    paths = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]
    }
    found = LUKEMELAS.names(paths)
    assert set(found) == paths
    assert len(set(found.values())) == len(found) == TENSORS[name]


def test_names_of_b0():
    b0 = names("b0")
    assert b0["params/block1a/depthwise_conv/kernel"] == "_blocks.0._depthwise_conv.weight"
    assert b0["batch_stats/block2b/depthwise_bn/var"] == "_blocks.2._bn1.running_var"
    assert b0["params/block2b/expand_bn/scale"] == "_blocks.2._bn0.weight"
    assert b0["params/block7a/se_expand/bias"] == "_blocks.15._se_expand.bias"
    assert b0["params/head_bn/bias"] == "_bn1.bias"


def test_the_file_has_nothing_else():
    others = set(lite0.tensors()) - set(names("lite0").values())
    assert len(others) == 49 and {name.rpartition(".")[2] for name in others} == {"num_batches_tracked"}


def test_logits_of_trained_weights_equal_pytorchs():
    images = np.random.default_rng(0).normal(size=(2, lite0.SIZE, lite0.SIZE, 3)).astype(np.float32)
    with np.load(Path(__file__).parents[1] / "files" / "lite0_logits.npz", allow_pickle=False) as file:
        expected = file["logits"]
    assert_same_logits(lite0.logits(lite0.variables(), images), expected)
