"""ResNet-50 v1.5: the network of MLPerf, of "ImageNet in one hour" and of imagenet18."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from efficientnet_pod.models.initial import Constant, Distribution, Normal
from efficientnet_pod.models.layers import Conv, max_pool, run_block

STEM_FILTERS = 64
EXPANSION = 4
CLASSIFIER_INIT = Normal(0.01)
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))


class Bottleneck(nn.Module):
    """Reduce, 3×3 with the strides, expand; added to the input, which is projected where shapes differ.

    Attributes:
      filters: channels of the 3×3 convolution; the block returns four times as many.
      strides: strides of the 3×3 convolution. The first version (arXiv 1512.03385) has them in the 1×1 one.
      norm: partial of :class:`BatchNorm`.
      last_scale: initial scale of the last batch norm.
      dtype: dtype of convolutions and activations.
    """

    filters: int
    strides: int
    norm: partial
    last_scale: Constant
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns (batch, ⌈height/strides⌉, ⌈width/strides⌉, 4 · filters)."""
        conv, wide = partial(Conv, padding="SYMMETRIC", dtype=self.dtype), EXPANSION * self.filters
        y = conv(self.filters, name="reduce_conv")(x)
        y = nn.relu(self.norm(name="reduce_bn")(y, train=train))
        y = conv(self.filters, 3, self.strides, name="spatial_conv")(y)
        y = nn.relu(self.norm(name="spatial_bn")(y, train=train))
        y = conv(wide, name="expand_conv")(y)
        y = self.norm(scale_init=self.last_scale, name="expand_bn")(y, train=train)
        if self.strides != 1 or x.shape[-1] != wide:
            x = conv(wide, 1, self.strides, name="shortcut_conv")(x)
            x = self.norm(name="shortcut_bn")(x, train=train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Maps normalised images to logits; 25,557,032 parameters with 1,000 classes.

    Kernels are padded alike on both sides, the 7×7's by 3, the 3×3's and the max-pool by 1, as in torchvision
    and, written otherwise, the "fixed padding" of TensorFlow's models.

    Attributes:
      num_classes: size of the logits.
      norm: partial of :class:`BatchNorm`.
      dtype: dtype of convolutions and activations; parameters and logits are float32.
      zero_init_residual: whether every residual branch begins as zero: the scale of its last batch norm is 0
        then, not 1 (arXiv 1706.02677, section 5.1; imagenet18's ``--init-bn0``).
      recompute: whether a block's activations are computed again in the backward pass, see
        :func:`.layers.run_block`.
      stages: (blocks, filters before the expansion, strides of the first block) of each stage.

    Source: torchvision.models.resnet50; imagenet18, training/resnet.py (classifier from N(0, .01²)).
    """

    num_classes: int
    norm: partial
    dtype: Any
    zero_init_residual: bool = False
    recompute: bool = False
    stages: tuple[tuple[int, int, int], ...] = STAGES

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns float32 logits (batch, classes) of images (batch, height, width, 3).

        Training needs the collection ``batch_stats`` mutable.
        """
        x = images.astype(self.dtype)
        x = Conv(STEM_FILTERS, 7, 2, padding="SYMMETRIC", dtype=self.dtype, name="stem_conv")(x)
        x = nn.relu(self.norm(name="stem_bn")(x, train=train))
        x = max_pool(x, 3, padding=1)
        block = partial(Bottleneck, norm=self.norm, last_scale=self.last_scale, dtype=self.dtype)
        for number, (blocks, filters, strides) in enumerate(self.stages, start=1):
            for i in range(blocks):
                name = f"block{number}{chr(ord('a') + i)}"
                built = block(filters, strides if i == 0 else 1, name=name)
                x = run_block(built, x, train=train, recompute=self.recompute)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=CLASSIFIER_INIT, name="classifier")(x)

    @property
    def last_scale(self) -> Constant:
        """Initial scale of the last batch norm of every residual branch."""
        return Constant(0.0 if self.zero_init_residual else 1.0)

    def initial(self, names: list[str], shape: tuple[int, ...]) -> Distribution | None:
        """Returns the distribution of a tensor; None for the usual: kernels from N(0, 2 / fan-out)."""
        match names[-2:]:
            case ["expand_bn", "scale"]:
                return self.last_scale
            case ["classifier", "kernel"]:
                return CLASSIFIER_INIT
        return None
