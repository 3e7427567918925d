"""Owns the Flax side of the input comparison: what the ImageNet example of Flax does, written anew.

Source: google/flax, examples/imagenet/input_pipeline.py. The crop is decoded alone, resized by the bicubic
kernel of TensorFlow 2, mirrored and normalised in float32; examples are shuffled in a buffer of 16 batches.
"""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

IMAGE_SIZE = 224
PADDING = 32
MEAN = tf.constant([[[0.485, 0.456, 0.406]]]) * 255
STDDEV = tf.constant([[[0.229, 0.224, 0.225]]]) * 255


def prepare(photos: Path, task: str, batch: int) -> tuple[Iterator, str]:
    """Returns the endless batches of images, as numpy arrays, and a description of them."""
    train = task != "eval"
    pattern = str(photos / ("train" if train else "validation") / "*" / "*.jpg")
    data = tf.data.Dataset.list_files(pattern, seed=0).map(
        tf.io.read_file, num_parallel_calls=tf.data.AUTOTUNE
    )
    if train:
        data = data.repeat().shuffle(16 * batch, seed=0)
    data = data.map(_train_image if train else _eval_image, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.batch(batch, drop_remainder=True)
    batches: Iterator[np.ndarray] = (data if train else data.repeat()).prefetch(10).as_numpy_iterator()
    return batches, f"float32 normalised, tensorflow {tf.__version__}"


def _train_image(encoded: tf.Tensor) -> tf.Tensor:
    size = tf.image.extract_jpeg_shape(encoded)
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
        size,
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    box = tf.concat([begin[:2], extent[:2]], 0)
    crop = tf.image.decode_and_crop_jpeg(encoded, box, channels=3)
    failed = tf.reduce_all(tf.shape(crop) == size)
    image = tf.cond(failed, lambda: _centre(encoded), lambda: _resize(crop))
    return _normalise(tf.image.random_flip_left_right(tf.ensure_shape(image, (IMAGE_SIZE, IMAGE_SIZE, 3))))


def _eval_image(encoded: tf.Tensor) -> tf.Tensor:
    return _normalise(tf.ensure_shape(_centre(encoded), (IMAGE_SIZE, IMAGE_SIZE, 3)))


def _centre(encoded: tf.Tensor) -> tf.Tensor:
    height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(encoded))
    short = tf.cast(tf.minimum(height, width), tf.float32)
    side = tf.cast(IMAGE_SIZE / (IMAGE_SIZE + PADDING) * short, tf.int32)
    box = tf.stack([(height - side + 1) // 2, (width - side + 1) // 2, side, side])
    return _resize(tf.image.decode_and_crop_jpeg(encoded, box, channels=3))


def _resize(image: tf.Tensor) -> tf.Tensor:
    return tf.image.resize(image, (IMAGE_SIZE, IMAGE_SIZE), tf.image.ResizeMethod.BICUBIC)


def _normalise(image: tf.Tensor) -> tf.Tensor:
    return (image - MEAN) / STDDEV
