"""The first training images of a source as numpy, for what is computed from them before training."""

import jax.numpy as jnp
import numpy as np
import tensorflow as tf

from efficientnet_pod.data.preprocess import Preprocessing, eval_image
from efficientnet_pod.data.splits import Source
from efficientnet_pod.images import normalise


def first_images(source: Source, how: Preprocessing, number: int) -> np.ndarray:
    """Returns the first ``number`` training images, or all, as evaluation would show them to the network.

    They are normalised, float32, (number, image_size, image_size, 3), and the same on every host.
    """
    examples = source.train.part(0, min(number, source.num_train))
    images = examples.map(lambda example: eval_image(example["image"], how), tf.data.AUTOTUNE)
    batches = images.batch(1024).as_numpy_iterator()
    return np.concatenate([np.asarray(normalise(jnp.asarray(batch))) for batch in batches])
