"""From a source to host batches: decoding, padding and masks, as deterministic tf.data data sets."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from efficientnet_pod.data.bad_images import Batches, Skips, Undecoded
from efficientnet_pod.data.order import (
    Host,
    in_order,
    map_in_parallel,
    permutation,
    permuted,
    place_of_host,
    require_share,
    shuffled,
    stored_places,
)
from efficientnet_pod.data.sources.opening import Example, Indexed, Records, Source
from efficientnet_pod.data.sources.tfrecord_bytes import locate_corruption
from efficientnet_pod.data.transforms.preprocess import Preprocessing, eval_image, size_of, train_image
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import progress_bar
from efficientnet_pod.recipe.rectangles import Shapes

_HEADERS = 1024  # read at once for their sizes


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
    host = place_of_host(global_batch, host_index, host_count, first_image)
    if isinstance(source.train, Records):
        require_share(source.train, host)

    def finish(example: Example, key: tf.Tensor) -> Example:
        image, label = _checked(example, source.num_classes)
        return {"image": train_image(image, key, how), "label": label}

    finish_one = tf.function(finish, autograph=False, reduce_retracing=True)  # traced when first called

    def open_at(number: int) -> tf.data.Dataset:
        at = host.later(number)
        if isinstance(source.train, Indexed):
            return _batched(map_in_parallel(permuted(source.train, at, seed), finish), host)
        return _batched(map_in_parallel(shuffled(source.train, at, seed), finish), host)

    first = open_at(0)  # traced here, seconds before the first batch is asked for

    def look(number: int) -> Iterator[Undecoded]:
        at = host.later(number)
        if isinstance(source.train, Indexed):
            turns = tf.data.Dataset.range(host.batch)
            return _fetched(source.train.fetch, turns.map(permutation(source.train, at, seed)))
        return _read(shuffled(source.train, at, seed).take(host.batch))

    return Batches(
        split="training",
        num_classes=source.num_classes,
        open=lambda number: open_at(number) if number else first,
        look=look,
        finish=lambda number: finish_one,
        locate=_locate(source.train, host),
        skips=skips or Skips(0),
    )


def eval_batches(
    source: Source,
    how: Preprocessing,
    *,
    global_batch: int,
    shapes: Shapes | None = None,
    order: np.ndarray | None = None,
    host_index: int = 0,
    host_count: int = 1,
) -> Batches:
    """Returns one host's ceil(num_eval / global_batch) batches; all hosts together hold each image once.

    Elements are those of train_batches and ``"mask": (host_batch,) float32``, 1 for an image, 0 for padding.
    Every host has as many batches, so that collectives match; some may be padding only. ``how`` is that of
    training, which decides the crop. Raises UserError for impossible arguments.

    ``shapes`` are (height, width, batches) in turn; None is the square throughout. Images come in the
    ``order`` of these places, which only an Indexed source can follow, or as they are stored.
    """
    host = place_of_host(global_batch, host_index, host_count)
    num_batches = -(-source.num_eval // global_batch)
    shapes = shapes or ((how.image_size, how.image_size, num_batches),)
    shape_of = [(height, width) for height, width, batches in shapes for _ in range(batches)]

    def finish(shape: tuple[int, int]) -> Callable[[Example], Example]:
        def make(example: Example) -> Example:
            image, label = _checked(example, source.num_classes)
            return {"image": eval_image(image, how, shape), "label": label, "mask": tf.ones((), tf.float32)}

        return make

    def look(number: int) -> Iterator[Undecoded]:
        turns = range(number * host.batch, (number + 1) * host.batch)
        if isinstance(source.eval, Indexed):
            places, _ = stored_places(source.eval, host, turns, order)
            return _fetched(source.eval.fetch, places.map(lambda place: (place,)))
        return _read(in_order(source.eval, host, turns, None)[0].map(lambda example: (example,)))

    parts, first = [], 0
    for height, width, batches in shapes:
        turns = range(first, first + batches * host.batch)
        examples, count = in_order(source.eval, host, turns, order)
        nothing = {
            "image": tf.zeros((height, width, 3), how.dtype),
            "label": tf.zeros((), tf.int32),
            "mask": tf.zeros((), tf.float32),
        }
        padding = tf.data.Dataset.from_tensors(nothing).repeat(len(turns) - count)
        images = map_in_parallel(examples, finish((height, width))).concatenate(padding) if count else padding
        parts.append(_batched(images, host))
        first = turns.stop
    dataset = functools.reduce(lambda batches, part: batches.concatenate(part), parts)
    return Batches(
        split="evaluation",
        num_classes=source.num_classes,
        open=dataset.skip,
        look=look,
        finish=lambda number: finish(shape_of[number]),
        locate=_locate(source.eval, host),
    )


def aspect_ratios(source: Source) -> np.ndarray:
    """Returns width / height of each evaluation image, float64; reads each of them, and decodes none.

    Raises UserError for a source that is read from the front, and for what is no image.
    """
    if not isinstance(source.eval, Indexed):
        raise UserError(
            f"config.data.eval_crop=rectangular sorts the images, which '{source.name}' does not "
            "allow, read from the front; write a copy that does: efficientnet-pod data prepare --help"
        )
    fetch, numbers = source.eval.fetch, tf.data.Dataset.range(source.num_eval)

    def look(number: int) -> Iterator[Undecoded]:
        examples = numbers.skip(number * _HEADERS).take(_HEADERS)
        return _fetched(fetch, examples.map(lambda i: (i,)))

    headers = Batches(
        split="evaluation",
        num_classes=source.num_classes,
        open=map_in_parallel(numbers, lambda i: size_of(fetch(i)["image"])).batch(_HEADERS).skip,
        look=look,
        finish=lambda number: lambda example: size_of(example["image"]),
        locate=lambda: None,
    )
    sizes: list[Any] = []
    with progress_bar(
        "reading the sizes of evaluation images", total=source.num_eval, unit="images"
    ) as advance:
        for batch in headers.as_numpy_iterator():
            sizes.append(batch)
            advance(len(sizes[-1][0]))
    height, width = (np.concatenate(side) for side in zip(*sizes, strict=True))
    return width / height


def _fetched(fetch: Callable[[tf.Tensor], Example], order: tf.data.Dataset) -> Iterator[Undecoded]:
    """Yields the examples of which ``order`` has the number, and what else ``finish`` takes."""
    for index, *rest in order:
        yield Undecoded(int(index), lambda index=index, rest=rest: (fetch(index), *rest))


def _read(examples: tf.data.Dataset) -> Iterator[Undecoded]:
    """Yields examples that are read from the front, so that only their names say where they are."""
    for arguments in examples:
        yield Undecoded(None, lambda arguments=arguments: arguments)


def _locate(examples: Indexed | Records, host: Host) -> Callable[[], str | None]:
    """Returns a function that finds the first of the host's records that cannot be read; None without any."""
    if isinstance(examples, Indexed):
        return lambda: None
    return lambda: locate_corruption(examples.share(host.index, host.count))


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


def _batched(images: tf.data.Dataset, host: Host) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # As many calls at once as there are cores. The tuner would change that number, grow its buffers, and hold
    # up the end of a run for as long as it sleeps between two looks, up to a minute.
    options.autotune.enabled = False
    # The first batches are in the making as soon as there is an iterator, before any is asked for.
    options.experimental_warm_start = True  # type: ignore[attr-defined]
    # Two batches ahead, not as many as fit: 512 images of 456 pixels are 1.3 GB.
    batches = images.batch(host.batch, drop_remainder=True).prefetch(2)
    return batches.with_options(options)
