"""The layers of the networks: convolutions, pools, squeeze-excite and stochastic depth."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core.scope import LazyRng
from jax import lax

from efficientnet_pod.models.batch_norm import MOMENTS
from efficientnet_pod.models.converting import is_converting
from efficientnet_pod.models.convolutions import Padding, conv2d, depthwise_conv2d
from efficientnet_pod.models.initial import (
    classifier_kernel,
    conv_kernel,
    depthwise_kernel,
    initializer,
)
from efficientnet_pod.models.packing import block_diagonal, conv_of_row_pairs, repack, rows_in_pairs

conv_init = initializer(conv_kernel)
depthwise_init = initializer(depthwise_kernel)
classifier_init = initializer(classifier_kernel)


class Conv(nn.Module):
    """A dense convolution without a bias.

    Attributes:
      features: output channels of an image.
      kernel_size: height and width of the kernel, or one for both, in pixels.
      strides: step between outputs along height and width, or one for both, in pixels.
      dtype: type of the arithmetic.
      pack: images side by side in the channels, see :mod:`packing`.
      padding: TensorFlow's "SAME"; "SYMMETRIC" on both sides, as PyTorch pads; or "VALID" for none.
      kernel_init: Flax initialiser.
    """

    features: int
    kernel_size: int | tuple[int, int] = 1
    strides: int | tuple[int, int] = 1
    dtype: Any = jnp.float32
    pack: int = 1
    padding: Padding = "SAME"
    kernel_init: Any = conv_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (batch, ⌈height/strides⌉, ⌈width/strides⌉, features) in ``dtype``, less if "VALID"."""
        size = self.kernel_size
        size = (size, size) if isinstance(size, int) else size
        shape = (*size, x.shape[-1] // self.pack, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        kernel, x = block_diagonal(kernel, self.pack), x.astype(self.dtype)
        return conv2d(x, kernel, strides=self.strides, padding=self.padding)


class StemConv(nn.Module):
    """The first convolution, 3×3 with stride 2, which puts the images side by side."""

    features: int
    dtype: Any = jnp.float32
    pack: int = 1
    padding: Padding = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (batch / pack, ⌈height/2⌉, ⌈width/2⌉, pack · features) of images that are still apart."""
        _, height, width, channels = x.shape
        kernel = self.param("kernel", conv_init, (3, 3, channels, self.features), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.pack > 1 and height % 2 == width % 2 == 0:
            return conv_of_row_pairs(rows_in_pairs(x, self.pack), kernel, self.pack, padding=self.padding)
        kernel = block_diagonal(kernel, self.pack)
        return conv2d(repack(x, 1, self.pack), kernel, strides=2, padding=self.padding)


class DepthwiseConv(nn.Module):
    """A convolution of each channel by its own kernel, without a bias."""

    kernel_size: int
    strides: int = 1
    dtype: Any = jnp.float32
    pack: int = 1
    padding: Padding = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (batch, ⌈height/strides⌉, ⌈width/strides⌉, channels) in ``dtype``."""
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1] // self.pack)
        kernel = self.param("kernel", depthwise_init, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), jnp.tile(kernel, self.pack).astype(self.dtype)
        return depthwise_conv2d(x, kernel, strides=self.strides, padding=self.padding)


def stream_of(keys: jax.Array) -> Any:
    """Returns the stream ``dropout`` of a batch, given a key for each of its replicas; see :func:`drawn`."""
    return LazyRng(keys, ()) if len(keys) > 1 else keys[0]


def drawn(module: nn.Module, draw: Callable[[jax.Array, int], jax.Array], images: int) -> jax.Array:
    """Returns what ``draw`` draws, given a key and a number of images, for each image of a module's batch.

    The key follows from the module's place in the stream ``dropout``. A stream with several keys is for a
    batch of as many replicas, one behind the other: each key draws for its replica.
    """
    scope = module.scope
    assert scope is not None
    scope.rng_counters["dropout"] += 1
    stream = LazyRng.create(scope.rngs["dropout"], scope.rng_counters["dropout"])
    if not stream.rng.shape:
        return draw(stream.as_jax_rng(), images)
    keys = jax.vmap(lambda key: LazyRng(key, stream.suffix).as_jax_rng())(stream.rng)
    per_replica = jax.vmap(lambda key: draw(key, images // len(keys)))(keys)
    return per_replica.reshape(images, *per_replica.shape[2:])


class Dropout(nn.Module):
    """Sets features to zero with a probability, and scales the others so that their mean stays.

    Flax's own draws for one replica.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns (batch, features)."""
        if not train or not self.rate:
            return x
        keep = 1.0 - self.rate
        kept = drawn(self, lambda key, n: jax.random.bernoulli(key, keep, (n, *x.shape[1:])), len(x))
        return lax.select(kept, x / keep, jnp.zeros_like(x))


def run_block(block: nn.Module, *inputs: Any, train: bool, recompute: bool) -> jax.Array:
    """Returns what a block makes of its inputs.

    With ``recompute`` the backward pass makes the block's activations anew from its inputs: they are not kept
    until then. The moments of its batch norms are, so that nothing is sent twice.
    """
    if not (train and recompute):
        return block(*inputs, train=train)
    kept = jax.checkpoint_policies.save_only_these_names(MOMENTS)
    again = nn.remat(lambda block, *inputs: block(*inputs, train=True), policy=kept)
    return again(block, *inputs)


def swish(x: jax.Array) -> jax.Array:
    """Returns x · σ(x), elementwise."""
    return nn.swish(x) if is_converting() else _swish(x)


@jax.custom_vjp
def _swish(x: jax.Array) -> jax.Array:
    return nn.swish(x)


def _swish_backward(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    def on_cpu(x: jax.Array, dy: jax.Array) -> jax.Array:
        # XLA would keep the forward pass's σ until now, an array of the size of x, which takes longer than
        # to compute it anew. It recognises what is written in the same way: hence a power of two.
        full = x.astype(jnp.float32)
        sigmoid = 1 / (1 + jnp.exp2(-math.log2(math.e) * full))
        slope = sigmoid * (1 + full * (1 - sigmoid))
        return (dy.astype(jnp.float32) * slope).astype(x.dtype)

    def xla(x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(nn.swish, x)[1](dy)[0]

    return (lax.platform_dependent(x, dy, cpu=on_cpu, default=xla),)


_swish.defvjp(lambda x: (nn.swish(x), x), _swish_backward)


def max_pool(x: jax.Array, size: int, *, strides: int = 2, padding: int | Literal["SAME"] = 0) -> jax.Array:
    """Returns the largest values of windows of ``size`` × ``size`` pixels.

    ``x`` has the shape (batch, height, width, channels). The ``padding`` pixels that each side gets, or those
    of TensorFlow's "SAME", are never the largest.
    """
    window, steps = (size, size), (strides, strides)
    # Typed as a name alone; by keywords, as jax2onnx has its own function of this name.
    pads: Any = ((padding, padding), (padding, padding)) if padding else "VALID"
    if padding == "SAME":
        pads = tuple(lax.padtype_to_pads(x.shape[1:3], window, steps, "SAME"))
    if is_converting() and padding:
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
        pads = "VALID"
    return nn.max_pool(x, window_shape=window, strides=steps, padding=pads)


def avg_pool(x: jax.Array, size: int, *, strides: int, padding: Literal["SAME", "VALID"]) -> jax.Array:
    """Returns the means of windows of ``size`` × ``size`` pixels; those that "SAME" adds are not counted.

    ``x`` has the shape (batch, height, width, channels). The sums are float32.
    """
    means = nn.avg_pool(
        x.astype(jnp.float32),
        window_shape=(size, size),
        strides=(strides, strides),
        padding=padding,
        count_include_pad=False,
    )
    return means.astype(x.dtype)


@jax.named_scope("squeeze_excite")
def squeeze_excite(x: jax.Array, *, features: int, dtype: Any, pack: int) -> jax.Array:
    """Returns ``x`` (batch, height, width, channels), each channel gated by a two-layer net of their means.

    Call it inside a compact module: it adds ``se_reduce`` and ``se_expand``, 1×1 convolutions with biases.
    ``features`` is a quarter of the *block's input* filters, not of the expanded ones (tensorflow/tpu#616).
    """
    packed = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
    batch = x.shape[0]  # may be symbolic, which `len` is not
    means = packed.reshape(batch * pack, packed.shape[-1] // pack)  # (images, channels)
    reduce = nn.Dense(features, dtype=dtype, kernel_init=conv_init, name="se_reduce")
    expand = nn.Dense(means.shape[-1], dtype=dtype, kernel_init=conv_init, name="se_expand")
    gate = nn.sigmoid(expand(swish(reduce(means))))
    return x * gate.reshape(batch, 1, 1, x.shape[-1]).astype(x.dtype)


@jax.named_scope("stochastic_depth")
def stochastic_depth(x: jax.Array, draws: jax.Array, *, survival_probability: float, pack: int) -> jax.Array:
    """Returns ``x`` with whole examples set to zero, the others divided by the survival probability.

    ``draws`` are uniform in 0..1, one for each example, float32: bfloat16 knows 128 such values and would
    keep .8993 for .9.
    """
    survives = draws < survival_probability
    survives = repack(survives.reshape(-1, 1, 1, 1), 1, pack)
    survives = jnp.repeat(survives.reshape(len(x), *(1,) * (x.ndim - 2), pack), x.shape[-1] // pack, axis=-1)
    return jnp.where(survives, x / jnp.asarray(survival_probability, x.dtype), jnp.zeros_like(x))
