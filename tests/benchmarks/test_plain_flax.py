"""The benchmark's baseline is the same network: same parameters, same logits."""

from functools import partial

import jax
import numpy as np
import pytest

from benchmarks import plain_flax
from benchmarks.plain_flax import SCALINGS, PlainEfficientNet
from efficientnet_pod.models.initial import abstract_variables, initial_variables
from efficientnet_pod.models.registry import create_network

SIZE = 32


def as_plain(variables):
    """Squeeze-excite's dense kernels as those of 1 x 1 convolutions; all else has the same name and shape."""

    def reshape(path, leaf):
        squeeze_excite = path[-2].key.startswith("se_") and path[-1].key == "kernel"
        return leaf[None, None] if squeeze_excite else leaf

    return jax.tree_util.tree_map_with_path(reshape, variables)


@pytest.mark.parametrize("name", SCALINGS)
def test_it_has_the_parameters_of_ours(name):
    scaling = SCALINGS[name]
    ours = create_network(name, num_classes=plain_flax.CLASSES)
    parameters = jax.tree.leaves(abstract_variables(ours, SIZE)["params"])
    # `plain_flax.lower` compares its network with this number.
    assert sum(leaf.size for leaf in parameters) == scaling.parameters
    assert (ours.variant.width, ours.variant.depth) == (scaling.width, scaling.depth)
    assert (ours.variant.image_size, ours.variant.dropout) == (scaling.image_size, scaling.dropout)


def test_its_logits_are_ours():
    ours = create_network("b0", num_classes=plain_flax.CLASSES)
    plain = PlainEfficientNet(SCALINGS["b0"], dtype="float32")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)
    variables = initial_variables(ours, SIZE, seed=0)
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), variables["batch_stats"]
    )
    wanted, found = (
        jax.jit(partial(model.apply, train=False))(weights, images)
        for model, weights in ((ours, variables), (plain, as_plain(variables)))
    )
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found / scale, wanted / scale, rtol=0, atol=1e-5)
