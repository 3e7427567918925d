"""Batch norm inside the kernels: the same logits, of every kind of network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import quickly
from tiny import KINDS, tiny_form

from efficientnet_pod.models.folding import folded
from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.models.registry import NETWORKS, create_network
from efficientnet_pod.workdir.checkpoints.commit import leaves_of

# Behind a sum, a pool or several convolutions.
LEFT = {
    "resnet18_cifar": {f"block{number}{place}/first_bn" for number in range(1, 5) for place in "ab"}
    - {"block1a/first_bn"},
    "resnet9_whitened": {f"block{number}/bn" for number in (1, 2, 3)},
    "amoebanet_d": {f"{block}/before/bn" for block in ("block0b", "block1a", "block2b", "block3b")},
}


def noisy(model, size):
    """Variables of which no two are alike, with scales of both signs."""
    rng = np.random.default_rng(0)

    def draw(path, array):
        name = path[-1].key
        noise = rng.normal(0, 0.5, array.shape)
        return np.float32(rng.uniform(0.2, 3, array.shape) if name == "var" else array + noise)

    return jax.tree_util.tree_map_with_path(draw, initial_variables(model, size, seed=0))


@pytest.mark.parametrize("name", KINDS)
def test_logits_are_the_same_but_for_rounding(name):
    size = max(64 if "cifar" not in name else 32, NETWORKS[name].least_size)
    model = tiny_form(create_network(name, num_classes=7))
    variables = noisy(model, size)
    other, fewer = folded(model, variables, size)

    @quickly
    def both(variables, fewer, images):
        pair = (model.apply(variables, images, train=False), other.apply(fewer, images, train=False))
        return jnp.stack(pair)

    images = np.random.default_rng(1).normal(size=(3, size, size, 3)).astype(np.float32)
    expected, found = np.asarray(both(variables, fewer, images))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert np.std(expected, axis=0).max() > 1e-3 * np.abs(expected).max()  # the images matter
    left = {path.rpartition("/")[0] for path in leaves_of(fewer["batch_stats"])}
    assert left == LEFT.get(name, set())
    scaled = [path for path in leaves_of(fewer["params"]) if path.endswith("/scale")]
    assert {path.removesuffix("/scale") for path in scaled} <= left


def test_a_kernel_is_multiplied_once_and_given_variables_stay():
    model = tiny_form(create_network("b0", num_classes=3, settings={"bn_epsilon": 0.5}))
    variables = noisy(model, 32)
    kept = jax.tree.map(np.copy, variables)
    _, fewer = folded(model, variables, 32)
    jax.tree.map(np.testing.assert_array_equal, variables, kept)
    norm, statistics = variables["params"]["stem_bn"], variables["batch_stats"]["stem_bn"]
    multiplier = norm["scale"].astype(np.float64) / np.sqrt(statistics["var"].astype(np.float64) + 0.5)
    kernel = np.float32(variables["params"]["stem_conv"]["kernel"] * multiplier)
    np.testing.assert_array_equal(fewer["params"]["stem_conv"]["kernel"], kernel)
    bias = np.float32(norm["bias"] - statistics["mean"] * multiplier)
    np.testing.assert_array_equal(fewer["params"]["stem_bn"]["bias"], bias)
    assert fewer["batch_stats"] == {}
