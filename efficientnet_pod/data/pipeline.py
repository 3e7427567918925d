"""From a source to host batches: order, host shares, padding and masks, as deterministic tf.data datasets."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from efficientnet_pod.data.faults import Batches, Skips, Undecoded
from efficientnet_pod.data.preprocess import Preprocessing, eval_image, train_image
from efficientnet_pod.data.sources import Example, Indexed, Records, Source
from efficientnet_pod.errors import UserError

# Undecoded examples, about 110 kB each for ImageNet: 0.5 GB a host. TFDS writes its records in random order;
# each epoch shuffles the files, and this buffer the records that come out of them.
SHUFFLE_BUFFER = 4096


def train_batches(
    source: Source,
    how: Preprocessing,
    *,
    global_batch: int,
    first_image: int,
    seed: int,
    host_index: int = 0,
    host_count: int = 1,
    skips: Skips | None = None,
) -> Batches:
    """Returns the endless training batches of one host, from the image at place ``first_image`` on.

    Elements are ``{"image": (host_batch, image_size, image_size, 3), "label": (host_batch,) int32}``,
    host_batch = global_batch / host_count. Places count the images of all hosts since the start of the run; a
    run that enters at any of them sees what the uninterrupted run sees from there on.

    Indexed sources: each epoch is one permutation of all images, each host takes its slice of every global
    batch, and batches straddle epochs, so the global batches do not depend on the number of hosts. Record
    files: each host has a fixed share, permuted each epoch through a buffer; entering within an epoch reads
    past the undecoded examples before it. The crop and all else that is random about an image is a function
    of (seed, epoch, image).

    ``skips`` counts the images that cannot be decoded and are left out; by default the first of them stops
    the stream. Raises UserError for impossible arguments.
    """
    host = _host(global_batch, host_index, host_count, first_image)
    if isinstance(source.train, Records):
        _require_share(source.train, host)

    def finish(example: Example, key: tf.Tensor) -> Example:
        image, label = _checked(example, source.num_classes)
        return {"image": train_image(image, key, how), "label": label}

    def open_at(number: int) -> tf.data.Dataset:
        at = host.later(number)
        if isinstance(source.train, Indexed):
            return _batched(_map(_permuted(source.train, at, seed), finish), host)
        return _batched(_map(_shuffled(source.train, at, seed), finish), host)

    def look(number: int) -> Iterator[Undecoded]:
        at = host.later(number)
        if isinstance(source.train, Indexed):
            turns = tf.data.Dataset.range(host.batch)
            return _fetched(source.train, turns.map(_permutation(source.train, at, seed)))
        return _read(_shuffled(source.train, at, seed).take(host.batch))

    return Batches(
        "training", source.num_classes, open_at, look, finish, _locate(source.train), skips or Skips(0)
    )


def eval_batches(
    source: Source, how: Preprocessing, *, global_batch: int, host_index: int = 0, host_count: int = 1
) -> Batches:
    """Returns one host's ceil(num_eval / global_batch) batches; all hosts together hold each image once.

    Elements are those of train_batches and ``"mask": (host_batch,) float32``, 1 for an image, 0 for padding.
    Every host has as many batches, so that collectives match; some may be padding only. ``how`` is that of
    training, which decides the crop. Raises UserError for impossible arguments.
    """
    host = _host(global_batch, host_index, host_count)

    def finish(example: Example) -> Example:
        image, label = _checked(example, source.num_classes)
        return {"image": eval_image(image, how), "label": label, "mask": tf.ones((), tf.float32)}

    nothing = {
        "image": tf.zeros((how.image_size, how.image_size, 3), how.dtype),
        "label": tf.zeros((), tf.int32),
        "mask": tf.zeros((), tf.float32),
    }
    num_batches = -(-source.num_eval // global_batch)

    def open_at(number: int) -> tf.data.Dataset:
        examples, count = _in_order(source.eval, host)
        padding = tf.data.Dataset.from_tensors(nothing).repeat(num_batches * host.batch - count)
        images = padding if examples is None else _map(examples, finish).concatenate(padding)
        return _batched(images.skip(number * host.batch), host)

    def look(number: int) -> Iterator[Undecoded]:
        first = number * host.batch
        if isinstance(source.eval, Indexed):
            turns = tf.data.Dataset.range(first, min(first + host.batch, _eval_count(source.eval, host)))
            return _fetched(source.eval, turns.map(lambda turn: (host.place(turn),)))
        examples, _ = _in_order(source.eval, host)
        kept = examples.skip(first).take(host.batch) if examples is not None else tf.data.Dataset.range(0)
        return _read(kept.map(lambda example: (example,)))

    return Batches("evaluation", source.num_classes, open_at, look, finish, _locate(source.eval))


@dataclass(frozen=True)
class _Host:
    """One of ``count`` hosts, which takes ``batch`` neighbours of every global batch from ``first`` on."""

    index: int
    count: int
    batch: int
    first: int

    def later(self, batches: int) -> "_Host":
        """Returns the same host so many batches further on."""
        return replace(self, first=self.first + batches * self.batch * self.count)

    def place(self, turn: tf.Tensor) -> tf.Tensor:
        """Returns the place in the stream of all hosts of this host's ``turn``-th image."""
        step = tf.math.floordiv(turn, self.batch)
        return self.first + (step * self.count + self.index) * self.batch + tf.math.floormod(turn, self.batch)


def _host(global_batch: int, host_index: int, host_count: int, first_image: int = 0) -> _Host:
    if not 0 <= host_index < host_count:
        raise UserError(f"host index is {host_index}; it must be 0..{host_count - 1}; set it for each host")
    if global_batch < 1 or global_batch % host_count:
        above = (max(global_batch, 0) // host_count + 1) * host_count
        raise UserError(
            f"global batch is {global_batch}; it must be a positive multiple of the {host_count} hosts; "
            f"use {above}"
        )
    return _Host(host_index, host_count, global_batch // host_count, first_image)


def _permuted(examples: Indexed, host: _Host, seed: int) -> tf.data.Dataset:
    """Returns (example, key) pairs by arithmetic: no buffer, no state, entered anywhere at no cost."""
    number = _permutation(examples, host, seed)

    def example(turn: tf.Tensor) -> tuple[Example, tf.Tensor]:
        index, key = number(turn)
        return examples.fetch(index), key

    return _map(tf.data.Dataset.range(sys.maxsize), example)


def _permutation(
    examples: Indexed, host: _Host, seed: int
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns a function from the host's turn to the image's number and key."""
    count = examples.num_examples

    def number(turn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        place = host.place(turn)
        epoch, rank = tf.math.floordiv(place, count), tf.math.floormod(place, count)
        index = tf.random.experimental.index_shuffle(  # type: ignore[attr-defined]
            rank, seed=tf.stack([tf.constant(seed, tf.int64), epoch]), max_index=count - 1
        )
        return index, _key(seed, epoch, index)

    return number


def _require_share(examples: Records, host: _Host) -> None:
    if not examples.share(host.index, host.count).num_examples:
        raise UserError(
            f"{examples.num_examples} training images for {host.count} hosts; each needs one; use fewer hosts"
        )


def _shuffled(examples: Records, host: _Host, seed: int) -> tf.data.Dataset:
    """Returns (example, key) pairs of the host's share, shuffled anew each epoch."""
    share = examples.share(host.index, host.count)
    first_epoch, seen = divmod(host.first // host.count, share.num_examples)

    @tf.autograph.experimental.do_not_convert
    def epoch_examples(epoch: tf.Tensor) -> tf.data.Dataset:
        order: Any = seed * 2**32 + epoch  # a tensor, which the stubs of tf.data do not expect
        shuffled = share.read(order).shuffle(SHUFFLE_BUFFER, seed=order, reshuffle_each_iteration=False)
        entered = shuffled.skip(tf.where(epoch == first_epoch, tf.constant(seen, tf.int64), 0))
        return entered.map(lambda example: (example, _key(seed, epoch, _fingerprint(example["name"]))))

    return tf.data.Dataset.range(first_epoch, sys.maxsize).flat_map(epoch_examples)


def _fingerprint(name: tf.Tensor) -> tf.Tensor:
    """Returns 63 bits of the name's FarmHash fingerprint, the same on every machine."""
    return tf.strings.to_hash_bucket_fast(name, sys.maxsize)


def _in_order(examples: Indexed | Records, host: _Host) -> tuple[tf.data.Dataset | None, int]:
    """Returns the host's examples in stored order, None where it has none, and their number."""
    if isinstance(examples, Records):
        share = examples.share(host.index, host.count)
        return (share.read(None) if share.num_examples else None), share.num_examples
    count = _eval_count(examples, host)
    turns = tf.data.Dataset.range(count)
    return _map(turns, lambda turn: examples.fetch(host.place(turn))), count


def _eval_count(examples: Indexed, host: _Host) -> int:
    """Returns how many images of an evaluation are this host's."""
    full, rest = divmod(examples.num_examples, host.batch * host.count)
    return full * host.batch + min(max(rest - host.index * host.batch, 0), host.batch)


def _fetched(examples: Indexed, order: tf.data.Dataset) -> Iterator[Undecoded]:
    """Yields the examples of which ``order`` has the number, and what else ``finish`` takes."""
    for index, *rest in order:
        yield Undecoded(int(index), lambda index=index, rest=rest: (examples.fetch(index), *rest))


def _read(examples: tf.data.Dataset) -> Iterator[Undecoded]:
    """Yields examples that are read from the front, so that only their names say where they are."""
    for arguments in examples:
        yield Undecoded(None, lambda arguments=arguments: arguments)


def _locate(examples: Indexed | Records) -> Callable[[], str | None]:
    """Returns a function that finds the first record that cannot be read; None where there is none."""
    del examples
    return lambda: None


def _key(seed: int, epoch: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Returns the seed pair of one image, unique over (seed, epoch, image), int64."""
    return tf.stack([epoch + seed * 2**32, image])


def _checked(example: Example, num_classes: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns image and label; the dataset raises where the label is impossible."""
    label = example["label"]
    # The op itself: tf.debugging.Assert wraps it in a conditional, which costs more than the comparison.
    in_range = tf.raw_ops.Assert(
        condition=(label >= 0) & (label < num_classes),
        data=[f"label outside 0..{num_classes - 1}"],
        summarize=3,
    )
    with tf.control_dependencies([in_range]):
        return tf.identity(example["image"]), tf.identity(label)


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
