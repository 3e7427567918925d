"""The training images of a source as arrays, in stored order, for what is made of them before training."""

import dataclasses
from collections.abc import Callable
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np

from efficientnet_pod.data.pipeline import eval_batches
from efficientnet_pod.data.sources.opening import Source
from efficientnet_pod.data.transforms.preprocess import Preprocessing

_AT_ONCE = 1000  # images prepared


def stored_images(source: Source, how: Preprocessing, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first ``number`` training images, or all, as evaluation would show them, and their labels.

    Images are (number, image_size, image_size, 3) of ``how.dtype``, levels of 0..255; labels are int32.

    Raises:
      UserError: an image cannot be used.
    """
    number = min(number, source.num_train)
    stored = eval_batches(dataclasses.replace(source, eval=source.train), how, global_batch=_AT_ONCE)
    stream = dataclasses.replace(stored, split="training").as_numpy_iterator()
    batches = list(islice(stream, -(-number // _AT_ONCE)))
    image, label = (
        np.concatenate([batch[name] for batch in batches])[:number] for name in ("image", "label")
    )
    return image, label


def first_images(
    source: Source, how: Preprocessing, number: int, normalise: Callable[[jax.Array], jax.Array]
) -> np.ndarray:
    """Returns the first ``number`` training images, or all, as evaluation would show them to the network.

    They are normalised, float32, (number, image_size, image_size, 3), and the same on every host.
    """
    images, _ = stored_images(source, how, number)
    parts = (images[first : first + _AT_ONCE] for first in range(0, len(images), _AT_ONCE))
    return np.concatenate([np.asarray(normalise(jnp.asarray(part))) for part in parts])
