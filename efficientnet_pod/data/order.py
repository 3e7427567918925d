"""Order of the images: an epoch's permutation, a host's turns, and the key of each image's random draws."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.sources.reading import (
    FILES_AT_ONCE,
    FileTable,
    fetch_each,
    map_in_parallel,
    read_files,
    read_records,
)
from efficientnet_pod.data.sources.types import Example, Indexed, Records

# Undecoded examples, about 110 kB each for ImageNet: 0.45 GB where one host reads all of a few lanes. TFDS
# writes its records in random order; each epoch shuffles the files, and these buffers the records that come
# out of them. The order depends on these numbers, so they are of the recipe, not of the machine.
SHUFFLE_BUFFER = 4096  # of all lanes together
_LEAST_BUFFER = 256  # of a lane
_LEAST_FILES = 4  # read at the same time in a lane; fewer where that would open more than _MOST_FILES
_MOST_FILES = 512  # if one host reads all lanes

# These do not change the order.
_MANY_LANES = 8  # on a host; then each lane's thread is enough
_RECORDS_AHEAD = 512  # on a host, outside the buffers: lanes are read at the same time


def permutation(
    examples: Indexed, share: HostShare, seed: int
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns a function from the host's turn, or from turns (n,), to the image's number and key."""
    count = examples.num_examples

    def number(turn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        place = share.place(turn, tf.gather)
        epoch, rank = place // count, place % count
        # As tf.random.experimental.index_shuffle, which puts this number before the two of a seed, and fails
        # for several seeds, other than its documentation says.
        index = _shuffled(rank, count, [498247692, seed, epoch])
        return index, _key(seed, epoch, index)

    return number


def by_class(
    examples: Indexed, share: HostShare, seed: int
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Returns a function as :func:`permutation` does; each class has equally many turns.

    Of K classes with images, every K turns of all hosts hold one image of each, in an order of their own. The
    images of a class come in a permutation, then in another: none comes again before all others have come.
    A key is unique over (seed, permutation, image): an image that comes again is augmented anew.
    """
    assert examples.labels is not None, "the labels are read first"
    counts = np.bincount(examples.labels)
    stored = np.argsort(examples.labels, kind="stable")  # the images class by class
    present = np.flatnonzero(counts)
    starts, sizes = (np.cumsum(counts) - counts)[present], counts[present]
    classes = len(present)

    def number(turn: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        place = share.place(turn, tf.gather)
        round_, rank = place // classes, place % classes
        # No class has the number that the order of the classes has.
        own = _shuffled(rank, classes, [seed, round_, classes])
        size = tf.gather(tf.constant(sizes, tf.int64), own)
        epoch = round_ // size
        within = _shuffled(round_ % size, size, [seed, epoch, own])
        index = tf.gather(
            tf.constant(stored, tf.int64), tf.gather(tf.constant(starts, tf.int64), own) + within
        )
        return index, _key(seed, epoch, index)

    return number


def _shuffled(rank: tf.Tensor, count: Any, key: list[Any]) -> tf.Tensor:
    """Returns the place of a rank in a permutation of 0..count-1; the key has three numbers of 32 bits.

    Ranks (n,) may have a count and a key each.
    """
    parts = [tf.broadcast_to(tf.cast(part, tf.int64), tf.shape(rank)) for part in key]
    return tf.raw_ops.RandomIndexShuffle(
        index=rank, seed=tf.stack(parts, -1), max_index=tf.cast(count, tf.int64) - 1, rounds=4
    )


# What says which image has a turn.
Numbers: TypeAlias = "Callable[[Indexed, HostShare, int], Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]"


def permuted(
    examples: Indexed, share: HostShare, seed: int, numbers: Numbers = permutation
) -> tf.data.Dataset:
    """Returns (example, key) pairs without buffer or state: entering anywhere costs nothing.

    ``numbers`` is :func:`permutation` or :func:`by_class`.
    """
    turns = tf.data.Dataset.range(sys.maxsize)
    return fetch_each(examples, turns, numbers(examples, share, seed), share.host_batch)


def shuffled(examples: Records, share: HostShare, seed: int) -> tf.data.Dataset:
    """Returns (example, key) pairs of the host's images, in the order in which its steps have them.

    Each lane is shuffled anew each epoch, by itself, so that the global batches do not depend on the hosts.
    """
    lanes = share.lanes(examples.num_examples)
    parts = [examples.share(number, lanes.count) for number in lanes.numbers]
    files, numbers = FileTable.of(parts), tf.constant(lanes.numbers, tf.int64)
    is_parallel = len(parts) < _MANY_LANES
    step, batch = divmod(share.first_batch, share.micro_batches)
    before = (share.first_image + step * share.step_batch) // lanes.count  # images of each lane
    entries = tf.constant([divmod(before, part.num_examples) for part in parts], tf.int64)

    @tf.autograph.experimental.do_not_convert
    def lane(number: tf.Tensor) -> tf.data.Dataset:
        part, (first_epoch, seen) = files.part(number), tf.unstack(entries[number])

        @tf.autograph.experimental.do_not_convert
        def epoch_records(epoch: tf.Tensor) -> tf.data.Dataset:
            # Of 31 bits: TensorFlow folds a longer one so that seed 0, epoch 2 would be seed 1, epoch 0.
            pair = tf.stack([tf.constant(seed, tf.int64), epoch + numbers[number] * 2**32])
            order: Any = tf.random.stateless_uniform([], pair, maxval=2**31 - 1, dtype=tf.int64)
            stored = read_files(part, order, _files_at_once(lanes.count), in_parallel=is_parallel)
            mixed = stored.shuffle(_buffer(lanes.count), seed=order, reshuffle_each_iteration=False)
            entered = mixed.skip(tf.where(epoch == first_epoch, seen, tf.constant(0, tf.int64)))
            return entered.map(lambda record, place: (record, place, epoch))

        records = tf.data.Dataset.range(first_epoch, sys.maxsize).flat_map(epoch_records)
        return nothing.concatenate(records).prefetch(max(1, _RECORDS_AHEAD // len(parts)))

    # A lane begins to read when it is first asked. Asked for nothing, all do so at the same time.
    nothing = tf.data.Dataset.from_tensors(("", "", tf.constant(0, tf.int64))).repeat(lanes.width)
    stream = tf.data.Dataset.range(len(parts)).interleave(
        lane, cycle_length=len(parts), block_length=lanes.width
    )
    stream = stream.skip(len(lanes.own))
    if not lanes.own.all():
        own: Any = tf.data.Dataset.from_tensor_slices(lanes.own).repeat()
        stream = tf.data.Dataset.zip(own, stream).filter(lambda *pair: pair[0])  # the stubs count arguments
        stream = stream.map(lambda is_own, record: record)

    def parsed(record: tf.Tensor, place: tf.Tensor, epoch: tf.Tensor) -> tuple[Example, tf.Tensor]:
        example = examples.parse(record, place)
        return example, _key(seed, epoch, _fingerprint(example["name"]))

    return map_in_parallel(stream.skip(batch * share.host_batch), parsed)


def _buffer(lanes: int) -> int:
    return max(_LEAST_BUFFER, SHUFFLE_BUFFER // lanes)


def _files_at_once(lanes: int) -> int:
    # Few of a lane's files, so that their order moves an image far from epoch to epoch.
    return max(FILES_AT_ONCE // lanes, min(_LEAST_FILES, _MOST_FILES // lanes))


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
        return fetch_each(examples, places, lambda place: place, share.host_batch), count
    records = examples.shares(share.devices, share.num_devices)
    count = min(len(turns), max(records.num_examples - turns.start, 0))
    dataset = read_records(records, None) if count else tf.data.Dataset.range(0)
    return dataset.skip(turns.start).take(count), count


def stored_places(
    examples: Indexed, share: HostShare, turns: range, order: np.ndarray | None
) -> tuple[tf.data.Dataset, int]:
    """Returns the numbers of the host's examples of these turns, and how many there are."""
    full, rest = divmod(examples.num_examples, share.global_batch)
    own = full * share.host_batch + share.images_of_first(rest)
    count = min(len(turns), max(own - turns.start, 0))
    numbers = tf.data.Dataset.range(turns.start, turns.start + count)
    places = numbers.map(lambda turn: share.place(turn, tf.gather))
    if order is not None:
        table = tf.constant(order, tf.int64)
        places = places.map(lambda place: tf.gather(table, place))
    return places, count


def _key(seed: int, epoch: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Returns the seed pair of each image, unique over (seed, epoch, image), int64."""
    return tf.stack([epoch + seed * 2**32, image], -1)
