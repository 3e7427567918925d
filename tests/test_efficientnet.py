"""The network against the published parameter counts, Keras and the table of the paper."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from keras_reference import convert, randomise

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.efficientnet import VARIANTS, block_specs, efficientnet, round_filters

PARAMETERS = {
    "b0": 5_288_548,
    "b1": 7_794_184,
    "b2": 9_109_994,
    "b3": 12_233_232,
    "b4": 19_341_616,
    "b5": 30_389_784,
    "b6": 43_040_704,
    "b7": 66_347_960,
}


def abstract_variables(model, image_size=64):
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), images)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name):
    variables = abstract_variables(efficientnet(name, num_classes=1000))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[name]
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["b0", "b1", "b2", "b3", "b4", "b5"])
def test_logits_equal_keras(name, record_property):
    keras = pytest.importorskip("keras")
    size = VARIANTS[name].image_size
    twin = getattr(keras.applications, f"EfficientNet{name.upper()}")(
        weights=None, input_shape=(size, size, 3), classifier_activation=None
    )
    randomise(twin, seed=1)
    model = efficientnet(name, num_classes=1000)
    variables = convert(twin, abstract_variables(model))
    pixels = np.random.default_rng(2).uniform(0, 255, (1, size, size, 3)).astype(np.float32)
    expected = np.asarray(twin(pixels, training=False))
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, pixels / 255)
    scale = np.abs(expected).max()
    difference = float(np.abs(np.asarray(logits) - expected).max() / scale)
    print(f"{name} at {size} px: largest difference {difference:.1e} of the largest logit {scale:.3g}")
    assert scale > 0.1  # random weights that let nothing through would agree trivially
    assert difference <= 1e-4


def test_survival_probabilities_fall_linearly():
    b0 = [spec.survival_probability for spec in block_specs(VARIANTS["b0"], 0.8)]
    b5 = [spec.survival_probability for spec in block_specs(VARIANTS["b5"], 0.8)]
    np.testing.assert_allclose(b0, [1 - 0.2 * i / 16 for i in range(16)], atol=1e-12)
    assert (len(b5), round(b5[-1], 4)) == (39, 0.8051)


def test_filters_of_b5():
    assert [round_filters(f, 1.6) for f in (32, 16, 24, 40, 80, 112, 192, 320, 1280)] == [
        48, 24, 40, 64, 128, 176, 304, 512, 2048,
    ]  # fmt: skip


def test_initial_kernels_have_tensorflows_spread():
    model = efficientnet("b0", num_classes=1000)
    images = jnp.zeros((1, 32, 32, 3))
    params = jax.jit(lambda k: model.init(k, images, train=False))(jax.random.key(0))["params"]
    depthwise = params["block7a"]["depthwise_conv"]["kernel"]
    np.testing.assert_allclose(np.std(depthwise), math.sqrt(2 / 9), rtol=0.05)
    np.testing.assert_allclose(np.std(params["head_conv"]["kernel"]), math.sqrt(2 / 1280), rtol=0.02)
    reduce = params["block7a"]["se_reduce"]["kernel"]
    np.testing.assert_allclose(np.std(reduce), math.sqrt(2 / reduce.shape[1]), rtol=0.05)
    assert np.abs(params["classifier"]["kernel"]).max() == pytest.approx(1 / math.sqrt(1000), rel=1e-3)


def test_bfloat16_reaches_convolutions_only():
    model = efficientnet("b0", num_classes=10, dtype=jnp.bfloat16)
    variables = abstract_variables(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.bfloat16)
    jaxpr = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, images)
    logits = jaxpr.out_avals[0]
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)


def test_unknown_variant_is_one_line():
    with pytest.raises(UserError, match=r"model\.name='b9'.*did you mean 'b"):
        efficientnet("b9", num_classes=10)
