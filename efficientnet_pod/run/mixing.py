"""Mixup and CutMix on the device: each training image is mixed with the one before it in the batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class MixedBatch(NamedTuple):
    """A batch whose images are made of two each.

    Attributes:
      images: float32 (batch, height, width, 3): the mixtures.
      label: int32 (batch,): label of the first image.
      partner: int32 (batch,): label of the second image.
      share: float32 (batch,), 0..1: share of the first image.
    """

    images: jax.Array
    label: jax.Array
    partner: jax.Array
    share: jax.Array

    @property
    def main_label(self) -> jax.Array:
        """The label with the greater share."""
        return jnp.where(self.share >= 0.5, self.label, self.partner)


def mix(images: jax.Array, labels: jax.Array, key: jax.Array, *, mixup: float, cutmix: float) -> MixedBatch:
    """Returns each image mixed with the one before it in the batch, in a share drawn for it alone.

    Mixup adds the two, λ to 1 − λ. CutMix cuts a rectangle of 1 − λ of the area, with the image's aspect
    ratio and its centre anywhere, out of the partner; what lies outside the image is lost, and the share
    counts pixels. λ is Beta(α, α). Where both are asked for, each image draws one of them.

    Args:
      images: (batch, height, width, 3), float32.
      labels: (batch,).
      key: key of the draws.
      mixup: α of mixup; 0 for none.
      cutmix: α of CutMix; 0 for none.

    Source: Zhang et al., arXiv 1710.09412; Yun et al., arXiv 1905.04899, appendix A. Both draw one λ for a
    batch and pair its images by a permutation; the order of the images is random here already.
    """
    which_key, mixup_key, cutmix_key, centre_key = jax.random.split(key, 4)
    batch, height, width, _ = images.shape
    partner = jnp.roll(labels, 1)
    both = mixup > 0 and cutmix > 0
    cuts = jax.random.bernoulli(which_key, 0.5, (batch,)) if both else jnp.full((batch,), cutmix > 0)
    weights = jnp.ones((batch, height, width), jnp.float32)
    if mixup > 0:
        share = jax.random.beta(mixup_key, mixup, mixup, (batch,), jnp.float32)
        weights = jnp.where(_per_image(cuts), weights, _per_image(share))
    if cutmix > 0:
        share = jax.random.beta(cutmix_key, cutmix, cutmix, (batch,), jnp.float32)
        centres = jax.random.uniform(centre_key, (batch, 2), jnp.float32)
        outside = 1 - _boxes(share, centres, height, width).astype(jnp.float32)
        weights = jnp.where(_per_image(cuts), outside, weights)
    mixed = images * weights[..., None] + jnp.roll(images, 1, axis=0) * (1 - weights)[..., None]
    return MixedBatch(mixed, labels, partner, jnp.mean(weights, (1, 2)))


def _boxes(share: jax.Array, centres: jax.Array, height: int, width: int) -> jax.Array:
    """Returns bool (batch, height, width): rectangles of 1 − share of the area around the centres (0..1)."""

    def inside(extent: int, centre: jax.Array) -> jax.Array:  # (batch, extent)
        middle = jnp.floor(centre * extent)
        half = jnp.floor(extent * jnp.sqrt(1 - share)) / 2
        pixel = jnp.arange(extent, dtype=jnp.float32)[None, :]
        low, high = jnp.floor(middle - half)[:, None], jnp.floor(middle + half)[:, None]
        return (pixel >= low) & (pixel < high)

    return inside(height, centres[:, 0])[:, :, None] & inside(width, centres[:, 1])[:, None, :]


def _per_image(values: jax.Array) -> jax.Array:
    return values[:, None, None]
