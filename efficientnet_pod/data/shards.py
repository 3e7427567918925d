"""The files of a prepared copy: ArrayRecord shards, and the TFDS metadata that describes them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from efficientnet_pod.data.bad_images import find_fault
from efficientnet_pod.data.names import printable
from efficientnet_pod.data.quiet import load, reason_of, tf
from efficientnet_pod.data.sources.reading import map_in_parallel, read_part
from efficientnet_pod.data.sources.tfrecord_bytes import locate_corruption
from efficientnet_pod.data.sources.types import Example, Indexed, Records
from efficientnet_pod.errors import UserError

load()
SHARD_IMAGES = 1000  # at most; a shard is written whole, so an interruption loses no more than these
_NAME = "prepared"  # of the data set in its metadata


class Shard(NamedTuple):
    """Images number start..stop-1 of a split, in one file."""

    file: str
    split: str
    start: int
    stop: int


def shards_of(images: dict[str, int]) -> Iterator[Shard]:
    """Yields the shards of these splits in the order of writing; their lengths differ by at most one."""
    for split, count in images.items():
        shards = -(-count // SHARD_IMAGES)
        for number in range(shards):
            file = f"{_NAME}-{split}.array_record-{number:05}-of-{shards:05}"
            yield Shard(file, split, number * count // shards, (number + 1) * count // shards)


def features_of(class_names: Sequence[str]) -> tfds.features.FeaturesDict:
    """Returns TFDS's description of an example."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=list(class_names)),
        }
    )


def write_shard(
    path: Path,
    examples: Indexed | Records,
    shard: Shard,
    *,
    transform: Callable[[Example], Example],
    features: tfds.features.FeaturesDict,
    advance: Callable[[int], None],
) -> dict[str, int]:
    """Writes one file, whole or not at all; returns its ``images``, ``bytes_before`` and ``bytes_after``.

    Args:
      path: of the file.
      examples: the split.
      shard: the part of the split to write.
      transform: returns an example with the image to store, and ``bytes_before`` of the original.
      features: of the examples written.
      advance: called with 1 after each image.

    Raises:
      UserError: an image or its label cannot be used.
      OSError: the file cannot be written.
    """
    from array_record.python.array_record_module import ArrayRecordWriter  # for Linux and macOS only

    label_feature: Any = features["label"]
    num_classes = label_feature.num_classes
    options = tf.data.Options()
    options.autotune.enabled = False  # as many calls at once as there are cores; pipeline.py says why
    stream = map_in_parallel(read_part(examples, shard.start, shard.stop), transform).prefetch(16)
    iterator: Any = stream.with_options(options).as_numpy_iterator()  # of dictionaries, unknown to the stubs
    scratch = path.with_name(f".{path.name}.partial")
    images = before = after = 0
    try:
        # With one image a group each is addressable; JPEGs do not compress any further.
        writer = ArrayRecordWriter(str(scratch), "group_size:1,uncompressed")
        try:
            for example in iterator:
                image, label = example["image"], int(example["label"])
                if not 0 <= label < num_classes:
                    name = printable(example["name"])
                    raise UserError(
                        f"image '{name}' has label {label}; labels must be 0..{num_classes - 1}; correct or "
                        "remove it"
                    )
                encoded = features.encode_example({"image": io.BytesIO(image), "label": label})
                writer.write(features.serialize_example(encoded))
                images, before, after = images + 1, before + int(example["bytes_before"]), after + len(image)
                advance(1)
        except tf.errors.OpError as error:
            raise UserError(
                f"{_first_fault(examples, shard, transform) or reason_of(error)}; "
                "replace or remove it and run the same command again"
            ) from None
        finally:
            writer.close()
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return {"images": images, "bytes_before": before, "bytes_after": after}


def _first_fault(examples: Indexed | Records, shard: Shard, transform: Callable[[Example], Example]) -> str:
    """Returns the fault of the first example that cannot be read, "" if all can now."""
    stream = iter(read_part(examples, shard.start, shard.stop))
    while True:
        try:
            example = next(stream)
        except StopIteration:
            return ""
        except tf.errors.OpError as error:
            place = locate_corruption(examples) if isinstance(examples, Records) else None
            return f"an image cannot be read: {place or reason_of(error)}"
        try:
            transform(example)
        except tf.errors.OpError as error:
            # The label is checked where it is written.
            reason = find_fault({**example, "label": 0}, 1) or reason_of(error)
            return f"image '{printable(example['name'].numpy())}' cannot be decoded: {reason}"


def write_metadata(
    folder: Path,
    images: dict[str, int],
    written: dict[str, dict[str, int]],
    features: tfds.features.FeaturesDict,
    description: str,
) -> None:
    """Writes TFDS's metadata of a copy, which is needed to open it.

    Args:
      folder: of the shards.
      images: number of images of each split.
      written: result of ``write_shard`` for each file.
      features: of the examples.
      description: of the data set, for readers of the metadata.
    """
    infos = []
    for split in images:
        shards = [written[shard.file] for shard in shards_of(images) if shard.split == split]
        lengths, num_bytes = [shard["images"] for shard in shards], sum(s["bytes_after"] for s in shards)
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=num_bytes))
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=infos,
        version="1.0.0",
        check_data=False,
        description=description,
    )
