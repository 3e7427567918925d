"""AmoebaNet-D: the network of evolution that ran DAWNBench's ImageNet on TPUs in 2018."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from efficientnet_pod.models.initial import Distribution, conv_kernel
from efficientnet_pod.models.layers import Conv, Dropout, avg_pool, conv_init, max_pool, run_block

STEM_FILTERS = 32
AUXILIARY_FILTERS = (51, 307)  # .4 of 128 and of 768
AUXILIARY = "auxiliary"  # module of the second classifier, which evaluation leaves out
AUXILIARY_LOGITS = "auxiliary_logits"  # collection that a training pass puts them in


class Wiring(NamedTuple):
    """The states of a cell: 0 is the cell before, 1 the one before that, each made thin; the others are sums.

    Attributes:
      sums: (operation, number of its operand) twice, for each state from 2 on.
      outputs: states that are concatenated.
    """

    sums: tuple[tuple[tuple[str, int], tuple[str, int]], ...]
    outputs: tuple[int, ...]


# Source: tensorflow/tpu models/official/amoeba_net, model_specs.py. The paper (arXiv 1802.01548) prints other
# outputs of the normal cell, 4, 5 and 6.
NORMAL = Wiring(
    (
        (("conv1", 1), ("max3", 1)),
        (("identity", 1), ("conv7", 0)),
        (("conv1", 0), ("conv7", 0)),
        (("max3", 2), ("identity", 2)),
        (("avg3", 1), ("conv1", 5)),
    ),
    (0, 3, 4, 6),
)
REDUCTION = Wiring(
    (
        (("max2", 0), ("max3", 0)),
        (("identity", 2), ("conv3", 1)),
        (("conv7", 2), ("max3", 2)),
        (("identity", 3), ("max2", 1)),
        (("avg3", 2), ("conv1", 3)),
    ),
    (4, 5, 6),
)


class ReluConv(nn.Module):
    """ReLU, a convolution and batch norm; bare, without the ReLU.

    Attributes:
      filters: channels of the result.
      norm: partial of :class:`BatchNorm`.
      dtype: dtype of convolutions and activations.
      kernel_size: height and width of the kernel, or one for both.
      strides: strides along height and width, or one for both.
      is_bare: whether to leave out the ReLU.
    """

    filters: int
    norm: partial
    dtype: Any
    kernel_size: int | tuple[int, int] = 1
    strides: int | tuple[int, int] = 1
    is_bare: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns (batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)."""
        x = x if self.is_bare else nn.relu(x)
        x = Conv(self.filters, self.kernel_size, self.strides, dtype=self.dtype, name="conv")(x)
        return self.norm(name="bn")(x, train=train)


class FactorisedReduction(nn.Module):
    """ReLU and two 1×1 convolutions at stride 2, of the even and of the odd pixels; then batch norm."""

    filters: int
    norm: partial
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns (batch, ⌈height/2⌉, ⌈width/2⌉, filters)."""
        conv = partial(Conv, self.filters // 2, strides=2, dtype=self.dtype)
        x = nn.relu(x)
        odd = jnp.pad(x[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)))  # zeros at the bottom and on the right
        x = jnp.concatenate([conv(name="even_conv")(x), conv(name="odd_conv")(odd)], axis=-1)
        return self.norm(name="bn")(x, train=train)


class Operation(nn.Module):
    """One operation of a cell.

    Attributes:
      kind: ``identity``; ``conv1``, 1×1; ``conv3``, 3×3, or ``conv7``, 1×7 and 7×1, in a quarter of the
        channels; ``max2``, ``max3`` or ``avg3``, pools of so many pixels each way.
      filters: channels of the result.
      strides: strides along height and width.
      norm: partial of :class:`BatchNorm`.
      dtype: dtype of convolutions and activations.
    """

    kind: str
    filters: int
    strides: int
    norm: partial
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns (batch, ⌈height/strides⌉, ⌈width/strides⌉, filters)."""
        conv = partial(ReluConv, norm=self.norm, dtype=self.dtype)
        if self.kind == "identity":
            return x
        if self.kind == "conv1":
            return conv(self.filters, strides=self.strides, name="only")(x, train=train)
        if self.kind in ("conv3", "conv7"):
            filters, step = self.filters // 4, self.strides
            x = conv(filters, name="reduce")(x, train=train)
            if self.kind == "conv3":
                x = conv(filters, kernel_size=3, strides=step, name="square")(x, train=train)
            else:
                x = conv(filters, kernel_size=(1, 7), strides=(1, step), name="row")(x, train=train)
                x = conv(filters, kernel_size=(7, 1), strides=(step, 1), name="column")(x, train=train)
            return conv(self.filters, name="expand")(x, train=train)
        pool = avg_pool if self.kind == "avg3" else max_pool
        x = pool(x, int(self.kind[-1]), strides=self.strides, padding="SAME")
        if x.shape[-1] != self.filters:  # the first cell's second input is as the stem left it
            x = conv(self.filters, is_bare=True, name="project")(x, train=train)
        return x


class Cell(nn.Module):
    """A cell: both inputs made as small and as thin as the thinner needs, five sums, a concatenation.

    Attributes:
      wiring: states and operations.
      filters: channels of a state.
      strides: strides of the operations on the two inputs: 2 in a reduction cell.
      norm: partial of :class:`BatchNorm`.
      dtype: dtype of convolutions and activations.
    """

    wiring: Wiring
    filters: int
    strides: int
    norm: partial
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, before: jax.Array | None, *, train: bool) -> jax.Array:
        """Returns (batch, ⌈height/strides⌉, ⌈width/strides⌉, outputs · filters).

        ``x`` is the result of the last cell, ``before`` of the one before it; None where there was none.
        """
        options: dict[str, Any] = {"norm": self.norm, "dtype": self.dtype}
        if before is None:
            before = x
        elif before.shape[2] != x.shape[2]:
            before = FactorisedReduction(self.filters, **options, name="before")(before, train=train)
        elif before.shape[-1] != self.filters:
            before = ReluConv(self.filters, **options, name="before")(before, train=train)
        states = [ReluConv(self.filters, **options, name="input")(x, train=train), before]
        for number, pair in enumerate(self.wiring.sums, start=2):
            parts = []
            for side, (kind, operand) in zip(("left", "right"), pair, strict=True):
                strides = self.strides if operand < 2 else 1
                operation = Operation(kind, self.filters, strides, **options, name=f"state{number}_{side}")
                parts.append(operation(states[operand], train=train))
            states.append(parts[0] + parts[1])
        return jnp.concatenate([states[number] for number in self.wiring.outputs], axis=-1)


class AuxiliaryHead(nn.Module):
    """A second classifier on a layer in the middle of the network, for training alone."""

    num_classes: int
    norm: partial
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns float32 logits (batch, classes)."""
        narrow, wide = AUXILIARY_FILTERS
        x = avg_pool(nn.relu(x), 5, strides=3, padding="VALID")
        x = Conv(narrow, dtype=self.dtype, name="project_conv")(x)
        x = nn.relu(self.norm(name="project_bn")(x, train=train))
        x = Conv(wide, (x.shape[1], x.shape[2]), padding="VALID", dtype=self.dtype, name="whole_conv")(x)
        x = nn.relu(self.norm(name="whole_bn")(x, train=train))[:, 0, 0]
        return nn.Dense(self.num_classes, kernel_init=conv_init, name="classifier")(x.astype(jnp.float32))


class AmoebaNet(nn.Module):
    """Maps normalised images to logits; AmoebaNet-D (6, 256), 46,095,080 parameters with 1,000 classes.

    Two reduction cells follow the stem; then come three groups of normal cells, a reduction cell before the
    second and the third.

    Attributes:
      num_classes: size of the logits.
      dropout: probability that a feature before the classifier is dropped.
      norm: partial of :class:`BatchNorm`.
      dtype: dtype of convolutions and activations; parameters and logits are float32.
      auxiliary_weight: weight of the second classifier's loss in training; 0: there is no such classifier.
        The network only builds it, see :meth:`__call__`.
      recompute: whether a cell's activations are computed again in the backward pass, see
        :func:`.layers.run_block`.
      cells: normal cells of each of the three groups.
      filters: channels of a state in the first group.

    Source: tensorflow/tpu models/official/amoeba_net. Kernels are drawn from N(0, 2 / fan-out), there from
    the same, truncated.
    """

    num_classes: int
    dropout: float
    norm: partial
    dtype: Any
    auxiliary_weight: float = 0.0
    recompute: bool = False
    cells: int = 2
    filters: int = 256

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns float32 logits (batch, classes) of images (batch, height, width, 3).

        Training needs the random stream ``dropout`` and the collection ``batch_stats`` mutable. The logits of
        the second classifier are put in the collection :data:`AUXILIARY_LOGITS`, if that is mutable. It has a
        kernel of the size of its input, so that its shape depends on the image's.
        """
        x = images.astype(self.dtype)
        x = Conv(STEM_FILTERS, 3, 2, padding="VALID", dtype=self.dtype, name="stem_conv")(x)
        x, before = self.norm(name="stem_bn")(x, train=train), None

        def cell(name: str, filters: int, *, reduces: bool) -> None:
            nonlocal x, before
            wiring, strides = (REDUCTION, 2) if reduces else (NORMAL, 1)
            built = Cell(wiring, filters, strides, self.norm, self.dtype, name=name)
            x, before = run_block(built, x, before, train=train, recompute=self.recompute), x

        cell("block0a", self.filters // 4, reduces=True)
        cell("block0b", self.filters // 2, reduces=True)
        for group in range(3):
            filters = self.filters * 2**group
            for number in range(self.cells + (group > 0)):
                reduces = group > 0 and number == 0
                cell(f"block{group + 1}{chr(ord('a') + number)}", filters, reduces=reduces)
            if group == 1 and self.auxiliary_weight and (train or self.is_initializing()):
                head = AuxiliaryHead(self.num_classes, self.norm, self.dtype, name=AUXILIARY)
                logits = head(x, train=train)
                if train:
                    self.sow(AUXILIARY_LOGITS, "logits", logits)
        x = jnp.mean(nn.relu(x).astype(jnp.float32), axis=(1, 2))
        x = Dropout(self.dropout, name="Dropout_0")(x, train=train)
        return nn.Dense(self.num_classes, kernel_init=conv_init, name="classifier")(x)

    def initial(self, names: list[str], shape: tuple[int, ...]) -> Distribution | None:
        """Returns the distribution of a tensor; None for the usual: kernels from N(0, 2 / fan-out)."""
        return conv_kernel(shape) if names[-2:] == ["classifier", "kernel"] else None
