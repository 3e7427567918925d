"""ResNet-50 against the published number of parameters and a network of Keras's layers."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from keras_reference import randomise
from networks import images, quickly, weights_of
from same_logits import assert_same_logits

from efficientnet_pod.models.initial import abstract_variables, initial_variables
from efficientnet_pod.models.registry import create_network
from efficientnet_pod.models.resnet import STAGES, ResNet
from efficientnet_pod.optim.lars import Lars
from efficientnet_pod.optim.optimizers import treatment
from efficientnet_pod.optim.rmsprop import RmsProp
from efficientnet_pod.optim.sgd import Sgd

SHORT = ((2, 8, 2),)  # a block with strides and a projection, and one with neither


def short_resnet(**options) -> ResNet:
    return create_network("resnet50", num_classes=5, **options).clone(stages=SHORT)


def test_parameter_count():
    variables = abstract_variables(create_network("resnet50", num_classes=1000), 64)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == 25_557_032
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def keras_resnet50(size: int):
    """ResNet-50 v1.5 of Keras's layers, padded explicitly, named as ours."""
    from keras import Input, Model, layers

    def conv(x, filters, kernel_size, strides, name):
        x = layers.ZeroPadding2D(kernel_size // 2)(x) if kernel_size > 1 else x
        return layers.Conv2D(filters, kernel_size, strides, use_bias=False, name=f"{name}_conv")(x)

    def conv_bn(x, filters, kernel_size, strides, name):
        x = conv(x, filters, kernel_size, strides, name)
        return layers.BatchNormalization(epsilon=1e-5, name=f"{name}_bn")(x)

    inputs = Input((size, size, 3))
    x = layers.ReLU()(conv_bn(inputs, 64, 7, 2, "stem"))
    # Zeros are as good as nothing here: all values are above 0.
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for number, (blocks, filters, first_strides) in enumerate(STAGES, start=1):
        for i in range(blocks):
            name, strides = f"block{number}{'abcdef'[i]}", first_strides if i == 0 else 1
            y = layers.ReLU()(conv_bn(x, filters, 1, 1, f"{name}_reduce"))
            y = layers.ReLU()(conv_bn(y, filters, 3, strides, f"{name}_spatial"))
            y = conv_bn(y, 4 * filters, 1, 1, f"{name}_expand")
            shortcut = conv_bn(x, 4 * filters, 1, strides, f"{name}_shortcut") if i == 0 else x
            x = layers.ReLU()(layers.Add()([shortcut, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return Model(inputs, layers.Dense(1000, name="classifier")(x))


def test_logits_equal_keras():
    pytest.importorskip("keras")
    size = 64
    # Of two images the last stages' statistics would be of 8 values: images that differ in the last bit alone
    # then have logits 2e-4 apart. Of eight images it is 5e-5.
    twin, pixels = keras_resnet50(size), images(8, size)
    pixels[1] *= 0.5
    randomise(twin, pixels, seed=1)
    pixels = pixels[:2]
    model = create_network("resnet50", num_classes=1000)
    variables = weights_of(twin, abstract_variables(model, size))
    expected = np.asarray(twin(pixels, training=False))
    logits = quickly(lambda v, x: model.apply(v, x, train=False))(variables, pixels)
    assert_same_logits(logits, expected)


def test_initial_weights_are_those_of_flax_and_as_published():
    model = short_resnet(settings={"zero_init_residual": True})
    ours = initial_variables(model, 32, seed=0)
    key = jax.random.key(0, impl="rbg")  # compiles in a tenth of the time
    flax = quickly(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False))(key)

    def compare(path, mine, other):
        assert mine.shape == other.shape and mine.dtype == other.dtype, path
        tolerance = 8 / math.sqrt(mine.size) if np.std(other) else 0
        np.testing.assert_allclose(np.std(mine), np.std(other), rtol=tolerance, err_msg=str(path))
        np.testing.assert_allclose(np.mean(mine), np.mean(other), atol=0.1, err_msg=str(path))

    jax.tree_util.tree_map_with_path(compare, ours, flax)
    params = ours["params"]
    np.testing.assert_allclose(np.std(params["stem_conv"]["kernel"]), math.sqrt(2 / (49 * 64)), rtol=0.05)
    np.testing.assert_allclose(np.std(params["classifier"]["kernel"]), 0.01, rtol=0.2)
    assert not np.any(params["block1b"]["expand_bn"]["scale"])
    assert np.all(params["block1b"]["spatial_bn"]["scale"] == 1)


def test_a_zero_scale_leaves_the_residual_branch_out():
    model = short_resnet(settings={"zero_init_residual": True})
    variables, x = initial_variables(model, 32, seed=0), images()

    @quickly
    def logits(variables):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    other = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 3 if "spatial_conv" in str(path) else leaf, variables
    )
    np.testing.assert_array_equal(logits(variables), logits(other))
    ones = initial_variables(short_resnet(), 32, seed=0)
    assert np.abs(np.asarray(logits(ones)) - logits(variables)).max() > 1e-3


def loss(params, model, variables, x):
    variables = {**variables, "params": params}
    logits, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(x)) % 5))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_are_finite_and_reach_every_tensor(dtype):
    model = short_resnet(dtype=dtype)
    variables = initial_variables(model, 32, seed=0)
    grad = quickly(partial(jax.grad(loss), model=model, variables=variables))
    for path, leaf in jax.tree_util.tree_flatten_with_path(grad(variables["params"], x=images()))[0]:
        assert leaf.dtype == jnp.float32
        assert np.all(np.isfinite(leaf)) and np.any(leaf), path


def test_only_kernels_and_the_classifiers_bias_are_decayed():
    params = abstract_variables(create_network("resnet50", num_classes=1000), 64)["params"]
    for hyper, bias in ((Sgd(), True), (RmsProp(), True), (Lars(0.236), False)):
        decayed = {each.path: each.decayed for each in treatment(hyper, params)}
        assert not any(flag for path, flag in decayed.items() if "bn/" in path)
        assert all(flag for path, flag in decayed.items() if path.endswith("kernel"))
        assert decayed["classifier/bias"] == bias
    assert all(each.decayed for each in treatment(Sgd(l2_everywhere=True), params))
