"""Swish against float64 formulas: numbers on the CPU, the program on TPU and GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from efficientnet_pod.models.layers import swish

LEVELS = np.concatenate([[0.0], np.logspace(-40, 2, 300), -np.logspace(-40, 2, 300), [-80.0, 3e38, -3e38]])


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 3e-7), (jnp.bfloat16, 8e-3)])
def test_value_and_gradient(dtype, tolerance):
    x = jnp.asarray(LEVELS, dtype)
    y, transpose = jax.vjp(swish, x)
    (dx,) = transpose(jnp.full_like(x, 3))
    exact = np.asarray(x, np.float64)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-exact))
    assert y.dtype == dx.dtype == dtype
    np.testing.assert_allclose(np.asarray(y, np.float64), exact * sigmoid, rtol=tolerance, atol=1e-37)
    slope = 3 * sigmoid * (1 + exact * (1 - sigmoid))
    np.testing.assert_allclose(np.asarray(dx, np.float64), slope, rtol=tolerance, atol=3 * tolerance)


def test_nothing_but_its_input_is_kept():
    def kept(activation):
        def loss(x, scales):
            for scale in scales:
                x = activation(x * scale[None]) @ jnp.ones((256, 256))
            return x.sum()

        shapes = jax.ShapeDtypeStruct((4096, 256), jnp.float32), jax.ShapeDtypeStruct((6, 256), jnp.float32)
        return jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert kept(swish) < 0.8 * kept(nn.swish)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_other_platforms_have_the_operation_as_it_is(platform):
    def lowered(activation, platform=platform):
        gradient = jax.jit(jax.grad(lambda x: activation(x).sum()))
        return gradient.trace(jnp.ones(3)).lower(lowering_platforms=(platform,)).as_text()

    def functions(text):
        return text.split("func.func private")[1:]

    power = "-1.44269"
    assert power in lowered(swish, "cpu") and power not in lowered(swish)
    assert functions(lowered(swish)) == functions(lowered(nn.swish)) != []
