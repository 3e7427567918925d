"""EfficientNet-B0 to B7, Lite0 to Lite4: the table of the compound scaling and the network it describes.

EfficientNetV2 is the same network by other tables, see :mod:`efficientnet_v2`.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from efficientnet_pod.models.convolutions import Padding
from efficientnet_pod.models.layers import (
    Conv,
    DepthwiseConv,
    Dropout,
    StemConv,
    classifier_init,
    drawn,
    run_block,
    squeeze_excite,
    stochastic_depth,
    swish,
)
from efficientnet_pod.models.packing import images_side_by_side, repack


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the compound scaling.

    Attributes:
      width: factor of the filters.
      depth: factor of the blocks of a stage.
      image_size: height and width of the images, in pixels.
      dropout: rate before the classifier.
      lite: whether it has ReLU6 instead of swish and no squeeze-excite, and does not scale the filters of
        stem and head and the blocks of the first and the last stage.
      stem_filters: filters of the first convolution, before scaling.
      least_share: smallest share of the scaled filters that rounding to a multiple of 8 may leave.

    Source: arXiv 1905.11946; tensorflow/tpu, ``efficientnet_params``; of the lite ones
    ``efficientnet_lite_params`` with ``fix_head_stem`` (timm has Lite3 at 300 and Lite4 at 380 pixels).
    """

    width: float
    depth: float
    image_size: int
    dropout: float
    lite: bool = False
    stem_filters: int = 32
    least_share: float = 0.9

    @property
    def activation(self) -> Callable[[jax.Array], jax.Array]:
        """The function after every batch norm but those of the projections."""
        return nn.relu6 if self.lite else swish

    def filters(self, filters: int) -> int:
        """Returns the filters of a block, ``filters`` before scaling."""
        return round_filters(filters, self.width, least_share=self.least_share)

    def end_filters(self, filters: int) -> int:
        """Returns the filters of the stem or the head, ``filters`` before scaling."""
        return filters if self.lite else self.filters(filters)


VARIANTS = {
    "b0": Variant(1.0, 1.0, 224, 0.2),
    "b1": Variant(1.0, 1.1, 240, 0.2),
    "b2": Variant(1.1, 1.2, 260, 0.3),
    "b3": Variant(1.2, 1.4, 300, 0.3),
    "b4": Variant(1.4, 1.8, 380, 0.4),
    "b5": Variant(1.6, 2.2, 456, 0.4),
    "b6": Variant(1.8, 2.6, 528, 0.5),
    "b7": Variant(2.0, 3.1, 600, 0.5),
    "lite0": Variant(1.0, 1.0, 224, 0.2, lite=True),
    "lite1": Variant(1.0, 1.1, 240, 0.2, lite=True),
    "lite2": Variant(1.1, 1.2, 260, 0.3, lite=True),
    "lite3": Variant(1.2, 1.4, 280, 0.3, lite=True),
    "lite4": Variant(1.4, 1.8, 300, 0.3, lite=True),
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """Blocks of one resolution, before scaling; the first block has the stride.

    ``fused`` blocks are :class:`FusedMBConv`, the others :class:`MBConv`.
    """

    kernel_size: int
    blocks: int
    filters: int
    expansion: int
    strides: int
    fused: bool = False


# The released code, not Table 1 of the paper, whose strides of stages 4 and 5 are wrong (tensorflow/tpu#383).
STAGES = (
    Stage(3, 1, 16, 1, 1),
    Stage(3, 2, 24, 6, 2),
    Stage(5, 2, 40, 6, 2),
    Stage(3, 3, 80, 6, 2),
    Stage(5, 3, 112, 6, 1),
    Stage(5, 4, 192, 6, 2),
    Stage(3, 1, 320, 6, 1),
)
HEAD_FILTERS = 1280


def round_filters(filters: int, width: float, *, least_share: float = 0.9) -> int:
    """Returns ``filters · width`` as the nearest multiple of 8 that has at least this share."""
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < least_share * scaled else rounded


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One block after scaling, with its name (stage number and a letter, as in Keras)."""

    name: str
    stage: int
    kernel_size: int
    filters: int
    expansion: int
    strides: int
    fused: bool
    survival_probability: float


def block_specs(
    variant: Variant, survival_probability: float, stages: tuple[Stage, ...] = STAGES
) -> list[BlockSpec]:
    """Returns the blocks in order; block i of L survives with probability 1 − (1 − p)·i/L.

    L counts the scaled, rounded blocks, so the first block is never dropped and B0's last has .8125.
    """
    fixed = (stages[0], stages[-1]) if variant.lite else ()
    depths = [stage.blocks if stage in fixed else math.ceil(variant.depth * stage.blocks) for stage in stages]
    specs: list[BlockSpec] = []
    for number, (stage, depth) in enumerate(zip(stages, depths, strict=True), start=1):
        for i in range(depth):
            specs.append(
                BlockSpec(
                    name=f"block{number}{chr(ord('a') + i)}",
                    stage=number,
                    kernel_size=stage.kernel_size,
                    filters=variant.filters(stage.filters),
                    expansion=stage.expansion,
                    strides=stage.strides if i == 0 else 1,
                    fused=stage.fused,
                    survival_probability=1 - (1 - survival_probability) * len(specs) / sum(depths),
                )
            )
    return specs


class MBConv(nn.Module):
    """Inverted bottleneck: expand, depthwise, squeeze-excite, project; a shortcut where shapes agree.

    Attributes:
      spec: row of the scaled network.
      norm: partial of :class:`BatchNorm`.
      dtype: dtype of convolutions and activations.
      pack: images side by side in the channels, see :mod:`packing`.
      activation: elementwise function.
      squeezes: whether it has squeeze-excite.
      padding: as of :class:`EfficientNet`.
    """

    spec: BlockSpec
    norm: partial
    dtype: Any
    pack: int
    activation: Callable[[jax.Array], jax.Array] = swish
    squeezes: bool = True
    padding: Padding = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns (batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)."""
        spec, inputs, inputs_filters = self.spec, x, x.shape[-1] // self.pack
        options = {"dtype": self.dtype, "pack": self.pack}
        norm, activation = partial(self.norm, pack=self.pack), self.activation
        if spec.expansion != 1:
            x = Conv(inputs_filters * spec.expansion, **options, name="expand_conv")(x)
            x = activation(norm(name="expand_bn")(x, train=train))
        spatial = (spec.kernel_size, spec.strides)
        x = DepthwiseConv(*spatial, **options, padding=self.padding, name="depthwise_conv")(x)
        x = activation(norm(name="depthwise_bn")(x, train=train))
        if self.squeezes:
            x = squeeze_excite(x, features=max(1, int(inputs_filters * 0.25)), **options)
        x = Conv(spec.filters, **options, name="project_conv")(x)
        x = norm(name="project_bn")(x, train=train)
        return _with_shortcut(self, x, inputs, train=train)


class FusedMBConv(nn.Module):
    """The block of EfficientNetV2's early stages: one dense convolution instead of expand and depthwise.

    Without expansion it is the only convolution, and the activation follows its batch norm. Nothing is
    squeezed. It has the attributes of :class:`MBConv`.

    Source: arXiv 2104.00298, figure 2; google/automl efficientnetv2, ``effnetv2_model.py``.
    """

    spec: BlockSpec
    norm: partial
    dtype: Any
    pack: int
    activation: Callable[[jax.Array], jax.Array] = swish
    padding: Padding = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns (batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)."""
        spec, inputs, inputs_filters = self.spec, x, x.shape[-1] // self.pack
        conv = partial(Conv, dtype=self.dtype, pack=self.pack)
        norm, spatial = partial(self.norm, pack=self.pack), (spec.kernel_size, spec.strides)
        if spec.expansion == 1:
            x = conv(spec.filters, *spatial, padding=self.padding, name="project_conv")(x)
            x = self.activation(norm(name="project_bn")(x, train=train))
        else:
            expanded = inputs_filters * spec.expansion
            x = conv(expanded, *spatial, padding=self.padding, name="expand_conv")(x)
            x = self.activation(norm(name="expand_bn")(x, train=train))
            x = conv(spec.filters, name="project_conv")(x)
            x = norm(name="project_bn")(x, train=train)
        return _with_shortcut(self, x, inputs, train=train)


def _with_shortcut(block: MBConv | FusedMBConv, x: jax.Array, inputs: jax.Array, *, train: bool) -> jax.Array:
    """Returns ``x`` plus the block's inputs where their shapes agree, with whole images of ``x`` dropped."""
    spec, pack = block.spec, block.pack
    if spec.strides != 1 or inputs.shape != x.shape:
        return x
    if train and spec.survival_probability < 1:
        draws = drawn(block, lambda key, n: jax.random.uniform(key, (n,), jnp.float32), len(x) * pack)
        x = stochastic_depth(x, draws, survival_probability=spec.survival_probability, pack=pack)
    return x + inputs


class EfficientNet(nn.Module):
    """Maps normalised images to logits.

    Attributes:
      variant: row of the compound scaling.
      num_classes: size of the logits.
      dropout: probability that a feature before the classifier is dropped.
      survival_probability: stochastic depth at the end of its linear schedule.
      norm: partial of :class:`BatchNorm`.
      dtype: dtype of convolutions and activations; parameters and logits are float32.
      recompute: whether a block's activations are computed again in the backward pass, see
        :func:`.layers.run_block`.
      stages: stages of blocks, before scaling.
      packed: whether to put images side by side in the channels of the early layers, for a TPU; the results
        are the same but for rounding. See :mod:`packing`.
      padding: ``same`` as TensorFlow pads, or ``symmetric`` as PyTorch does; weights belong to one of them.
    """

    variant: Variant
    num_classes: int
    dropout: float
    survival_probability: float
    norm: partial
    dtype: Any
    recompute: bool = False
    stages: tuple[Stage, ...] = STAGES
    packed: bool = False
    padding: str = "same"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns float32 logits (batch, classes) of images (batch, height, width, 3).

        Training needs the random stream ``dropout`` and the collection ``batch_stats`` mutable.
        """
        variant, activation = self.variant, self.variant.activation
        pack_of = partial(images_side_by_side, len(images)) if self.packed else lambda stage: 1
        pack, padding = pack_of(0), cast(Padding, self.padding.upper())
        stem_filters = variant.end_filters(variant.stem_filters)
        stem = StemConv(stem_filters, dtype=self.dtype, pack=pack, padding=padding, name="stem_conv")
        x = activation(self.norm(pack=pack, name="stem_bn")(stem(images), train=train))
        for spec in block_specs(variant, self.survival_probability, self.stages):
            x, pack = repack(x, pack, pack_of(spec.stage)), pack_of(spec.stage)
            kind = FusedMBConv if spec.fused else partial(MBConv, squeezes=not variant.lite)
            block = kind(spec, self.norm, self.dtype, pack, activation, padding=padding, name=spec.name)
            x = run_block(block, x, train=train, recompute=self.recompute)
        x = repack(x, pack, 1)
        x = Conv(variant.end_filters(HEAD_FILTERS), dtype=self.dtype, name="head_conv")(x)
        x = activation(self.norm(name="head_bn")(x, train=train))
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        x = Dropout(self.dropout, name="Dropout_0")(x, train=train)
        return nn.Dense(self.num_classes, kernel_init=classifier_init, name="classifier")(x)
