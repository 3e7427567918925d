"""Batch normalisation over one mesh axis: per replica, grouped and fully synchronised are one code path.

The other path normalises parts of a replica's images, called ghosts.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.ad_checkpoint import checkpoint_name

MOMENTS = "moments"  # name under which moments are known to a block that is computed again


class BatchNorm(nn.Module):
    """Normalises the last axis by the statistics of a BN group, or by the running ones.

    Statistics, parameters and the arithmetic are float32; only the result is rounded to ``dtype``. The
    variance is biased, E[x²] − E[x]² clipped at zero, in the running average too, as in the code behind
    arXiv 2011.00071 (cuDNN and fused TensorFlow kernels store n/(n−1) times that).

    In training the returned running statistics differ between BN groups; the train step averages them.

    Attributes:
      axis_name: axis of the devices that normalise together, or None for a program without a mesh.
      momentum: share of the old running statistics that a step keeps; PyTorch's momentum is 1 minus this.
      epsilon: number added to the variance.
      dtype: dtype of the result.
      pack: images side by side in the channels, see :mod:`packing`; not with ghosts.
      scale_init: Flax initialiser of the scale.
      fixed_scale: a scale for all channels that is no parameter and stays as it is; None: one to be trained.
      ghost_batch: consecutive images of a replica that normalise together, whatever the axis; 0: all of them.
        The running statistics are the ghosts' mean. Source: arXiv 1705.08741.
      fixed: layers, by the beginnings of their paths, whose batch norms use their running statistics in
        training too, and do not change them.
      folded: layers, by their paths, whose multiplier is in the kernel before them, see :mod:`folding`: they
        only add their bias.
    """

    axis_name: str | None
    momentum: float = 0.99
    epsilon: float = 1e-3
    dtype: Any = jnp.float32
    pack: int = 1
    scale_init: Any = nn.initializers.ones
    fixed_scale: float | None = None
    ghost_batch: int = 0
    fixed: tuple[str, ...] = ()
    folded: frozenset[str] = frozenset()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns ``x`` of shape (..., channels) normalised, in ``dtype``."""
        shape = (x.shape[-1] // self.pack,)
        if "/".join(self.path) in self.folded:
            bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
            bias = jnp.expand_dims(jnp.tile(bias, self.pack), tuple(range(x.ndim - 1)))
            return (x.astype(jnp.float32) + bias).astype(self.dtype)
        if self.fixed_scale is None:
            scale = self.param("scale", self.scale_init, shape, jnp.float32)
        else:
            scale = jnp.full(shape, self.fixed_scale, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)

        def normalised(x: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
            # scale · (x − mean) / √(variance + epsilon) + bias, as one multiply and one add for each element;
            # the folding happens on vectors of `channels`.
            multiplier = scale * lax.rsqrt(variance + self.epsilon)
            offset = bias - mean * multiplier
            multiplier, offset = jnp.tile(multiplier, self.pack), jnp.tile(offset, self.pack)
            axes = tuple(range(x.ndim - 1))
            return x.astype(jnp.float32) * jnp.expand_dims(multiplier, axes) + jnp.expand_dims(offset, axes)

        # Initialisation runs outside the mesh, on a dummy image: it neither reduces nor updates.
        is_fixed = "/".join(self.path).startswith(self.fixed)
        if not train or is_fixed or self.is_initializing():
            return normalised(x, running_mean.value, running_variance.value).astype(self.dtype)
        if self.ghost_batch:
            ghosts = x.reshape(-1, self.ghost_batch, *x.shape[1:])
            moments = jax.vmap(partial(group_moments, axis_name=None))(ghosts)
            y = jax.vmap(normalised)(ghosts, *moments).reshape(x.shape)
            moments = [jnp.mean(moment, axis=0) for moment in moments]
            mean, variance = _mean_over(self.axis_name, moments)
        else:
            mean, variance = group_moments(x, self.axis_name, pack=self.pack)
            y = normalised(x, mean, variance)
        keep = self.momentum
        running_mean.value = keep * running_mean.value + (1 - keep) * mean
        running_variance.value = keep * running_variance.value + (1 - keep) * variance
        return y.astype(self.dtype)


def group_moments(x: jax.Array, axis_name: str | None, *, pack: int = 1) -> tuple[jax.Array, jax.Array]:
    """Returns float32 mean and biased variance of each channel over all devices along ``axis_name``.

    The two travel in one all-reduce: at 1,024 cores its latency, not its 4 KiB, is the cost. The channels of
    ``pack`` images side by side are averaged too.
    """
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    moments = jnp.stack([jnp.mean(x, axes), jnp.mean(lax.square(x), axes)])
    moments = jnp.mean(moments.reshape(2, pack, -1), axis=1) if pack > 1 else moments
    mean, mean_of_squares = checkpoint_name(_mean_over(axis_name, moments), MOMENTS)
    return mean, jnp.maximum(mean_of_squares - lax.square(mean), 0.0)


def _mean_over(axis_name: str | None, moments: Any) -> Any:
    return lax.pmean(moments, axis_name) if axis_name else moments
