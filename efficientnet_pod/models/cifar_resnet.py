"""The networks of "How to train your ResNet" (cifar10-fast): ResNet-18 of its start, ResNet-9 of its end."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from efficientnet_pod.models.initial import (
    Distribution,
    Patches,
    Uniform,
    initializer,
    torch_default,
    torch_kernel,
)
from efficientnet_pod.models.layers import Conv, max_pool
from efficientnet_pod.models.whitening import Whitening

WIDTH = 64  # channels of the first layer

# PyTorch drew the scales of batch norm from U(0, 1) until version 1.2; article 4 sets them to 1, "better BN
# scale init".
OLD_SCALE = Uniform(0.0, 1.0)


torch_init = initializer(torch_kernel)
TorchConv = partial(Conv, padding="SYMMETRIC", kernel_init=torch_init)


# --- ResNet-18 -------------------------------------------------------------------------------------------


class PreActivation(nn.Module):
    """Batch norm and ReLU, then a residual branch: 3×3 convolution, batch norm, ReLU, 3×3 convolution.

    The shortcut starts behind the first ReLU even if it is the identity, unlike in arXiv 1603.05027.
    """

    filters: int
    strides: int
    norm: partial
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns (batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)."""
        conv = partial(TorchConv, self.filters, dtype=self.dtype)
        x = nn.relu(self.norm(name="first_bn")(x, train=train))
        y = conv(3, self.strides, name="first_conv")(x)
        y = nn.relu(self.norm(name="second_bn")(y, train=train))
        y = conv(3, name="second_conv")(y)
        if self.strides != 1 or x.shape[-1] != self.filters:
            x = conv(1, self.strides, name="shortcut_conv")(x)
        return x + y


class CifarResNet18(nn.Module):
    """Maps normalised images to logits: the baseline of article 1, 5,205,834 parameters with ten classes.

    It is Ben Johnson's DAWNBench entry less the batch norm and ReLU behind the first convolution: 64, 128,
    256 and 256 channels in two pre-activation blocks each, nothing behind the last one, and a classifier of
    the largest and the mean value of each channel.

    Attributes:
      num_classes: size of the logits.
      norm: partial of :class:`BatchNorm`.
      dtype: dtype of convolutions and activations; parameters and logits are float32.
      width: channels of the first layer.

    Source: davidcpage/cifar10-fast, experiments.ipynb, ``DAWN_net`` with ``res_block``. That PyTorch drew the
    scales from U(0, 1) then is from memory; article 4 confirms that they were not 1.
    """

    num_classes: int
    norm: partial
    dtype: Any
    width: int = WIDTH

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns float32 logits (batch, classes) of images (batch, height, width, 3).

        Training needs the collection ``batch_stats`` mutable.
        """
        block = partial(PreActivation, norm=partial(self.norm, scale_init=OLD_SCALE), dtype=self.dtype)
        x = TorchConv(self.width, 3, dtype=self.dtype, name="stem_conv")(images.astype(self.dtype))
        for number, (times, strides) in enumerate(((1, 1), (2, 2), (4, 2), (4, 2)), start=1):
            x = block(times * self.width, strides, name=f"block{number}a")(x, train=train)
            x = block(times * self.width, 1, name=f"block{number}b")(x, train=train)
        x = x.astype(jnp.float32)
        x = jnp.concatenate([jnp.max(x, axis=(1, 2)), jnp.mean(x, axis=(1, 2))], axis=-1)
        drawn = torch_default(x.shape[-1])
        return nn.Dense(self.num_classes, kernel_init=drawn, bias_init=drawn, name="classifier")(x)

    def initial(self, names: list[str], shape: tuple[int, ...]) -> Distribution | None:
        """Returns the distribution of a tensor; None for batch norm's biases of 0 and its statistics."""
        match names[-2:]:
            case [_, "kernel"]:
                return torch_kernel(shape)
            case [_, "scale"]:
                return OLD_SCALE
            case ["classifier", "bias"]:
                return torch_default(2 * 4 * self.width)
        return None


# --- ResNet-9 --------------------------------------------------------------------------------------------


class ConvBlock(nn.Module):
    """A convolution, batch norm and an activation, with a 2×2 max-pool in one of two places, or none.

    Attributes:
      filters: channels of the convolution.
      norm: partial of :class:`BatchNorm`.
      activation: elementwise function.
      dtype: dtype of convolutions and activations.
      pool: place of the max-pool: ``""`` for none, ``early``, before batch norm, or ``late``, after the
        activation.
      kernel_size: height and width of the kernel.
    """

    filters: int
    norm: partial
    activation: Callable[[jax.Array], jax.Array]
    dtype: Any
    pool: str = ""
    kernel_size: int = 3

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns (batch, height, width, filters), or half of height and width."""
        x = TorchConv(self.filters, self.kernel_size, dtype=self.dtype, name="conv")(x)
        if self.pool == "early":
            x = max_pool(x, 2)
        x = self.activation(self.norm(name="bn")(x, train=train))
        return max_pool(x, 2) if self.pool == "late" else x


class ResNet9(nn.Module):
    """Maps normalised images to logits: the network of article 4 ("DAVIDNet"), 94 % in 24 epochs.

    It has 6,573,120 parameters with ten classes. See :func:`whitened_resnet9` for the other form.

    Attributes:
      num_classes: size of the logits.
      norm: partial of :class:`BatchNorm`.
      dtype: dtype of convolutions and activations; parameters and logits are float32.
      activation: elementwise function after each batch norm.
      pool: place of the max-pools, see :class:`ConvBlock`.
      whitens: whether :class:`Whitening` and a 1×1 convolution stand for the first 3×3 one.
      logit_scale: factor of the logits.
      width: channels of the first layer.

    Source: davidcpage/cifar10-fast, dawn.py.
    """

    num_classes: int
    norm: partial
    dtype: Any
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    pool: str = "late"
    whitens: bool = False
    logit_scale: float = 1 / 8
    width: int = WIDTH

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns float32 logits (batch, classes) of images (batch, height, width, 3).

        Training needs the collection ``batch_stats`` mutable.
        """
        block = partial(ConvBlock, norm=self.norm, activation=self.activation, dtype=self.dtype)
        x = images.astype(self.dtype)
        if self.whitens:
            x = Whitening(self.dtype, name="stem_0_whitening")(x)
        x = block(self.width, kernel_size=1 if self.whitens else 3, name="stem_1")(x, train=train)
        for number, times in enumerate((2, 4, 8), start=1):
            x = block(times * self.width, pool=self.pool, name=f"block{number}")(x, train=train)
            if number != 2:
                y = block(times * self.width, name=f"block{number}_residual1")(x, train=train)
                x = x + block(times * self.width, name=f"block{number}_residual2")(y, train=train)
        x = jnp.max(x, axis=(1, 2)).astype(jnp.float32)
        classifier = nn.Dense(self.num_classes, use_bias=False, kernel_init=torch_init, name="classifier")
        return classifier(x) * self.logit_scale

    def initial(self, names: list[str], shape: tuple[int, ...]) -> Distribution | None:
        """Returns the distribution of a tensor; None for batch norm's 1 and 0 and its statistics."""
        if names[-1] == "fixed_kernel":
            return Patches()
        return torch_kernel(shape) if names[-1] == "kernel" else None


def whitened_resnet9(*, num_classes: int, norm: partial, dtype: Any, bn_scale: float) -> ResNet9:
    """Returns the network of article 8 ("Bag of tricks"): whitened input, CELU, max-pools before batch norm.

    6,570,880 parameters are trained with ten classes and frozen scales, and 729 are not. 94 % in 10 epochs
    with ``bn_scale`` 1/8, ghosts of 32 images, and the images and their mirror images evaluated together.

    With scales that are trained (``bn_scale`` 0), CELU's alpha is .075. Otherwise ``bn_scale`` is the scale s
    of every batch norm and not trained, the source's "frozen BN scales". There s is 1, alpha .3, the logits
    over 16, and biases learn faster: with 16 times the learning rate and 1/16 of the weight decay first, 64
    and 1/64 in the end. Here alpha is .3·s and the logits over 16·s, and all parameters learn alike: a bias
    that is s times as large has, in proportion, 1/s² times the source's learning rate. So 1/4 (alpha .075, as
    the article has it first) stands for 16, and 1/8 for 64, but for what epsilon does.

    Source: davidcpage/cifar10-fast, new_dawn.py, dawn_utils.py and torch_backend.py. That alpha was .075
    before the scales were frozen follows from .3 and a factor of 4; it is from memory too.
    """
    return ResNet9(
        num_classes,
        partial(norm, fixed_scale=bn_scale or None),
        dtype,
        activation=partial(nn.celu, alpha=0.3 * bn_scale if bn_scale else 0.075),
        pool="early",
        whitens=True,
        logit_scale=1 / (16 * bn_scale) if bn_scale else 1 / 8,
    )
