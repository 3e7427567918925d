"""Owns the Keras side of the input comparison: its preprocessing layers in tf.data, as its guides place them.

`image_dataset_from_directory` decodes and resizes to 256 pixels; the layers work on batches in `Dataset.map`.
Keras has no crop of random size and shape, and RandAugment but no AutoAugment.
"""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

IMAGE_SIZE, RESIZED = 224, 256


def prepare(photos: Path, task: str, batch: int) -> tuple[Iterator, str]:
    """Returns the endless batches of images, as numpy arrays, and a description of them."""
    train = task != "eval"
    data = keras.utils.image_dataset_from_directory(
        str(photos / ("train" if train else "validation")),
        image_size=(RESIZED, RESIZED),
        crop_to_aspect_ratio=True,
        batch_size=batch,
        shuffle=train,
        seed=0,
        verbose=False,
    )
    layers: list[keras.Layer] = [keras.layers.CenterCrop(IMAGE_SIZE, IMAGE_SIZE)]
    if train:
        layers = [keras.layers.RandomCrop(IMAGE_SIZE, IMAGE_SIZE), keras.layers.RandomFlip("horizontal")]
    if task == "RandAugment":
        layers.append(keras.layers.RandAugment(value_range=(0, 255), num_ops=2, factor=0.5))
    layers.append(
        keras.layers.Normalization(
            mean=[255 * mean for mean in (0.485, 0.456, 0.406)],
            variance=[(255 * stddev) ** 2 for stddev in (0.229, 0.224, 0.225)],
        )
    )

    def augment(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for layer in layers:
            images = layer(images, training=True) if train else layer(images)
        return images, labels

    batches = data.repeat().map(augment, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    what = f"whole image to {RESIZED}, then a crop; float32 normalised, keras {keras.__version__}"
    return (images for images, _ in batches.as_numpy_iterator() if len(images) == batch), what
