"""From a source to host batches: order, host shares, padding and masks, as deterministic tf.data datasets."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from efficientnet_pod.data.preprocess import check_augmentation, eval_image, require_image, train_image
from efficientnet_pod.data.sources import Example, Indexed, Records, Source
from efficientnet_pod.errors import UserError

# Undecoded examples, about 110 kB each for ImageNet: 0.5 GB a host. TFDS writes its records in random order;
# each epoch shuffles the files, and this buffer the records that come out of them.
SHUFFLE_BUFFER = 4096


def train_batches(
    source: Source,
    *,
    image_size: int,
    global_batch: int,
    start_step: int,
    seed: int,
    augment: str,
    max_shift: int = 0,
    host_index: int = 0,
    host_count: int = 1,
    dtype: str = "float32",
) -> tf.data.Dataset:
    """Returns the endless training batches of one host from ``start_step`` on.

    Elements are ``{"image": (host_batch, image_size, image_size, 3) dtype, "label": (host_batch,) int32}``,
    host_batch = global_batch / host_count. ``augment`` and ``max_shift`` (output pixels) are explained at
    preprocess.train_image. The stream is a function of the arguments alone: a run that enters at step k sees
    what the uninterrupted run sees from step k on.

    Indexed sources: each epoch is one permutation of all images, each host takes its slice of every global
    batch, and batches straddle epochs, so the global batches do not depend on the number of hosts. TFDS
    records: each host has a fixed share, permuted each epoch through a buffer; entering within an epoch reads
    past the undecoded examples before it.

    Raises UserError for impossible arguments.
    """
    check_augmentation(augment, image_size=image_size, max_shift=max_shift)
    host = _host(global_batch, host_index, host_count)
    if isinstance(source.train, Indexed):
        examples = _permuted(source.train, host, start_step, seed)
    else:
        examples = _shuffled(source.train, host, start_step, seed)

    def finish(example: Example, key: tf.Tensor) -> Example:
        image, label = _checked(example, source.num_classes)
        image = train_image(image, key, image_size=image_size, augment=augment, max_shift=max_shift)
        return {"image": tf.cast(image, dtype), "label": label}

    return _batched(_map(examples, finish), host)


def eval_batches(
    source: Source,
    *,
    image_size: int,
    global_batch: int,
    augment: str,
    host_index: int = 0,
    host_count: int = 1,
    dtype: str = "float32",
) -> tf.data.Dataset:
    """Returns one host's ceil(num_eval / global_batch) batches; all hosts together hold each image once.

    Elements are those of train_batches and ``"mask": (host_batch,) float32``, 1 for an image, 0 for padding.
    Every host has as many batches, so that collectives match; some may be padding only. ``augment`` is the
    training augmentation, which decides the crop. Raises UserError for impossible arguments.
    """
    check_augmentation(augment, image_size=image_size, max_shift=0)
    host = _host(global_batch, host_index, host_count)

    def finish(example: Example) -> Example:
        image, label = _checked(example, source.num_classes)
        image = eval_image(image, image_size=image_size, augment=augment)
        return {"image": tf.cast(image, dtype), "label": label, "mask": tf.ones((), tf.float32)}

    nothing = {
        "image": tf.zeros((image_size, image_size, 3), dtype),
        "label": tf.zeros((), tf.int32),
        "mask": tf.zeros((), tf.float32),
    }
    examples, count = _in_order(source.eval, host)
    num_batches = -(-source.num_eval // global_batch)
    padding = tf.data.Dataset.from_tensors(nothing).repeat(num_batches * host.batch - count)
    return _batched(_map(examples, finish).concatenate(padding) if examples is not None else padding, host)


@dataclass(frozen=True)
class _Host:
    """One of ``count`` hosts, which takes ``batch`` neighbours out of every global batch."""

    index: int
    count: int
    batch: int

    def position(self, turn: tf.Tensor) -> tf.Tensor:
        """Returns the place in the stream of all hosts of this host's image number ``turn``."""
        step = tf.math.floordiv(turn, self.batch)
        return (step * self.count + self.index) * self.batch + tf.math.floormod(turn, self.batch)


def _host(global_batch: int, host_index: int, host_count: int) -> _Host:
    if not 0 <= host_index < host_count:
        raise UserError(f"host index is {host_index}; it must be 0..{host_count - 1}; set it for each host")
    if global_batch < 1 or global_batch % host_count:
        above = (max(global_batch, 0) // host_count + 1) * host_count
        raise UserError(
            f"global batch is {global_batch}; it must be a positive multiple of the {host_count} hosts; "
            f"use {above}"
        )
    return _Host(host_index, host_count, global_batch // host_count)


def _permuted(examples: Indexed, host: _Host, start_step: int, seed: int) -> tf.data.Dataset:
    """Returns (example, key) pairs by arithmetic: no buffer, no state, entered anywhere at no cost."""
    count = examples.num_examples

    def example(turn: tf.Tensor) -> tuple[Example, tf.Tensor]:
        position = host.position(turn)
        epoch, rank = tf.math.floordiv(position, count), tf.math.floormod(position, count)
        index = tf.random.experimental.index_shuffle(  # type: ignore[attr-defined]
            rank, seed=tf.stack([tf.constant(seed, tf.int64), epoch]), max_index=count - 1
        )
        return examples.fetch(index), _key(seed, epoch, index)

    return _map(tf.data.Dataset.range(start_step * host.batch, sys.maxsize), example)


def _shuffled(examples: Records, host: _Host, start_step: int, seed: int) -> tf.data.Dataset:
    """Returns (example, key) pairs of the host's share, shuffled anew each epoch."""
    share = examples.share(host.index, host.count)
    if not share.num_examples:
        raise UserError(
            f"{examples.num_examples} training images for {host.count} hosts; each needs one; use fewer hosts"
        )
    start = start_step * host.batch
    first_epoch, seen = divmod(start, share.num_examples)

    @tf.autograph.experimental.do_not_convert
    def epoch_examples(epoch: tf.Tensor) -> tf.data.Dataset:
        order: Any = seed * 2**32 + epoch  # a tensor, which the stubs of tf.data do not expect
        shuffled = share.read(order).shuffle(SHUFFLE_BUFFER, seed=order, reshuffle_each_iteration=False)
        return shuffled.skip(tf.where(epoch == first_epoch, tf.constant(seen, tf.int64), 0))

    stream = tf.data.Dataset.range(first_epoch, sys.maxsize).flat_map(epoch_examples)
    turns = tf.data.Dataset.range(start, sys.maxsize)
    return tf.data.Dataset.zip(stream, turns).map(
        lambda example, turn: (example, _key(seed, host.index, turn))
    )


def _in_order(examples: Indexed | Records, host: _Host) -> tuple[tf.data.Dataset | None, int]:
    """Returns the host's examples in stored order, None where it has none, and their number."""
    if isinstance(examples, Records):
        share = examples.share(host.index, host.count)
        return (share.read(None) if share.num_examples else None), share.num_examples
    full, rest = divmod(examples.num_examples, host.batch * host.count)
    count = full * host.batch + min(max(rest - host.index * host.batch, 0), host.batch)
    turns = tf.data.Dataset.range(count)
    return _map(turns, lambda turn: examples.fetch(host.position(turn))), count


def _key(seed: int, stream: tf.Tensor | int, number: tf.Tensor) -> tf.Tensor:
    """Returns the seed pair of one image, unique over (seed, stream, number), int64."""
    return tf.stack([tf.cast(stream, tf.int64) + seed * 2**32, number])


def _checked(example: Example, num_classes: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns image and label; the dataset raises, naming the example, where either is impossible."""
    label, name = example["label"], example["name"]
    in_range = (label >= 0) & (label < num_classes)
    message = f"label outside 0..{num_classes - 1}; correct or remove it"
    with tf.control_dependencies([tf.debugging.Assert(in_range, [message, label, name])]):
        return require_image(example["image"], name), tf.identity(label)


def _map(dataset: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _batched(images: tf.data.Dataset, host: _Host) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # As many calls at once as there are cores. The tuner would change that number, grow its buffers, and hold
    # up the end of a run for as long as it sleeps between two looks, up to a minute.
    options.autotune.enabled = False
    # Two batches ahead, not as many as fit: 512 images of 456 pixels are 1.3 GB.
    batches = images.batch(host.batch, drop_remainder=True).prefetch(2)
    return batches.with_options(options)
