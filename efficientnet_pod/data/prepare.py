"""An index-addressable copy of a data set with smaller images, written in shards and so resumable."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from efficientnet_pod.data.bad_images import find_fault
from efficientnet_pod.data.quiet import reason_of, tf
from efficientnet_pod.data.short_side import limit_short_side
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.reading import read_part
from efficientnet_pod.data.sources.tfds import MANIFEST, split_names
from efficientnet_pod.data.sources.tfrecord_bytes import locate_corruption
from efficientnet_pod.data.sources.types import Example, Indexed, Records, Source
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import progress_bar
from efficientnet_pod.recipe.recipe import DataSettings
from efficientnet_pod.workdir.files import write_whole

SHARD_IMAGES = 1000  # at most; written as one, so an interrupted run loses no more
_NAME = "prepared"  # of the data set in the copy's metadata


@dataclass(frozen=True)
class Summary:
    """What a copy holds: images, their bytes before and after; how many of them one call wrote.

    ``warnings`` are those of the source.
    """

    images: int
    bytes_before: int
    bytes_after: int
    written: int
    warnings: tuple[str, ...] = ()


def prepare(data: DataSettings, *, resize: int, output: str, quality: int = 95) -> Summary:
    """Writes the splits that a recipe names, whole and in order, as ArrayRecord files with TFDS metadata.

    A JPEG or PNG whose short side is at most ``resize`` pixels is copied byte for byte. Others are resized to
    that short side (bicubic, antialiased) and encoded as JPEG of this ``quality``, 1..100. The same call
    again goes on at the first missing shard, and changes nothing in a complete copy. ``open_source`` opens it
    as ``prepared:OUTPUT``, with the same splits and slices.

    Raises:
      UserError: the arguments are impossible, the output belongs to another copy, or an image cannot be read.
    """
    if resize < 1 or not 1 <= quality <= 100:
        raise UserError(
            f"resize is {resize} pixels and quality {quality}; they must be above 0 and 1..100; correct them"
        )
    splits, source = _open(data)
    wanted = {
        "source": data.name,
        "resize": resize,
        "quality": quality,
        "images": {name: split.num_examples for name, split in splits.items()},
        "class_names": list(source.class_names),
    }
    folder = _claim(output, wanted)
    try:
        with _only_writer(folder):
            return _prepare(folder, wanted, splits, source)
    except OSError as error:
        raise UserError(
            f"output '{output}' cannot be written: {error.strerror or error}; mend that and run the same "
            "command again"
        ) from None


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Raises UserError while another process writes to the folder; a killed one leaves no lock behind."""
    import fcntl  # not on Windows, where array_record is not either

    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is writing to output '{folder}'; wait for it or name another folder"
            ) from None
        yield
    finally:
        os.close(lock)


def _prepare(
    folder: Path, wanted: dict[str, Any], splits: dict[str, Indexed | Records], source: Source
) -> Summary:
    manifest = _read(folder) or {**wanted, "shards": {}, "complete": False}
    written = 0
    if not manifest["complete"] or not all((folder / file).exists() for file in manifest["shards"]):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=manifest["class_names"]),
            }
        )
        _write(folder, manifest)
        written = _write_shards(folder, manifest, splits, features)
        _write_metadata(folder, manifest, features)
        manifest["complete"] = True
        _write(folder, manifest)
    return Summary(*_totals(manifest), written, source.warnings)


def _open(data: DataSettings) -> tuple[dict[str, Indexed | Records], Source]:
    """Returns the splits that the recipe names or slices, each whole, and a source with two of them."""

    def source(train: str, held_out: str) -> Source:
        return open_source(data.name, data_dir=data.data_dir or None, train_split=train, eval_split=held_out)

    *trained, held_out = dict.fromkeys(split_names(data.train_split) + split_names(data.eval_split))
    if not trained:
        whole = source(held_out, held_out)
        return {held_out: whole.train}, whole
    sources = [source(name, held_out) for name in trained]
    splits = {name: found.train for name, found in zip(trained, sources, strict=True)}
    return splits | {held_out: sources[0].eval}, sources[0]


def _claim(output: str, wanted: dict[str, Any]) -> Path:
    """Returns the folder, made if need be; raises UserError where it belongs to something else."""
    if "://" in output:
        raise UserError(
            f"output '{output}' is in an object store; ArrayRecord files are written to a file system; "
            "name a local folder and copy it afterwards"
        )
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest = _read(folder)
        if manifest is None and any(folder.iterdir()):
            raise UserError(f"output '{output}' is not empty, and has no {MANIFEST}; name a new folder")
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"output '{output}' cannot be used: {error}; name another folder") from None
    if manifest is not None:
        differing = [key for key in wanted if manifest.get(key) != wanted[key]]
        shown = [
            "the class names"
            if key == "class_names"
            else f"{key} was {manifest.get(key)!r}, is {wanted[key]!r}"
            for key in differing
        ]
        if differing:
            raise UserError(
                f"output '{output}' holds another copy: {', '.join(shown)}; "
                "name another folder or restore these"
            )
    return folder


def _totals(manifest: dict[str, Any]) -> tuple[int, int, int]:
    """Returns images, bytes before and bytes after of the shards that are written."""
    shards = manifest["shards"].values()
    images, before, after = (sum(s[key] for s in shards) for key in ("images", "bytes_before", "bytes_after"))
    return images, before, after


def _write_shards(
    folder: Path,
    manifest: dict[str, Any],
    splits: dict[str, Indexed | Records],
    features: tfds.features.FeaturesDict,
) -> int:
    """Writes the shards that are not there yet, each under another name until it is whole; returns images."""

    @tf.function  # traced once, not for each shard
    def smaller(example: Example) -> Example:
        image = example["image"]
        size = tf.strings.length(image) if image.dtype == tf.string else tf.size(image)
        image = limit_short_side(image, resize=manifest["resize"], quality=manifest["quality"])
        return {**example, "image": image, "bytes_before": size}

    shards = list(_shards(manifest["images"]))
    is_done = {file: file in manifest["shards"] and (folder / file).exists() for file, *_ in shards}
    total = sum(manifest["images"].values())
    done = sum(stop - start for file, _, start, stop in shards if is_done[file])
    with progress_bar("preparing", total=total, unit="images", done=done) as advance:
        for file, split, start, stop in shards:
            if not is_done[file]:
                examples = splits[split]
                try:
                    written = _write_shard(
                        folder / file, _stream(examples, start, stop, smaller), features, advance
                    )
                except tf.errors.OpError as error:
                    raise UserError(
                        f"{_first_fault(examples, start, stop, smaller) or reason_of(error)}; "
                        "replace or remove it and run the same command again"
                    ) from None
                manifest["shards"][file] = written
                _write(folder, manifest)
    return total - done


def _shards(images: dict[str, int]) -> Iterator[tuple[str, str, int, int]]:
    """Yields (file, split, start, stop) in the order of writing; the lengths differ by at most one."""
    for split, count in images.items():
        shards = -(-count // SHARD_IMAGES)
        for shard in range(shards):
            file = f"{_NAME}-{split}.array_record-{shard:05}-of-{shards:05}"
            yield file, split, shard * count // shards, (shard + 1) * count // shards


def _stream(
    examples: Indexed | Records, start: int, stop: int, transform: Callable[[Example], Example]
) -> tf.data.Dataset:
    options = tf.data.Options()
    options.autotune.enabled = False  # as many calls at once as there are cores; pipeline.py says why
    stream = read_part(examples, start, stop).map(
        transform, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return stream.prefetch(16).with_options(options)


def _write_shard(
    path: Path, stream: tf.data.Dataset, features: tfds.features.FeaturesDict, advance: Callable[[int], None]
) -> dict[str, int]:
    """Writes one file whole or not at all; returns its images and their bytes before and after."""
    from array_record.python.array_record_module import ArrayRecordWriter

    label_feature: Any = features["label"]
    num_classes = label_feature.num_classes
    scratch = path.with_name(f".{path.name}.partial")
    images = before = after = 0
    try:
        # One image a group is what makes it addressable; JPEGs do not compress any further.
        writer = ArrayRecordWriter(str(scratch), "group_size:1,uncompressed")
        try:
            iterator: Any = stream.as_numpy_iterator()  # of dictionaries, which its stubs do not say
            for example in iterator:
                image, label = example["image"], int(example["label"])
                if not 0 <= label < num_classes:
                    name = example["name"].decode(errors="replace")
                    raise UserError(
                        f"image '{name}' has label {label}; labels must be 0..{num_classes - 1}; correct or "
                        "remove it"
                    )
                encoded = features.encode_example({"image": io.BytesIO(image), "label": label})
                writer.write(features.serialize_example(encoded))
                images, before, after = images + 1, before + int(example["bytes_before"]), after + len(image)
                advance(1)
        finally:
            writer.close()
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return {"images": images, "bytes_before": before, "bytes_after": after}


def _first_fault(
    examples: Indexed | Records, start: int, stop: int, transform: Callable[[Example], Example]
) -> str:
    """Returns what is wrong with the first example that cannot be read, "" if all can now."""
    stream = iter(read_part(examples, start, stop))
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
            # The label is looked at where it is written.
            reason = find_fault({**example, "label": 0}, 1) or reason_of(error)
            return f"image '{example['name'].numpy().decode(errors='replace')}' cannot be decoded: {reason}"


def _write_metadata(folder: Path, manifest: dict[str, Any], features: tfds.features.FeaturesDict) -> None:
    """Writes TFDS's description of the copy, with which it can be opened."""
    infos = []
    for split in manifest["images"]:
        shards = [manifest["shards"][file] for file, of, *_ in _shards(manifest["images"]) if of == split]
        lengths, sizes = [shard["images"] for shard in shards], [shard["bytes_after"] for shard in shards]
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=sum(sizes)))
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=infos,
        version="1.0.0",
        check_data=False,
        description=f"{manifest['source']}, the short side at most {manifest['resize']} pixels.",
    )


def _read(folder: Path) -> dict[str, Any] | None:
    file = folder / MANIFEST
    return json.loads(file.read_text()) if file.exists() else None


def _write(folder: Path, manifest: dict[str, Any]) -> None:
    write_whole(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
