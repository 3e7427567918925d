"""Input whitening: a fixed first layer that decorrelates the pixels of a patch, computed from images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from efficientnet_pod.models.convolutions import conv2d
from efficientnet_pod.models.initial import Patches

PATCH = 3  # pixels of a side
IMAGES = 10_000  # of the training images, the first ones, as the source has it
EPSILON = 1e-2  # the source's
_AT_ONCE = 256  # images whose patches are in memory together


def whitening_kernel(images: np.ndarray, epsilon: float = EPSILON) -> np.ndarray:
    """Returns the float32 kernel (3, 3, channels, 9 · channels) whose outputs on patches are uncorrelated.

    Output i is a patch times the i-th eigenvector of the second moments of all patches, by falling
    eigenvalue, over √(eigenvalue + epsilon). Means are not subtracted. Eigenvectors have no sign: here their
    largest component is positive. Everything is float64 until the last rounding.

    Args:
      images: normalised, (number, height, width, channels); patches are those without padding.
      epsilon: limit to the gain of directions with hardly any variance, for images of unit variance.

    Source: davidcpage/cifar10-fast, ``eigens`` and ``whitening_filter``.
    """
    channels = images.shape[-1]
    moments, number = np.zeros((PATCH * PATCH * channels,) * 2), 0
    for first in range(0, len(images), _AT_ONCE):
        part = np.asarray(images[first : first + _AT_ONCE], np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(part, (PATCH, PATCH), axis=(1, 2))
        patches = np.moveaxis(windows, 3, -1).reshape(-1, len(moments))
        moments += patches.T @ patches
        number += len(patches)
    eigenvalues, vectors = np.linalg.eigh(moments / (number - 1))
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    kernel = vectors * np.sign(largest) / np.sqrt(eigenvalues + epsilon)
    return kernel.reshape(PATCH, PATCH, channels, -1).astype(np.float32)


class Whitening(nn.Module):
    """A 3×3 convolution whose kernel is a parameter that no optimizer changes.

    Its gradient is zero, and :mod:`optim.masks` knows ``fixed_kernel`` as neither decayed nor adapted. It is
    a parameter all the same, so that checkpoints hold it. Until :func:`whitening_kernel` is put there, the
    outputs are the pixels of the patch.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns (batch, height, width, 9 · channels) in ``dtype``."""
        shape = (PATCH, PATCH, x.shape[-1], PATCH * PATCH * x.shape[-1])
        kernel = jax.lax.stop_gradient(self.param("fixed_kernel", Patches(), shape, jnp.float32))
        return conv2d(x.astype(self.dtype), kernel.astype(self.dtype))


def whitened(variables: dict[str, Any], images: np.ndarray) -> dict[str, Any]:
    """Returns a network's variables with the whitening kernel of the normalised images in its one place.

    Raises ValueError where the network has no such place, or several.
    """
    params = variables["params"]
    places = [path for path, _ in jax.tree.leaves_with_path(params) if path[-1].key == "fixed_kernel"]
    if len(places) != 1:
        raise ValueError(f"the network has {len(places)} whitening layers; it must have one")
    kernel = whitening_kernel(images)
    params = jax.tree.map_with_path(lambda path, old: kernel if path in places else old, params)
    return variables | {"params": params}
