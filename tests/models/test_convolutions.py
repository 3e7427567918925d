"""Both convolutions against `lax.conv_general_dilated`: numbers on the CPU, the program on TPU and GPU."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from efficientnet_pod.models import convolutions_cpu
from efficientnet_pod.models.convolutions import conv2d, depthwise_conv2d

CHANNELS = {conv2d: (6, 10), depthwise_conv2d: (1, 6)}


def _reference(x: Array, kernel: Array, *, strides: int, padding="SAME") -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def _operands(convolution, shape: tuple[int, ...], taps: int, dtype=jnp.float32) -> tuple[Array, Array]:
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], shape, dtype)
    return x, jax.random.normal(keys[1], (taps, taps, *CHANNELS[convolution]), dtype)


def _value_and_gradients(convolution, x: Array, kernel: Array, strides: int) -> tuple[Array, Array, Array]:
    """The output, and both gradients for a cotangent that is another one at each output."""
    y, transpose = jax.vjp(partial(convolution, strides=strides), x, kernel)
    # Exact in bfloat16, so that both dtypes see the same one.
    cotangent = jax.random.normal(jax.random.key(1), y.shape, jnp.bfloat16).astype(y.dtype)
    return y, *transpose(cotangent)


def _assert_close(actual: Array, expected: Array, tolerance: float) -> None:
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    actual, expected = (np.asarray(array, np.float64) for array in (actual, expected))
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("convolution", [conv2d, depthwise_conv2d])
@pytest.mark.parametrize("strides", [1, 2])
def test_equals_xla_in_float32(convolution, strides):
    sizes = {1: [(7, 4)], 3: [(1, 1), (7, 4), (8, 9)], 5: [(2, 2), (7, 4), (8, 9)]}
    cases = [_operands(convolution, (6, *size, 6), taps) for taps in sizes for size in sizes[taps]]
    _assert_equals_xla(convolution, cases, strides)


@pytest.mark.parametrize("strides", [1, 2])
def test_depthwise_equals_xla_over_many_blocks(strides, monkeypatch):
    """Small blocks: several of rows, several of images, one of more images than the block sums."""
    monkeypatch.setattr(convolutions_cpu, "_BLOCK_PIXELS", 256)
    shapes = [(8, 12, 10, 6), (24, 4, 4, 6), (5, 13, 1, 6)]
    _assert_equals_xla(depthwise_conv2d, [_operands(depthwise_conv2d, shape, 3) for shape in shapes], strides)


@pytest.mark.parametrize(("convolution", "taps"), [(conv2d, 3), (conv2d, 7), (depthwise_conv2d, 5)])
def test_padding_alike_on_both_sides_equals_xla(convolution, taps):
    cases = [_operands(convolution, (2, *size, 6), taps) for size in [(7, 4), (2, 9)]]

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def both(cases):
        pads = [(taps // 2, taps // 2)] * 2
        ours = partial(convolution, padding="SYMMETRIC")
        theirs = partial(_reference, padding=pads)
        return [
            tuple(_value_and_gradients(function, *case, strides) for function in (ours, theirs))
            for case in cases
            for strides in (1, 2)
        ]

    for ours, xla in both(cases):
        for actual, expected in zip(ours, xla, strict=True):
            _assert_close(actual, expected, 1e-5)


def test_rectangles_and_no_padding_equal_xla():
    """The shapes of AmoebaNet: its stem, the two halves of its 7×7, and a kernel of the size of its input."""
    cases = [
        ((3, 3), (2, 2), "VALID"),
        ((1, 7), (1, 2), "SAME"),
        ((7, 1), (2, 1), "SAME"),
        ((9, 8), 1, "VALID"),
    ]
    x, _ = _operands(conv2d, (2, 9, 8, 6), 1)

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def both(x):
        pairs = []
        for taps, strides, padding in cases:
            kernel = jax.random.normal(jax.random.key(2), (*taps, *CHANNELS[conv2d]))
            steps = (strides, strides) if isinstance(strides, int) else strides
            theirs = partial(
                lax.conv_general_dilated,
                window_strides=steps,
                padding=padding,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            ours = partial(conv2d, strides=strides, padding=padding)
            pairs.append([jax.vjp(function, x, kernel) for function in (ours, theirs)])
        cotangent = partial(jax.random.normal, jax.random.key(1))
        return [[(y, *transpose(cotangent(y.shape))) for y, transpose in pair] for pair in pairs]

    for ours, xla in both(x):
        for actual, expected in zip(ours, xla, strict=True):
            _assert_close(actual, expected, 1e-5)


def _assert_equals_xla(convolution, cases: list[tuple[Array, Array]], strides: int) -> None:
    @jax.jit  # One compilation for all cases.
    def both(cases):
        return [
            tuple(_value_and_gradients(function, *case, strides) for function in (convolution, _reference))
            for case in cases
        ]

    for ours, xla in both(cases):
        for actual, expected in zip(ours, xla, strict=True):
            _assert_close(actual, expected, 1e-5)


@pytest.mark.parametrize("convolution", [conv2d, depthwise_conv2d])
@pytest.mark.parametrize("strides", [1, 2])
def test_bfloat16_is_the_float32_result_rounded_once(convolution, strides):
    x, kernel = _operands(convolution, (4, 9, 8, 6), 3, jnp.bfloat16)

    @jax.jit
    def both(x: Array, kernel: Array):
        in_float32 = (x.astype(jnp.float32), kernel.astype(jnp.float32))
        return (
            _value_and_gradients(convolution, x, kernel, strides),
            _value_and_gradients(_reference, *in_float32, strides),
        )

    for ours, exact in zip(*both(x, kernel), strict=True):
        _assert_close(ours, exact.astype(jnp.bfloat16), 2**-8)


@pytest.mark.parametrize("convolution", [conv2d, depthwise_conv2d])
def test_gradients_over_replicas_equal_one_device(convolution):
    x, kernel = _operands(convolution, (16, 9, 8, 6), 3)
    axes = ("bn_group", "bn_member")
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), axes)

    def loss(x: Array, kernel: Array, mean) -> Array:
        return mean(jnp.sin(convolution(x, kernel, strides=2)).mean())

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(P(axes), P()), out_specs=(P(axes), P()))
    def sharded(x: Array, kernel: Array) -> tuple[Array, Array]:
        return jax.grad(partial(loss, mean=lambda local: lax.pmean(local, axes)), argnums=(0, 1))(x, kernel)

    expected = jax.jit(jax.grad(partial(loss, mean=lambda whole: whole), argnums=(0, 1)))(x, kernel)
    actual = sharded(
        jax.device_put(x, NamedSharding(mesh, P(axes))), jax.device_put(kernel, NamedSharding(mesh, P()))
    )
    for ours, single in zip(actual, expected, strict=True):
        _assert_close(ours, single, 1e-5)


@pytest.mark.parametrize(
    ("convolution", "plain"),
    [
        (conv2d, _reference),
        (depthwise_conv2d, _reference),
        (partial(conv2d, padding="SYMMETRIC"), partial(_reference, padding=((1, 1), (1, 1)))),
        (partial(depthwise_conv2d, padding="SYMMETRIC"), partial(_reference, padding=((1, 1), (1, 1)))),
    ],
)
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_get_the_plain_convolution(convolution, plain, platform):
    x, kernel = _operands(getattr(convolution, "func", convolution), (4, 9, 8, 6), 3)
    ours, plain = (
        _operations(partial(_value_and_gradients, function, strides=2), x, kernel, platform)
        for function in (convolution, plain)
    )
    assert ours == plain
    assert sum("stablehlo.convolution" in line for line in ours) == 3


def _operations(function, x: Array, kernel: Array, platform: str) -> list[str]:
    """The operations on arrays, without value names: what is left of a choice of platform is on scalars."""
    text = jax.jit(function).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    lines = [re.sub(r"%[\w:#]+", "%", line).strip() for line in text.splitlines() if "stablehlo." in line]
    return sorted(line for line in lines if not re.search(r"stablehlo\.(case|return|constant)", line))
