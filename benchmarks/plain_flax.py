"""Owns the TPU baseline: EfficientNet and its train step out of Flax's and optax's ready-made parts.

It is what one writes after Flax's ImageNet example: `nn.Conv`, `nn.BatchNorm`, `nn.swish`, `nn.Dropout`,
`optax.lars`, gradients of the whole network in one go. A step does the work of ours: batch norm over a group
of replicas, stochastic depth, dropout, label smoothing, LARS, averaged weights, running statistics averaged
over the groups. It does a little less beside that: there is no guard against what is not finite, hits are
counted for top-1 alone, and images arrive normalised.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training import train_state
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

CLASSES = 1000
EMA_DECAY, LABEL_SMOOTHING, SURVIVAL = 0.9999, 0.1, 0.8
# Repeats, kernel, stride, expansion, filters. Source: the code of arXiv 1905.11946.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class Scaling(NamedTuple):
    """A variant: factors of width and depth, height and width of its images, dropout, parameters."""

    width: float
    depth: float
    image_size: int
    dropout: float
    parameters: int


SCALINGS = {
    "b0": Scaling(1.0, 1.0, 224, 0.2, 5_288_548),
    "b2": Scaling(1.1, 1.2, 260, 0.3, 9_109_994),
    "b5": Scaling(1.6, 2.2, 456, 0.4, 30_389_784),
}


def _filters(base: int, width: float) -> int:
    rounded = max(8, int(base * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * base * width else rounded


class Block(nn.Module):
    """Inverted bottleneck with squeeze-excite; `conv` and `norm` are partials of Flax's layers."""

    conv: Any
    norm: Any
    kernel: int
    stride: int
    expansion: int
    filters: int
    survival: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns (batch, height / stride, width / stride, filters)."""
        shortcut, inputs = x, x.shape[-1]
        inner = inputs * self.expansion
        if self.expansion > 1:
            x = nn.swish(self.norm(name="expand_bn")(self.conv(inner, (1, 1), name="expand_conv")(x)))
        depthwise = partial(self.conv, feature_group_count=inner, name="depthwise_conv")
        x = depthwise(inner, (self.kernel, self.kernel), (self.stride, self.stride))(x)
        x = nn.swish(self.norm(name="depthwise_bn")(x))
        gate = jnp.mean(x, axis=(1, 2), keepdims=True)
        gate = nn.swish(self.conv(max(1, inputs // 4), (1, 1), use_bias=True, name="se_reduce")(gate))
        x = x * nn.sigmoid(self.conv(inner, (1, 1), use_bias=True, name="se_expand")(gate))
        x = self.norm(name="project_bn")(self.conv(self.filters, (1, 1), name="project_conv")(x))
        if self.stride > 1 or inputs != self.filters:
            return x
        drop = nn.Dropout(1 - self.survival, broadcast_dims=(1, 2, 3), deterministic=not train)
        return shortcut + drop(x)


class PlainEfficientNet(nn.Module):
    """Maps normalised images to float32 logits; replicas along `axis_name` normalise together."""

    scaling: Scaling
    dtype: Any = jnp.bfloat16
    bn_dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns (batch, classes)."""
        width, depth, _, dropout, _ = self.scaling
        conv = partial(nn.Conv, use_bias=False, padding="SAME", dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.99, epsilon=1e-3)
        norm = partial(norm, dtype=self.bn_dtype, axis_name=self.axis_name)
        stages = [(math.ceil(depth * repeats), *stage) for repeats, *stage in _STAGES]
        blocks, index = sum(repeats for repeats, *_ in stages), 0
        x = conv(_filters(32, width), (3, 3), (2, 2), name="stem_conv")(images)
        x = nn.swish(norm(name="stem_bn")(x))
        for number, (repeats, kernel, stride, expansion, filters) in enumerate(stages, 1):
            for repeat in range(repeats):
                x = Block(
                    conv=conv,
                    norm=norm,
                    kernel=kernel,
                    stride=1 if repeat else stride,
                    expansion=expansion,
                    filters=_filters(filters, width),
                    survival=1 - (1 - SURVIVAL) * index / blocks,
                    name=f"block{number}{chr(ord('a') + repeat)}",
                )(x, train)
                index += 1
        x = nn.swish(norm(name="head_bn")(conv(_filters(1280, width), (1, 1), name="head_conv")(x)))
        x = nn.Dropout(dropout, deterministic=not train)(jnp.mean(x, axis=(1, 2)).astype(jnp.float32))
        return nn.Dense(CLASSES, name="classifier")(x)


class State(train_state.TrainState):
    """Flax's train state with batch norm's statistics and the averages of both."""

    batch_stats: Any
    ema: Any


def _create_state(model: nn.Module, image: jax.Array, global_batch: int) -> State:
    variables = model.init(jax.random.key(0), image, train=False)
    peak = 0.118 * global_batch / 256
    learning_rate = optax.join_schedules(
        [optax.linear_schedule(0, peak, 1000), optax.polynomial_schedule(peak, 0.1, 2, 6000)], [1000]
    )

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    lars = optax.lars(learning_rate, 1e-5, weight_decay_mask=kernels, trust_ratio_mask=kernels)
    return State.create(apply_fn=model.apply, tx=lars, ema=variables, **variables)


def _train_step(state: State, batch: dict[str, jax.Array]) -> tuple[State, dict[str, jax.Array]]:
    """Returns the next state and the metrics, as one replica sees them."""
    replicas = ("bn_group", "bn_member")
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), state.step), lax.axis_index(replicas))

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updated = state.apply_fn(
            variables, batch["image"], train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        target = optax.smooth_labels(jax.nn.one_hot(batch["label"], CLASSES), LABEL_SMOOTHING)
        loss = jnp.mean(optax.softmax_cross_entropy(logits, target))
        return lax.pmean(loss, replicas), (logits, updated["batch_stats"])

    (loss, (logits, batch_stats)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    state = state.apply_gradients(grads=gradients, batch_stats=lax.pmean(batch_stats, "bn_group"))
    new = {"params": state.params, "batch_stats": state.batch_stats}
    state = state.replace(ema=optax.incremental_update(new, state.ema, 1 - EMA_DECAY))
    top1 = lax.pmean(jnp.mean(jnp.argmax(logits, -1) == batch["label"]), replicas)
    return state, {"loss": loss, "top1": top1}


def lower(
    model: str,
    per_replica_batch: int,
    devices: Sequence[Any],
    *,
    bn_group_size: int | None = None,
    bn_dtype: Any = jnp.float32,
    image_size: int = 0,
) -> jax.stages.Lowered:
    """Returns the program of one train step for the devices, which need not be there.

    Args:
      model: a key of `SCALINGS`.
      per_replica_batch: images a device.
      devices: of a topology or of this machine.
      bn_group_size: devices that normalise together; None: all.
      bn_dtype: of what batch norm returns; its arithmetic is float32.
      image_size: pixels; 0 for the published size.
    """
    scaling = SCALINGS[model]
    mesh = Mesh(np.array(devices).reshape(-1, bn_group_size or len(devices)), ("bn_group", "bn_member"))
    network = PlainEfficientNet(scaling, bn_dtype=bn_dtype, axis_name="bn_member")
    images, size = per_replica_batch * len(devices), image_size or scaling.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.bfloat16)
    state = jax.eval_shape(partial(_create_state, network, global_batch=images), image)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    if parameters != scaling.parameters:
        raise AssertionError(f"{model} has {scaling.parameters:,} parameters; this one has {parameters:,}")
    batch = {
        "image": jax.ShapeDtypeStruct((images, size, size, 3), jnp.bfloat16),
        "label": jax.ShapeDtypeStruct((images,), jnp.int32),
    }
    whole, cut = PartitionSpec(), PartitionSpec(mesh.axis_names)
    step = jax.shard_map(_train_step, mesh=mesh, in_specs=(whole, cut), out_specs=whole)
    shardings = NamedSharding(mesh, whole), NamedSharding(mesh, cut)
    return jax.jit(step, donate_argnums=0, in_shardings=shardings).lower(state, batch)
