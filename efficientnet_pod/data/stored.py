"""The training images of a source as arrays in stored order, for computations before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.pipeline import eval_batches
from efficientnet_pod.data.quiet import reason_of, tf
from efficientnet_pod.data.sources.reading import map_in_parallel
from efficientnet_pod.data.sources.types import Indexed, Source
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import progress_bar
from efficientnet_pod.recipe.preprocessing import Preprocessing

_AT_ONCE = 1000  # images prepared


def labelled(source: Source, field: str) -> Source:
    """Returns the source whose training split knows its labels; where it does not, all examples are read.

    No image is decoded. ``field`` is the field of the recipe that asks for the labels.

    Raises:
      UserError: the source is record files, which have to be read through for each start; or an example
        cannot be read, or has a label of no class.
    """
    train = source.train
    if not isinstance(train, Indexed):
        raise UserError(
            f"config.data.{field}=balanced needs the label of each training image, which '{source.name}' "
            "does not allow, read from the front; write a copy: efficientnet-pod data prepare --help"
        )
    if train.labels is None:
        numbers, fetch = tf.data.Dataset.range(train.num_examples), train.fetch
        stream = map_in_parallel(numbers, lambda index: fetch(index)["label"]).batch(_AT_ONCE)
        parts = []
        try:
            with progress_bar("reading the labels", total=train.num_examples, unit="images") as advance:
                for labels in stream.as_numpy_iterator():
                    parts.append(labels)
                    advance(len(labels))
        except (tf.errors.OpError, RuntimeError) as error:  # RuntimeError: of a reader in Python
            raise UserError(
                f"the labels of '{source.name}' cannot be read: {reason_of(error)}; copy the data set anew"
            ) from None
        train = dataclasses.replace(train, labels=np.concatenate(parts).astype(np.int32))
    assert train.labels is not None
    wrong = np.flatnonzero((train.labels < 0) | (train.labels >= source.num_classes))
    if len(wrong):
        raise UserError(
            f"image number {wrong[0]} of the training split has the label {train.labels[wrong[0]]}, outside "
            f"0..{source.num_classes - 1}; correct its label or remove it"
        )
    return dataclasses.replace(source, train=train)


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
