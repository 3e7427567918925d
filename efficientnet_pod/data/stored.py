"""The training images of a source as arrays in stored order, for computations before training."""

import dataclasses
from collections.abc import Callable
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.pipeline import eval_batches
from efficientnet_pod.data.sources.types import Source
from efficientnet_pod.recipe.preprocessing import Preprocessing

_AT_ONCE = 1000  # images prepared


def stored_images(source: Source, preprocessing: Preprocessing, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first ``number`` training images, or all, as evaluation would show them, and their labels.

    Images are (number, image_size, image_size, 3) of ``preprocessing.dtype``, levels of 0..255; labels are
    int32.

    Raises:
      UserError: an image cannot be used.
    """
    number = min(number, source.num_train)
    as_eval = dataclasses.replace(source, eval=source.train)
    stored = eval_batches(as_eval, preprocessing, HostShare(_AT_ONCE))
    stream = dataclasses.replace(stored, split="training").as_numpy_iterator()
    batches = list(islice(stream, -(-number // _AT_ONCE)))
    image, label = (
        np.concatenate([batch[name] for batch in batches])[:number] for name in ("image", "label")
    )
    return image, label


def first_images(
    source: Source,
    preprocessing: Preprocessing,
    number: int,
    normalise: Callable[[jax.Array], jax.Array],
) -> np.ndarray:
    """Returns the first ``number`` training images, or all, as evaluation would show them to the network.

    They are normalised, float32, (number, image_size, image_size, 3), and the same on every host.
    """
    images, _ = stored_images(source, preprocessing, number)
    parts = (images[first : first + _AT_ONCE] for first in range(0, len(images), _AT_ONCE))
    return np.concatenate([np.asarray(normalise(jnp.asarray(part))) for part in parts])
