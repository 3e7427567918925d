"""Which image comes when: the order of an epoch, the share of a host, the key of an image's draws."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from efficientnet_pod.data.sources.types import Example, Indexed, Records
from efficientnet_pod.errors import UserError

# Undecoded examples, about 110 kB each for ImageNet: 0.5 GB a host. TFDS writes its records in random order;
# each epoch shuffles the files, and this buffer the records that come out of them.
SHUFFLE_BUFFER = 4096


@dataclass(frozen=True)
class Host:
    """One of ``count`` hosts, which takes ``batch`` neighbours of every global batch from ``first`` on."""

    index: int
    count: int
    batch: int
    first: int

    def later(self, batches: int) -> "Host":
        """Returns the same host so many batches further on."""
        return replace(self, first=self.first + batches * self.batch * self.count)

    def place(self, turn: tf.Tensor) -> tf.Tensor:
        """Returns the place in the stream of all hosts of this host's ``turn``-th image."""
        step = tf.math.floordiv(turn, self.batch)
        return self.first + (step * self.count + self.index) * self.batch + tf.math.floormod(turn, self.batch)


def place_of_host(global_batch: int, host_index: int, host_count: int, first_image: int = 0) -> Host:
    """Returns one host of a global batch; raises UserError where the numbers do not go together."""
    if not 0 <= host_index < host_count:
        raise UserError(f"host index is {host_index}; it must be 0..{host_count - 1}; set it for each host")
    if global_batch < 1 or global_batch % host_count:
        above = (max(global_batch, 0) // host_count + 1) * host_count
        raise UserError(
            f"global batch is {global_batch}; it must be a positive multiple of the {host_count} hosts; "
            f"use {above}"
        )
    return Host(host_index, host_count, global_batch // host_count, first_image)


def permuted(examples: Indexed, host: Host, seed: int) -> tf.data.Dataset:
    """Returns (example, key) pairs by arithmetic: no buffer, no state, entered anywhere at no cost."""
    number = permutation(examples, host, seed)

    def example(turn: tf.Tensor) -> tuple[Example, tf.Tensor]:
        index, key = number(turn)
        return examples.fetch(index), key

    return map_in_parallel(tf.data.Dataset.range(sys.maxsize), example)


def permutation(
    examples: Indexed, host: Host, seed: int
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


def require_share(examples: Records, host: Host) -> None:
    """Raises UserError unless the host's share of the records has one."""
    if not examples.share(host.index, host.count).num_examples:
        raise UserError(
            f"{examples.num_examples} training images for {host.count} hosts; each needs one; use fewer hosts"
        )


def shuffled(examples: Records, host: Host, seed: int) -> tf.data.Dataset:
    """Returns (example, key) pairs of the host's share, shuffled anew each epoch."""
    share = examples.share(host.index, host.count)
    first_epoch, seen = divmod(host.first // host.count, share.num_examples)

    @tf.autograph.experimental.do_not_convert
    def epoch_examples(epoch: tf.Tensor) -> tf.data.Dataset:
        # Of 31 bits: TensorFlow folds a longer one so that seed 0, epoch 2 would be seed 1, epoch 0.
        order: Any = tf.random.stateless_uniform(
            [], tf.stack([tf.constant(seed, tf.int64), epoch]), maxval=2**31 - 1, dtype=tf.int64
        )
        shuffled = share.read(order).shuffle(SHUFFLE_BUFFER, seed=order, reshuffle_each_iteration=False)
        entered = shuffled.skip(tf.where(epoch == first_epoch, tf.constant(seen, tf.int64), 0))
        return entered.map(lambda example: (example, _key(seed, epoch, _fingerprint(example["name"]))))

    return tf.data.Dataset.range(first_epoch, sys.maxsize).flat_map(epoch_examples)


def _fingerprint(name: tf.Tensor) -> tf.Tensor:
    """Returns 63 bits of the FarmHash fingerprint of a record's file and number: the same on every machine.

    The name may begin with a folder, which data may be moved from, and end with what the record itself says.
    """
    place = tf.strings.regex_replace(name, r"^(?:.*/)?([^/]+#\d+)(?: \(.*\))?$", r"\1")
    return tf.strings.to_hash_bucket_fast(place, sys.maxsize)


def in_order(
    examples: Indexed | Records, host: Host, turns: range, order: np.ndarray | None
) -> tuple[tf.data.Dataset, int]:
    """Returns the host's examples of these turns, in that order or as stored, and their number."""
    if isinstance(examples, Records):
        share = examples.share(host.index, host.count)
        count = min(len(turns), max(share.num_examples - turns.start, 0))
        return (share.read(None) if count else tf.data.Dataset.range(0)).skip(turns.start).take(count), count
    places, count = stored_places(examples, host, turns, order)
    return map_in_parallel(places, examples.fetch), count


def stored_places(
    examples: Indexed, host: Host, turns: range, order: np.ndarray | None
) -> tuple[tf.data.Dataset, int]:
    """Returns the numbers of the host's examples of these turns, and how many they are."""
    full, rest = divmod(examples.num_examples, host.batch * host.count)
    own = full * host.batch + min(max(rest - host.index * host.batch, 0), host.batch)
    count = min(len(turns), max(own - turns.start, 0))
    places = tf.data.Dataset.range(turns.start, turns.start + count).map(host.place)
    if order is not None:
        table = tf.constant(order, tf.int64)
        places = places.map(lambda place: tf.gather(table, place))
    return places, count


def _key(seed: int, epoch: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Returns the seed pair of one image, unique over (seed, epoch, image), int64."""
    return tf.stack([epoch + seed * 2**32, image])


def map_in_parallel(dataset: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    """Returns the data set with the function applied to several examples at once, in their order."""
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
