"""Images side by side: the same network, seen through arrays of another shape."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tiny import CLASSES, VARIANT, batch, tiny_model

from efficientnet_pod.models.efficientnet import STAGES, Stage
from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.models.packing import (
    block_diagonal,
    conv_of_row_pairs,
    images_side_by_side,
    repack,
    rows_in_pairs,
)


def images(batch, size, channels, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, size, size, channels)).astype(np.float32)


@pytest.mark.parametrize("pack", [2, 4, 8])
def test_the_images_of_a_row_lie_rows_apart_and_have_a_run_of_channels_each(pack):
    x = images(16, 3, 5)
    packed = np.asarray(repack(jnp.asarray(x), 1, pack))
    assert packed.shape == (16 // pack, 3, 3, 5 * pack)
    for i in range(16):
        place, row = divmod(i, 16 // pack)
        np.testing.assert_array_equal(packed[row, :, :, 5 * place : 5 * (place + 1)], x[i])


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 4), (4, 1), (8, 2), (2, 8)])
def test_the_way_to_a_packing_does_not_matter(old, new):
    x = jnp.asarray(images(16, 2, 3))
    np.testing.assert_array_equal(repack(repack(x, 1, old), old, new), repack(x, 1, new))


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize(("kernel_size", "strides"), [(1, 1), (3, 2)])
def test_a_block_diagonal_kernel_does_to_each_image_what_the_kernel_does(size, kernel_size, strides):
    x, kernel = jnp.asarray(images(8, size, 3)), jnp.asarray(images(kernel_size, kernel_size, 15, 1))
    kernel = kernel.reshape(kernel_size, kernel_size, 3, -1)

    def convolved(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (strides, strides), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    packed = repack(convolved(repack(x, 1, 4), block_diagonal(kernel, 4)), 4, 1)
    np.testing.assert_allclose(packed, convolved(x, kernel), atol=1e-5)


@pytest.mark.parametrize("pack", [1, 4])
@pytest.mark.parametrize(("padding", "pads"), [("SAME", "SAME"), ("SYMMETRIC", ((1, 1), (1, 1)))])
def test_the_kernel_of_row_pairs_does_what_the_kernel_does(pack, padding, pads):
    x, kernel = jnp.asarray(images(8, 6, 3)), jnp.asarray(images(3, 3, 15, 1))
    plain = lax.conv_general_dilated(x, kernel, (2, 2), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    found = repack(conv_of_row_pairs(rows_in_pairs(x, pack), kernel, pack, padding=padding), pack, 1)
    np.testing.assert_allclose(found, plain, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "pack"), [(1, 1), (8, 1), (16, 2), (24, 1), (32, 4), (48, 2), (64, 8), (128, 8)]
)
def test_eight_rows_are_left_for_the_sublanes(batch, pack):
    assert {images_side_by_side(batch, stage) for stage in range(4)} == {pack}


def test_images_that_would_fill_the_lanes_stay_side_by_side_for_two_more_stages():
    assert [images_side_by_side(128, stage) for stage in range(8)] == [8, 8, 8, 8, 2, 2, 1, 1]
    assert [images_side_by_side(64, stage) for stage in range(3, 8)] == [8, 1, 1, 1, 1]


# Of four stages, so that the last one is met unpacked, or less packed; with an odd size in it.
LEAVES = (*STAGES[:1], Stage(3, 2, 24, 6, 2), Stage(5, 1, 40, 6, 2), Stage(3, 1, 40, 6, 1))
FUSED = (Stage(3, 2, 16, 1, 1, fused=True), Stage(3, 2, 24, 4, 2, fused=True), Stage(3, 2, 40, 4, 2))
STAYS = (*STAGES[:1], Stage(3, 1, 24, 6, 2), Stage(5, 1, 40, 6, 2), Stage(3, 2, 40, 6, 1))


@pytest.mark.parametrize(
    ("stages", "size", "count", "padding"),
    [
        (LEAVES, 36, 32, "same"),
        (STAGES[:1], 33, 32, "same"),
        (STAYS, 18, 128, "same"),
        (FUSED, 34, 32, "symmetric"),
    ],
    ids=["four stages", "odd", "lanes full of images", "fused, symmetric"],
)
def test_a_packed_network_trains_like_the_plain_one(stages, size, count, padding):
    """Logits, running statistics and gradients, with the masks of dropout and stochastic depth."""
    options = {"dropout": 0.2, "survival_probability": 0.5, "bn_axis": None, "padding": padding}
    plain, packed = (tiny_model(**options, packed=packed).clone(stages=stages) for packed in (False, True))
    data = batch(count, size=size)
    x = jnp.asarray(data["image"] / 57)
    variables = initial_variables(plain, size, seed=1)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        jnp.shape, jax.eval_shape(lambda: packed.init(jax.random.key(1), x, train=False))
    )

    @jax.jit
    def step(variables):
        def results(model):
            def loss(params):
                logits, updated = model.apply(
                    variables | {"params": params},
                    x,
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": jax.random.key(2)},
                )
                return jnp.sum(logits * jax.nn.one_hot(data["label"], CLASSES)), (logits, updated)

            return jax.grad(loss, has_aux=True)(variables["params"])

        return results(plain), results(packed), model_in_evaluation(plain), model_in_evaluation(packed)

    def model_in_evaluation(model):
        return model.apply(variables, x, train=False)

    expected, found, expected_logits, found_logits = step(variables)
    np.testing.assert_allclose(found_logits, expected_logits, atol=1e-5)
    for at, (a, b) in zip(
        jax.tree_util.tree_flatten_with_path(expected)[0],
        zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True),
        strict=True,
    ):
        scale = max(float(jnp.max(jnp.abs(a))), 0.05)  # less is rounding
        np.testing.assert_allclose(b, a, atol=2e-4 * scale, err_msg=str(at[0]))


def test_a_packed_lite_network_sees_what_the_plain_one_sees():
    """Logits in training and evaluation, and running statistics.

    Gradients would differ where rounding puts a value on the other side of ReLU6's bends at 0 and 6.
    """
    options = {"dropout": 0.2, "survival_probability": 0.5, "bn_axis": None}
    own = {"stages": LEAVES, "variant": dataclasses.replace(VARIANT, lite=True)}
    plain, packed = (tiny_model(**options, packed=packed).clone(**own) for packed in (False, True))
    x = jnp.asarray(batch(32, size=36)["image"] / 57)
    variables = initial_variables(plain, 36, seed=1)

    @jax.jit
    def results(variables):
        rngs = {"dropout": jax.random.key(2)}
        return [
            (
                model.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs),
                model.apply(variables, x, train=False),
            )
            for model in (plain, packed)
        ]

    expected, found = results(variables)
    assert np.std(expected[0][0]) > 0.1 and np.std(expected[1]) > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=1e-5), expected, found)
