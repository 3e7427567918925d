"""Host batches of a source: decoding, padding and masks, as deterministic tf.data data sets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from efficientnet_pod.data.bad_images import Batches, Undecoded
from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.order import by_class, in_order, permutation, permuted, shuffled, stored_places
from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.skips import Skips
from efficientnet_pod.data.sources.reading import map_in_parallel
from efficientnet_pod.data.sources.types import Example, Indexed, Records, Source
from efficientnet_pod.data.transforms.orientation import orientation_of
from efficientnet_pod.data.transforms.preprocess import eval_image, size_of, train_image
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import progress_bar
from efficientnet_pod.recipe.preprocessing import Preprocessing
from efficientnet_pod.recipe.rectangles import Shapes

_HEADERS = 1024  # read at once for their sizes


def train_batches(
    source: Source,
    preprocessing: Preprocessing,
    share: HostShare,
    *,
    seed: int,
    skips: Skips | None = None,
    balanced: bool = False,
) -> Batches:
    """Returns the endless training batches of one host, from the image at place ``share.first_image`` on.

    Elements are ``{"image": (host_batch, image_size, image_size, 3), "label": (host_batch,) int32}``. Places
    count the images of all hosts since the start of the run; a run that enters at any place sees the images
    that the uninterrupted run sees from there on.

    The global batches do not depend on the number of hosts. Indexed sources: each epoch is one permutation of
    all images, each host takes its slices of every global batch, and batches straddle epochs. Record files:
    the records are cut into lanes, see :meth:`.HostShare.lanes`; each lane is permuted each epoch through a
    buffer, and entering within an epoch reads past the undecoded examples before it. All random choices about
    an image are a function of (seed, epoch, image).

    Memory of record files in a host that reads K of L lanes: K · max(256, 4,096 / L) undecoded images in
    buffers and 512 behind them; and 1 MiB for each open file. Of a single lane 16 are read at the same time,
    of each of 4 to 128 lanes 4, of each of 256 lanes 2; up to three times as many are open where K < 8. All
    of 256 lanes on one host: 66,048 images, 7.3 GB of ImageNet, and 512 files.

    Args:
      source: the images; the training split is read.
      preprocessing: augmentation and size.
      share: the host's part of the global batches.
      seed: seed of the order and of the augmentation.
      skips: counter of the images that may be left out because they cannot be decoded; without it the first
        of them stops the stream.
      balanced: whether every class has equally many images, see :func:`.by_class`; of an indexed source whose
        labels are known.
    """
    numbers = by_class if balanced else permutation

    def finish(example: Example, key: tf.Tensor) -> Example:
        image, label = _checked(example, source.num_classes)
        return {"image": train_image(image, key, preprocessing), "label": label}

    finish_one = tf.function(finish, autograph=False, reduce_retracing=True)  # traced when first called

    def open_at(number: int) -> tf.data.Dataset:
        entered = share.later(number)
        if isinstance(source.train, Indexed):
            examples = permuted(source.train, entered, seed, numbers)
        else:
            examples = shuffled(source.train, entered, seed)
        return _batched(map_in_parallel(examples, finish), share)

    lanes = share.lanes(source.num_train)
    first = open_at(0)  # traced here, seconds before the first batch is asked for

    def look(number: int) -> Iterator[Undecoded]:
        entered = share.later(number)
        if isinstance(source.train, Indexed):
            turns = tf.data.Dataset.range(share.host_batch)
            return _fetched(source.train.fetch, turns.map(numbers(source.train, entered, seed)))
        return _read(shuffled(source.train, entered, seed).take(share.host_batch))

    return Batches(
        split="training",
        num_classes=source.num_classes,
        open=lambda number: open_at(number) if number else first,
        look=look,
        finish=lambda number: finish_one,
        records=_parts_of(source.train, lanes.numbers, lanes.count),
        skips=skips or Skips(0),
    )


def eval_batches(
    source: Source,
    preprocessing: Preprocessing,
    share: HostShare,
    *,
    shapes: Shapes | None = None,
    order: np.ndarray | None = None,
) -> Batches:
    """Returns one host's ceil(num_eval / global_batch) batches; all hosts together hold each image once.

    Elements are those of train_batches and ``"mask": (host_batch,) float32``, 1 for an image, 0 for padding.
    Every host has as many batches, so that collectives match; some may be padding only.

    Args:
      source: the images; the evaluation split is read.
      preprocessing: that of training, whose augmentation decides the crop.
      share: the host's part of the global batches, from the first image.
      shapes: (height, width, batches) in turn; None is the square throughout.
      order: places of the images in the order wanted, for an Indexed source; None is the stored order.
    """
    size = preprocessing.image_size
    shapes = shapes or ((size, size, -(-source.num_eval // share.global_batch)),)
    shape_of = [(height, width) for height, width, batches in shapes for _ in range(batches)]

    def finish(shape: tuple[int, int]) -> Callable[[Example], Example]:
        def make(example: Example) -> Example:
            image, label = _checked(example, source.num_classes)
            pixels = eval_image(image, preprocessing, shape)
            return {"image": pixels, "label": label, "mask": tf.ones((), tf.float32)}

        return make

    def look(number: int) -> Iterator[Undecoded]:
        turns = range(number * share.host_batch, (number + 1) * share.host_batch)
        if isinstance(source.eval, Indexed):
            places, _ = stored_places(source.eval, share, turns, order)
            return _fetched(source.eval.fetch, places.map(lambda place: (place,)))
        return _read(in_order(source.eval, share, turns, None)[0].map(lambda example: (example,)))

    parts, first = [], 0
    for height, width, batches in shapes:
        turns = range(first, first + batches * share.host_batch)
        examples, count = in_order(source.eval, share, turns, order)
        empty = {
            "image": tf.zeros((height, width, 3), preprocessing.dtype),
            "label": tf.zeros((), tf.int32),
            "mask": tf.zeros((), tf.float32),
        }
        padding = tf.data.Dataset.from_tensors(empty).repeat(len(turns) - count)
        images = map_in_parallel(examples, finish((height, width))).concatenate(padding) if count else padding
        parts.append(_batched(images, share))
        first = turns.stop
    dataset = functools.reduce(lambda batches, part: batches.concatenate(part), parts)
    return Batches(
        split="evaluation",
        num_classes=source.num_classes,
        open=dataset.skip,
        look=look,
        finish=lambda number: finish(shape_of[number]),
        records=_parts_of(source.eval, share.devices, share.num_devices),
    )


def aspect_ratios(source: Source, *, exif: str) -> np.ndarray:
    """Returns width / height of each evaluation image, float64, read from the headers without decoding.

    ``exif`` is the field of :class:`.Preprocessing`.

    Raises:
      UserError: the source is read from the front, or a file is no image.
    """
    if not isinstance(source.eval, Indexed):
        raise UserError(
            f"config.data.eval_crop=rectangular sorts the images, which '{source.name}' does not "
            "allow, read from the front; write a copy that does: efficientnet-pod data prepare --help"
        )
    fetch, numbers = source.eval.fetch, tf.data.Dataset.range(source.num_eval)

    def size(example: Example) -> tuple[tf.Tensor, tf.Tensor]:
        return size_of(example["image"], orientation_of(example["image"], exif))

    def look(number: int) -> Iterator[Undecoded]:
        examples = numbers.skip(number * _HEADERS).take(_HEADERS)
        return _fetched(fetch, examples.map(lambda i: (i,)))

    headers = Batches(
        split="evaluation",
        num_classes=source.num_classes,
        open=map_in_parallel(numbers, lambda i: size(fetch(i))).batch(_HEADERS).skip,
        look=look,
        finish=lambda number: size,
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
    """Yields the examples with the numbers in ``order``, each with the other arguments of ``finish``."""
    for index, *rest in order:
        yield int(index), lambda index=index, rest=rest: (fetch(index), *rest)


def _read(examples: tf.data.Dataset) -> Iterator[Undecoded]:
    """Yields examples that are read from the front, so that only their names say where they are."""
    for arguments in examples:
        yield None, lambda arguments=arguments: arguments


def _parts_of(examples: Indexed | Records, numbers: tuple[int, ...], count: int) -> Records | None:
    return examples.shares(numbers, count) if isinstance(examples, Records) else None


def _checked(example: Example, num_classes: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns image and label; the data set fails at a label outside 0..num_classes-1."""
    label = example["label"]
    # The op itself: tf.debugging.Assert wraps it in a conditional, which costs more than the comparison.
    in_range = tf.raw_ops.Assert(
        condition=(label >= 0) & (label < num_classes),
        data=[f"label outside 0..{num_classes - 1}"],
        summarize=3,
    )
    with tf.control_dependencies([in_range]):
        return tf.identity(example["image"]), tf.identity(label)


def _batched(images: tf.data.Dataset, share: HostShare) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # As many calls at once as there are cores. The tuner would change that number and grow its buffers, and
    # the end of a run would wait for its thread, which sleeps for up to a minute.
    options.autotune.enabled = False
    # The first batches are in the making as soon as there is an iterator, before any is asked for.
    options.experimental_warm_start = True  # type: ignore[attr-defined]
    # Two batches ahead, not as many as fit: 512 images of 456 pixels are 1.3 GB.
    batches = images.batch(share.host_batch, drop_remainder=True).prefetch(2)
    return batches.with_options(options)
