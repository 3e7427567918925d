"""Order of the images: an epoch's permutation, a host's turns, and the key of each image's random draws."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.sources.reading import map_in_parallel, read_records
from efficientnet_pod.data.sources.types import Example, Indexed, Records
from efficientnet_pod.errors import UserError

# Undecoded examples, about 110 kB each for ImageNet: 0.5 GB a host. TFDS writes its records in random order;
# each epoch shuffles the files, and this buffer the records that come out of them.
SHUFFLE_BUFFER = 4096


def permuted(examples: Indexed, share: HostShare, seed: int) -> tf.data.Dataset:
    """Returns (example, key) pairs without buffer or state: entering anywhere costs nothing."""
    number = permutation(examples, share, seed)

    def example(turn: tf.Tensor) -> tuple[Example, tf.Tensor]:
        index, key = number(turn)
        return examples.fetch(index), key

    return map_in_parallel(tf.data.Dataset.range(sys.maxsize), example)


def permutation(
    examples: Indexed, share: HostShare, seed: int
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns a function from the host's turn to the image's number and key."""
    count = examples.num_examples

    def number(turn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        place = share.place(turn)
        epoch, rank = place // count, place % count
        index = tf.random.experimental.index_shuffle(  # type: ignore[attr-defined]
            rank, seed=tf.stack([tf.constant(seed, tf.int64), epoch]), max_index=count - 1
        )
        return index, _key(seed, epoch, index)

    return number


def shuffled(examples: Records, share: HostShare, seed: int) -> tf.data.Dataset:
    """Returns (example, key) pairs of the host's records, shuffled anew each epoch.

    Raises:
      UserError: this host's share holds no record.
    """
    records = examples.share(share.host_index, share.host_count)
    if not records.num_examples:
        raise UserError(
            f"{examples.num_examples} training images for {share.host_count} hosts; each needs one; "
            "use fewer hosts"
        )
    first_epoch, seen = divmod(share.first_image // share.host_count, records.num_examples)

    @tf.autograph.experimental.do_not_convert
    def epoch_examples(epoch: tf.Tensor) -> tf.data.Dataset:
        # Of 31 bits: TensorFlow folds a longer one so that seed 0, epoch 2 would be seed 1, epoch 0.
        order: Any = tf.random.stateless_uniform(
            [], tf.stack([tf.constant(seed, tf.int64), epoch]), maxval=2**31 - 1, dtype=tf.int64
        )
        epoch_records = read_records(records, order)
        mixed = epoch_records.shuffle(SHUFFLE_BUFFER, seed=order, reshuffle_each_iteration=False)
        entered = mixed.skip(tf.where(epoch == first_epoch, tf.constant(seen, tf.int64), 0))
        return entered.map(lambda example: (example, _key(seed, epoch, _fingerprint(example["name"]))))

    return tf.data.Dataset.range(first_epoch, sys.maxsize).flat_map(epoch_examples)


def _fingerprint(name: tf.Tensor) -> tf.Tensor:
    """Returns 63 bits of the FarmHash fingerprint of a record's file and number: the same on every machine.

    The folder in front is left out, because data may be moved, and so is the record's own name behind.
    """
    place = tf.strings.regex_replace(name, r"^(?:.*/)?([^/]+#\d+)(?: \(.*\))?$", r"\1")
    return tf.strings.to_hash_bucket_fast(place, sys.maxsize)


def in_order(
    examples: Indexed | Records, share: HostShare, turns: range, order: np.ndarray | None
) -> tuple[tf.data.Dataset, int]:
    """Returns the host's examples of these turns, in that order or as stored, and their number."""
    if isinstance(examples, Indexed):
        places, count = stored_places(examples, share, turns, order)
        return map_in_parallel(places, examples.fetch), count
    records = examples.share(share.host_index, share.host_count)
    count = min(len(turns), max(records.num_examples - turns.start, 0))
    dataset = read_records(records, None) if count else tf.data.Dataset.range(0)
    return dataset.skip(turns.start).take(count), count


def stored_places(
    examples: Indexed, share: HostShare, turns: range, order: np.ndarray | None
) -> tuple[tf.data.Dataset, int]:
    """Returns the numbers of the host's examples of these turns, and how many there are."""
    full, rest = divmod(examples.num_examples, share.global_batch)
    batch = share.host_batch
    own = full * batch + min(max(rest - share.host_index * batch, 0), batch)
    count = min(len(turns), max(own - turns.start, 0))
    places = tf.data.Dataset.range(turns.start, turns.start + count).map(share.place)
    if order is not None:
        table = tf.constant(order, tf.int64)
        places = places.map(lambda place: tf.gather(table, place))
    return places, count


def _key(seed: int, epoch: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Returns the seed pair of one image, unique over (seed, epoch, image), int64."""
    return tf.stack([epoch + seed * 2**32, image])
