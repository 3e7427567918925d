"""The networks of cifar10-fast against counts by hand and Keras's layers; whitening, CELU and ghosts."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from keras_reference import randomise
from networks import images, quickly, weights_of
from same_logits import assert_same_logits

from efficientnet_pod.models.batch_norm import BatchNorm
from efficientnet_pod.models.cifar_resnet import ResNet9
from efficientnet_pod.models.initial import abstract_variables, initial_variables
from efficientnet_pod.models.registry import create_network
from efficientnet_pod.models.whitening import Whitening, whitened, whitening_kernel
from efficientnet_pod.optim.lars import Lars
from efficientnet_pod.optim.optimizers import treatment
from efficientnet_pod.optim.rmsprop import RmsProp
from efficientnet_pod.optim.sgd import Sgd
from efficientnet_pod.pod.mesh import BN_MEMBER, REPLICAS, create_mesh


def cifar_network(name, *, num_classes=10, dtype=jnp.float32, bn_axis=None, **settings):
    return create_network(name, num_classes=num_classes, dtype=dtype, bn_axis=bn_axis, settings=settings)


resnet18_cifar = partial(cifar_network, "resnet18_cifar")
resnet9 = partial(cifar_network, "resnet9")
resnet9_whitened = partial(cifar_network, "resnet9_whitened")
FROZEN = partial(resnet9_whitened, bn_scale=0.125)


def count(model):
    leaves = jax.tree_util.tree_flatten_with_path(abstract_variables(model, 32)["params"])[0]
    sizes = {"/".join(key.key for key in path): math.prod(leaf.shape) for path, leaf in leaves}
    fixed = sum(size for name, size in sizes.items() if name.endswith("fixed_kernel"))
    return sum(sizes.values()) - fixed, fixed


def test_parameter_counts_by_hand():
    """Sums of 9 · inputs · outputs, two for each channel that batch norm has, and the classifier."""
    pairs = [(3, 64), (64, 128), (128, 128), (128, 128), (128, 256), (256, 512), (512, 512), (512, 512)]
    convolutions = 9 * sum(a * b for a, b in pairs)
    channels = sum(b for _, b in pairs)
    assert count(resnet9(num_classes=10)) == (convolutions + 2 * channels + 5120, 0)
    assert convolutions + 2 * channels + 5120 == 6_573_120
    # 27 inputs to 64 channels in a 1x1 convolution are as many as 3 in a 3x3; biases alone are trained.
    assert count(FROZEN(num_classes=10)) == (convolutions + channels + 5120, 27 * 27)

    blocks = [(64, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 256)]
    projected = [(64, 128), (128, 256), (256, 256)]
    total = 27 * 64 + sum(9 * (a * b + b * b) + 2 * (a + b) for a, b in blocks)
    total += sum(a * b for a, b in projected) + 512 * 10 + 10
    assert count(resnet18_cifar(num_classes=10)) == (total, 0) == (5_205_834, 0)


def keras_layers():
    from keras import layers

    def conv(x, filters, name, size=3, strides=1):
        x = layers.ZeroPadding2D(1)(x) if size == 3 else x
        return layers.Conv2D(filters, size, strides, use_bias=False, name=name)(x)

    return layers, conv, lambda x, name: layers.BatchNormalization(epsilon=1e-5, name=name)(x)


def keras_resnet9(width: int):
    from keras import Input, Model

    layers, conv, norm = keras_layers()

    def block(x, filters, name, pool=False):
        x = layers.ReLU()(norm(conv(x, filters, f"{name}_conv"), f"{name}_bn"))
        return layers.MaxPooling2D(2)(x) if pool else x

    inputs = Input((32, 32, 3))
    x = block(inputs, width, "stem_1")
    for number, times in ((1, 2), (2, 4), (3, 8)):
        x = block(x, times * width, f"block{number}", pool=True)
        if number != 2:
            y = block(x, times * width, f"block{number}_residual1")
            x = layers.Add()([x, block(y, times * width, f"block{number}_residual2")])
    x = layers.Flatten()(layers.MaxPooling2D(4)(x))
    x = layers.Dense(10, use_bias=False, name="classifier")(x)
    return Model(inputs, layers.Rescaling(0.125)(x))


def keras_resnet18(width: int):
    from keras import Input, Model

    layers, conv, norm = keras_layers()
    inputs = Input((32, 32, 3))
    x = conv(inputs, width, "stem_conv")
    for number, (times, strides) in enumerate(((1, 1), (2, 2), (4, 2), (4, 2)), start=1):
        for letter, step in (("a", strides), ("b", 1)):
            name, filters = f"block{number}{letter}", times * width
            changes = step != 1 or x.shape[-1] != filters
            x = layers.ReLU()(norm(x, f"{name}_first_bn"))
            y = conv(x, filters, f"{name}_first_conv", strides=step)
            y = layers.ReLU()(norm(y, f"{name}_second_bn"))
            y = conv(y, filters, f"{name}_second_conv")
            x = conv(x, filters, f"{name}_shortcut_conv", 1, step) if changes else x
            x = layers.Add()([x, y])
    both = [layers.GlobalMaxPooling2D()(x), layers.GlobalAveragePooling2D()(x)]
    return Model(inputs, layers.Dense(10, name="classifier")(layers.Concatenate()(both)))


@pytest.mark.parametrize(
    ("create", "create_twin"), [(resnet9, keras_resnet9), (resnet18_cifar, keras_resnet18)]
)
def test_logits_equal_keras(create, create_twin):
    pytest.importorskip("keras")
    twin, pixels = create_twin(8), images(2)
    pixels[1] *= 0.5
    randomise(twin, pixels, seed=1)
    model = create(num_classes=10).clone(width=8)
    variables = weights_of(twin, abstract_variables(model, 32))
    expected = np.asarray(twin(pixels, training=False))
    logits = quickly(lambda v, x: model.apply(v, x, train=False))(variables, pixels)
    assert_same_logits(logits, expected)


@pytest.mark.parametrize("create", [resnet18_cifar, resnet9, FROZEN, resnet9_whitened])
def test_initial_weights_are_those_of_flax(create):
    model = create(num_classes=10).clone(width=16)
    ours = initial_variables(model, 32, seed=0)
    key = jax.random.key(0, impl="rbg")  # compiles in a tenth of the time
    flax = quickly(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False))(key)

    def compare(path, mine, other):
        assert mine.shape == other.shape and mine.dtype == other.dtype, path
        if not np.std(other) or path[-1].key == "fixed_kernel":
            return np.testing.assert_array_equal(mine, other, err_msg=str(path))
        # Uniform distributions, by their bound: the largest of n values is some 2/n of it below.
        near = 40 / mine.size
        np.testing.assert_allclose(np.max(mine), np.max(other), rtol=near, err_msg=str(path))
        return np.testing.assert_allclose(np.std(mine), np.std(other), rtol=8 / math.sqrt(mine.size))

    jax.tree_util.tree_map_with_path(compare, ours, flax)
    if create is resnet18_cifar:
        scale, bias = ours["params"]["block4b"]["first_bn"]["scale"], ours["params"]["classifier"]["bias"]
        assert 0 <= scale.min() < 0.2 < 0.8 < scale.max() < 1
        assert 0 < np.abs(bias).max() <= 1 / math.sqrt(2 * 4 * 16)


# --- whitening -------------------------------------------------------------------------------------------


def correlated(number=300, size=8):
    """Images whose neighbouring pixels and colours are alike, of unit variance."""
    noise = np.random.default_rng(0).normal(size=(number, size + 2, size + 2, 3))
    mixed = noise @ np.array([[1, 0.8, 0.6], [0, 0.6, 0.5], [0, 0, 0.6]])
    smooth = sum(mixed[:, i : i + size, j : j + size] for i in range(3) for j in range(3))
    return (smooth / smooth.std()).astype(np.float32)


def test_whitening_decorrelates_patches_by_falling_variance():
    x = correlated()
    kernel = whitening_kernel(x, epsilon=1e-9)
    assert kernel.shape == (3, 3, 3, 27) and kernel.dtype == np.float32
    variables = {"params": {"fixed_kernel": kernel}}
    outputs = np.asarray(Whitening().apply(variables, x), np.float64)[:, 1:-1, 1:-1].reshape(-1, 27)
    np.testing.assert_allclose(outputs.T @ outputs / len(outputs), np.eye(27), atol=1e-2)

    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    assert patches.shape[3:] == (3, 3, 3)  # channel, row, column
    one = np.einsum("crk,rkco->o", patches[5, 2, 3], kernel)
    np.testing.assert_allclose(one, outputs.reshape(-1, 6, 6, 27)[5, 2, 3], atol=1e-3)
    regularised = np.linalg.norm(whitening_kernel(x, epsilon=0.1).reshape(27, 27), axis=0)
    plain = np.linalg.norm(kernel.reshape(27, 27), axis=0)
    np.testing.assert_allclose(regularised**-2.0 - plain**-2.0, 0.1, rtol=1e-3)
    assert np.all(np.diff(plain) >= -1e-6)  # eigenvalues fall


def test_the_whitening_kernel_has_its_place_in_one_network():
    model = FROZEN(num_classes=10).clone(width=8)
    variables = initial_variables(model, 8, seed=0)
    x = correlated()
    placed = whitened(variables, x)["params"]["stem_0_whitening"]["fixed_kernel"]
    np.testing.assert_array_equal(placed, whitening_kernel(x, 1e-2))
    with pytest.raises(ValueError, match="0 whitening layers"):
        whitened(initial_variables(resnet9(num_classes=10).clone(width=8), 8, seed=0), x)


@pytest.fixture(scope="module")
def first_gradient():
    """Returns a whitened network's parameters and their gradient."""
    model = FROZEN(num_classes=10).clone(width=4)
    variables = whitened(initial_variables(model, 8, seed=0), correlated())
    gradient = quickly(jax.grad(partial(loss, model=model, variables=variables)))
    return variables["params"], gradient(variables["params"], x=correlated(4))


@pytest.mark.parametrize(
    "hyper", [Sgd(l2=0.1, l2_everywhere=True), RmsProp(l2=0.1), Lars(1.0, weight_decay=0.1)]
)
def test_no_optimizer_changes_the_whitening_kernel(hyper, first_gradient):
    params, gradient = first_gradient
    optimizer = hyper.transformation(lambda step: jnp.float32(0.1), params)

    def step(params, state):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    trained, _ = quickly(lambda params: step(*step(params, optimizer.init(params))))(params)
    for path, after in jax.tree_util.tree_flatten_with_path(trained)[0]:
        before = params
        for key in path:
            before = before[key.key]
        is_fixed = path[-1].key == "fixed_kernel"
        assert np.array_equal(before, after) == is_fixed, path
        assert np.all(np.isfinite(after))
    fixed = [each for each in treatment(hyper, params) if each.path.endswith("fixed_kernel")]
    assert [(each.decayed, each.adapted) for each in fixed] == [(False, False)]


# --- activation and scales -------------------------------------------------------------------------------


def loss(params, model, variables, x):
    variables = {**variables, "params": params}
    logits, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(x)) % 10))


def test_celu():
    activation = resnet9_whitened(num_classes=10).activation
    x = np.array([-1.0, -0.1, 0.0, 0.1, 2.0], np.float32)
    expected = np.where(x > 0, x, 0.075 * np.expm1(x / 0.075))
    np.testing.assert_allclose(activation(jnp.asarray(x)), expected, rtol=1e-6)
    quarter = resnet9_whitened(num_classes=10, bn_scale=0.25)
    np.testing.assert_allclose(quarter.activation(jnp.asarray(x)), expected, rtol=1e-6)
    assert (quarter.logit_scale, FROZEN(num_classes=10).logit_scale) == (0.25, 0.5)


def test_frozen_scales_are_the_sources_with_faster_biases():
    """One step of gradient descent equals the one of scale 1, with biases that learn 1/scale² as fast."""
    scale, lr, pixels = 0.125, 0.1, jnp.asarray(correlated(16))
    here, source = (
        resnet9_whitened(num_classes=10, bn_scale=s, bn_epsilon=1e-12).clone(width=4) for s in (scale, 1.0)
    )
    variables = initial_variables(here, 8, seed=0)

    def is_bias(path):
        return path[-1].key == "bias"

    def scaled(params, factor):
        return jax.tree_util.tree_map_with_path(lambda p, w: w * factor if is_bias(p) else w, params)

    params = jax.tree_util.tree_map_with_path(
        lambda path, w: np.linspace(-0.1, 0.1, w.size, dtype=np.float32) if is_bias(path) else w,
        variables["params"],
    )
    ours = quickly(jax.value_and_grad(partial(loss, model=here, variables=variables, x=pixels)))
    theirs = quickly(jax.value_and_grad(partial(loss, model=source, variables=variables, x=pixels)))
    (a, gradient), (b, gradient_1) = ours(params), theirs(scaled(params, 1 / scale))
    np.testing.assert_allclose(a, b, rtol=1e-4)
    after = scaled(jax.tree.map(lambda w, g: w - lr * g, params, gradient), 1 / scale)
    expected = jax.tree.map(
        lambda w, g: w - lr * g, scaled(params, 1 / scale), scaled(gradient_1, 1 / scale**2)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), after, expected)


@pytest.mark.parametrize(
    ("create", "dtype"),
    [
        (resnet18_cifar, jnp.float32),
        (resnet18_cifar, jnp.bfloat16),
        (resnet9, jnp.float32),
        (FROZEN, jnp.bfloat16),
    ],
)
def test_gradients_are_finite_and_reach_every_trained_tensor(create, dtype):
    model = create(num_classes=10, dtype=dtype, ghost_batch=4).clone(width=4)
    variables = initial_variables(model, 16, seed=0)
    grad = quickly(partial(jax.grad(loss), model=model, variables=variables))
    for path, leaf in jax.tree_util.tree_flatten_with_path(grad(variables["params"], x=images(8, 16)))[0]:
        assert leaf.dtype == jnp.float32 and np.all(np.isfinite(leaf))
        assert np.any(leaf) == (path[-1].key != "fixed_kernel"), path


# --- ghosts ----------------------------------------------------------------------------------------------


def norm_in_training(x, **options):
    norm = BatchNorm(axis_name=None, momentum=0.9, epsilon=1e-5, **options)
    variables = {
        "params": {"scale": jnp.linspace(0.5, 1.5, x.shape[-1]), "bias": jnp.linspace(-1, 1, x.shape[-1])},
        "batch_stats": {"mean": jnp.zeros(x.shape[-1]), "var": jnp.ones(x.shape[-1])},
    }
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    return np.asarray(y), updated["batch_stats"]


def test_ghosts_are_batch_norm_of_the_parts():
    x = np.random.default_rng(0).normal(size=(12, 3, 3, 5)).astype(np.float32)
    x *= np.arange(1, 13, dtype=np.float32).reshape(-1, 1, 1, 1)
    y, stats = norm_in_training(x, ghost_batch=4)
    parts = [norm_in_training(x[i : i + 4]) for i in (0, 4, 8)]
    np.testing.assert_allclose(y, np.concatenate([part for part, _ in parts]), rtol=1e-5, atol=1e-6)
    for name in ("mean", "var"):
        expected = np.mean([part[name] for _, part in parts], axis=0)
        np.testing.assert_allclose(stats[name], expected, rtol=1e-5, atol=1e-6)
    whole, _ = norm_in_training(x)
    assert np.abs(y - whole).max() > 0.1
    np.testing.assert_array_equal(norm_in_training(x, ghost_batch=12)[0].round(4), whole.round(4))


def test_ghosts_of_replicas_are_those_of_one_device():
    x = np.random.default_rng(0).normal(size=(16, 16, 16, 3)).astype(np.float32)

    def network(bn_axis) -> ResNet9:
        return resnet9(num_classes=10, bn_axis=bn_axis, ghost_batch=2).clone(width=4)

    variables = initial_variables(network(None), 16, seed=0)

    def apply(variables, x, bn_axis):
        return network(bn_axis).apply(variables, x, train=True, mutable=["batch_stats"])

    def on_replica(variables, x):
        logits, updated = apply(variables, x, BN_MEMBER)
        return logits, jax.lax.pmean(updated, "bn_group")

    mesh = create_mesh(jax.devices()[:4], 1)
    sharded = jax.shard_map(on_replica, mesh=mesh, in_specs=(P(), P(REPLICAS)), out_specs=(P(REPLICAS), P()))
    for a, b in zip(
        jax.tree.leaves(quickly(sharded)(variables, x)),
        jax.tree.leaves(quickly(partial(apply, bn_axis=None))(variables, x)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
