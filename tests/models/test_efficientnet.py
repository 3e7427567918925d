"""The network against the published parameter counts, Keras and the table of the paper."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from keras_reference import convert, randomise
from same_logits import assert_same_logits
from tiny import SIZE, tiny_model

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.efficientnet import VARIANTS, block_specs, round_filters
from efficientnet_pod.models.initial import abstract_variables, initial_variables
from efficientnet_pod.models.registry import create_network

PARAMETERS = {
    "b0": 5_288_548,
    "b1": 7_794_184,
    "b2": 9_109_994,
    "b3": 12_233_232,
    "b4": 19_341_616,
    "b5": 30_389_784,
    "b6": 43_040_704,
    "b7": 66_347_960,
    # timm 1.0.31, tf_efficientnet_lite0 … lite4
    "lite0": 4_652_008,
    "lite1": 5_416_680,
    "lite2": 6_092_072,
    "lite3": 8_197_096,
    "lite4": 13_006_568,
    # keras.applications 3.15, trainable; timm's tf_efficientnetv2_b0 … l have as many
    "v2_b0": 7_139_704,
    "v2_b1": 8_141_052,
    "v2_b2": 10_096_086,
    "v2_b3": 14_358_406,
    "v2_s": 21_458_488,
    "v2_m": 54_139_356,
    "v2_l": 118_515_272,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name):
    variables = abstract_variables(create_network(name, num_classes=1000), 64)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[name]
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("b1", "b3", "b4", "b5")]


@pytest.mark.parametrize("name", ["b0", pytest.param("b2", marks=pytest.mark.long), *LONG])
def test_logits_equal_keras(name):
    keras = pytest.importorskip("keras")
    size = VARIANTS[name].image_size
    twin = getattr(keras.applications, f"EfficientNet{name.upper()}")(
        weights=None, input_shape=(size, size, 3), classifier_activation=None
    )
    rng = np.random.default_rng(2)
    pixels = rng.uniform(0, 255, (2, size, size, 3)).astype(np.float32) * np.float32([[[[1]]], [[[0.5]]]])
    randomise(twin, pixels, seed=1)
    model = create_network(name, num_classes=1000)
    variables = convert(twin, abstract_variables(model, 64))
    expected = np.asarray(twin(pixels, training=False))
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, pixels / 255)
    assert_same_logits(logits, expected)


# Small images: a network of one kernel size sees at 96 pixels all that it computes at 384.
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("v2_b0", 96),
        *(pytest.param(name, 96, marks=pytest.mark.long) for name in ("v2_b1", "v2_b2")),
        # At 96 pixels their last statistics are of 36 values: Keras itself moves by 2e-5 for 1e-7 of pixels.
        *(pytest.param(name, 128, marks=pytest.mark.long) for name in ("v2_m", "v2_l")),
        *(pytest.param(name, 101, marks=pytest.mark.long) for name in ("v2_b3", "v2_s")),
    ],
)
def test_logits_of_v2_equal_keras(name, size):
    keras = pytest.importorskip("keras")
    twin = getattr(keras.applications, f"EfficientNetV2{name[3:].upper()}")(
        weights=None,
        input_shape=(size, size, 3),
        include_preprocessing=False,
        classifier_activation=None,
    )
    pixels = np.random.default_rng(2).normal(size=(4, size, size, 3)).astype(np.float32)
    randomise(twin, pixels, seed=1)
    model = create_network(name, num_classes=1000)
    variables = convert(twin, abstract_variables(model, 64))
    expected = np.asarray(twin(pixels, training=False))
    assert_same_logits(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, pixels), expected)


def test_survival_probabilities_fall_linearly():
    b0 = [spec.survival_probability for spec in block_specs(VARIANTS["b0"], 0.8)]
    b5 = [spec.survival_probability for spec in block_specs(VARIANTS["b5"], 0.8)]
    np.testing.assert_allclose(b0, [1 - 0.2 * i / 16 for i in range(16)], atol=1e-12)
    assert (len(b5), round(b5[-1], 4)) == (39, 0.8051)


def test_a_lite_network_keeps_its_ends():
    """Their filters and repeats are those of timm's twins; between the ends both are scaled."""
    blocks = block_specs(VARIANTS["lite4"], 0.8)
    assert [sum(spec.stage == stage for spec in blocks) for stage in range(1, 8)] == [1, 4, 4, 6, 6, 8, 1]
    assert blocks[-1].survival_probability == pytest.approx(1 - 0.2 * 29 / 30)
    variables = abstract_variables(create_network("lite4", num_classes=1000), 64)
    params = jax.tree.map(lambda leaf: leaf.shape, variables["params"])
    assert params["stem_conv"]["kernel"] == (3, 3, 3, 32)
    assert params["block1a"]["project_conv"]["kernel"] == (1, 1, 32, 24)
    assert params["block6h"]["depthwise_conv"]["kernel"] == (5, 5, 1, 6 * 272)
    assert params["block7a"]["project_conv"]["kernel"] == (1, 1, 6 * 272, 448)
    assert params["head_conv"]["kernel"] == (1, 1, 448, 1280)
    assert params["classifier"]["kernel"] == (1280, 1000)
    in_blocks = {module for name, block in params.items() if name.startswith("block") for module in block}
    assert in_blocks == {
        "expand_conv", "expand_bn", "depthwise_conv", "depthwise_bn", "project_conv", "project_bn",
    }  # fmt: skip


def test_filters_of_b5():
    assert [round_filters(f, 1.6) for f in (32, 16, 24, 40, 80, 112, 192, 320, 1280)] == [
        48, 24, 40, 64, 128, 176, 304, 512, 2048,
    ]  # fmt: skip


def test_initial_kernels_have_tensorflows_spread():
    variables = initial_variables(create_network("b0", num_classes=1000), 32, seed=0)
    params = variables["params"]
    for block, name, outputs in [("block7a", "se_reduce", 48), ("block7a", "project_conv", 320)]:
        kernel = params[block][name]["kernel"]
        np.testing.assert_allclose(np.std(kernel), math.sqrt(2 / outputs), rtol=0.02)
    np.testing.assert_allclose(
        np.std(params["block7a"]["depthwise_conv"]["kernel"]), math.sqrt(2 / 9), rtol=0.02
    )
    np.testing.assert_allclose(
        np.std(params["block6b"]["depthwise_conv"]["kernel"]), math.sqrt(2 / 25), rtol=0.02
    )
    np.testing.assert_allclose(np.std(params["stem_conv"]["kernel"]), math.sqrt(2 / (9 * 32)), rtol=0.1)
    limit = 1 / math.sqrt(1000)
    assert 0.99 * limit < np.abs(params["classifier"]["kernel"]).max() <= limit
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(variables["batch_stats"]["stem_bn"]["var"]))


def test_initial_variables_are_those_of_flax_in_shape_and_spread():
    model = tiny_model()
    ours = initial_variables(model, SIZE, seed=0)
    flax = jax.jit(lambda key: model.init(key, jnp.zeros((1, SIZE, SIZE, 3)), train=False))(jax.random.key(0))

    def compare(path, mine, other):
        assert mine.shape == other.shape and mine.dtype == other.dtype, path
        if np.std(other) == 0:
            np.testing.assert_array_equal(mine, other)
        else:
            np.testing.assert_allclose(
                np.std(mine), np.std(other), rtol=8 / math.sqrt(mine.size), err_msg=str(path)
            )

    jax.tree_util.tree_map_with_path(compare, ours, flax)
    again = initial_variables(model, SIZE, seed=0)
    jax.tree.map(np.testing.assert_array_equal, ours, again)
    assert not np.array_equal(
        again["params"]["stem_conv"]["kernel"],
        initial_variables(model, SIZE, seed=1)["params"]["stem_conv"]["kernel"],
    )


def test_bfloat16_reaches_convolutions_only():
    model = create_network("b0", num_classes=10, dtype=jnp.bfloat16)
    variables = abstract_variables(model, 64)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.bfloat16)
    jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, images)
    logits = jaxpr.out_avals[0]
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)


def test_unknown_variant_is_one_line():
    with pytest.raises(UserError, match=r"model\.name='b9'.*known: amoebanet_d, b0, b1"):
        create_network("b9", num_classes=10)
