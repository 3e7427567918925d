"""A copy of a data set with smaller images, which can be read in any order; its writing can be resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from etils import epath

from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.shards import Shard, features_of, shards_of, write_metadata, write_shard
from efficientnet_pod.data.sources.imagenet_downloads import require_whole
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.reading import read_part
from efficientnet_pod.data.sources.tfds import MANIFEST, split_names
from efficientnet_pod.data.sources.types import Example, Indexed, Records, Source
from efficientnet_pod.data.transforms.orientation import orientation_of, with_note
from efficientnet_pod.data.transforms.preprocess import decode, in_levels
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import byte_size, progress_bar
from efficientnet_pod.recipe.recipe import DataSettings
from efficientnet_pod.workdir.files import expanded, free_bytes, write_whole

_SAMPLE = 100  # images of each split by which the disk is estimated
_OF_THE_COPY = ("source", "resize", "quality", "images")  # fields in which a resumed copy must agree


@dataclasses.dataclass(frozen=True)
class CopySummary:
    """Images of a copy, their bytes before and after, those written by this call, the source's warnings."""

    images: int
    bytes_before: int
    bytes_after: int
    written: int
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass
class _Manifest:
    """``prepare.json`` of a copy: its source and settings, and the shards that are written."""

    source: str
    resize: int
    quality: int
    images: dict[str, int]
    class_names: list[str]
    shards: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    complete: bool = False

    @classmethod
    def read(cls, folder: Path) -> _Manifest | None:
        """Returns the manifest of a folder, None if there is none."""
        file = folder / MANIFEST
        return cls(**json.loads(file.read_text("utf-8"))) if file.exists() else None

    def write(self, folder: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=1) + "\n"
        write_whole(folder / MANIFEST, text.encode())


def prepare(
    data: DataSettings,
    *,
    resize: int,
    output: str,
    quality: int = 95,
    announce: Callable[[str], None] = print,
) -> CopySummary:
    """Writes the splits that a recipe names, whole and in order, as ArrayRecord files with TFDS metadata.

    An image whose short side is at most ``resize`` pixels is copied byte for byte. Others are resized to
    that short side (bicubic, antialiased) and encoded as JPEG of this ``quality``, 1..100, which notes the
    same orientation in EXIF: a copy can be read with any ``config.data.exif``. The same call
    again goes on at the first missing shard, and changes nothing in a complete copy. ``open_source`` opens it
    as ``prepared:OUTPUT``, with the same splits and slices.

    Before the first image ``announce`` gets a line on the disk that the copy needs and that is free.
    ImageNet's archives are compared with their published MD5 at the first call.

    Raises:
      UserError: the arguments are impossible, the output belongs to another copy, the disk is too small, or
        an archive or an image is damaged.
    """
    if resize < 1 or not 1 <= quality <= 100:
        raise UserError(
            f"resize is {resize} pixels and quality {quality}; they must be above 0 and 1..100; correct them"
        )
    splits, source = _open(data)
    images = {name: split.num_examples for name, split in splits.items()}
    manifest = _Manifest(data.name, resize, quality, images, list(source.class_names))
    folder, manifest = _claim(output, manifest)
    if not manifest.complete:
        require_whole(data.name)
    try:
        with _only_writer(folder):
            written = _complete(folder, manifest, splits, announce)
    except OSError as error:
        raise UserError(
            f"output '{output}' cannot be written: {error.strerror or error}; correct that and run the same "
            "command again"
        ) from None
    names = ("images", "bytes_before", "bytes_after")
    totals = {name: sum(shard[name] for shard in manifest.shards.values()) for name in names}
    return CopySummary(**totals, written=written, warnings=source.warnings)


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


def _open(data: DataSettings) -> tuple[dict[str, Indexed | Records], Source]:
    """Returns the splits that the recipe names or slices, each whole, and a source with two of them."""

    def source(train: str, held_out: str) -> Source:
        return open_source(data.name, data_dir=data.data_dir or None, train_split=train, eval_split=held_out)

    *trained, held_out = dict.fromkeys(split_names(data.train_split) + split_names(data.eval_split))
    if not trained:
        whole = source(held_out, held_out)
        return {held_out: whole.train}, whole
    sources = {name: source(name, held_out) for name in trained}
    first = sources[trained[0]]
    return {name: opened.train for name, opened in sources.items()} | {held_out: first.eval}, first


def _claim(output: str, wanted: _Manifest) -> tuple[Path, _Manifest]:
    """Makes the folder; returns it and its manifest, or the one wanted; UserError for other contents."""
    if "://" in output:
        raise UserError(
            f"output '{output}' is in an object store; ArrayRecord files are written to a file system; "
            "name a local folder and copy it afterwards"
        )
    folder = Path(expanded(output))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest = _Manifest.read(folder)
        is_empty = not any(folder.iterdir())
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"output '{output}' cannot be used: {error}; name another folder") from None
    if manifest is None:
        if not is_empty:
            raise UserError(f"output '{output}' is not empty, and has no {MANIFEST}; name a new folder")
        return folder, wanted
    pairs = {name: (getattr(manifest, name), getattr(wanted, name)) for name in _OF_THE_COPY}
    differences = [f"{name} was {old!r}, is {new!r}" for name, (old, new) in pairs.items() if old != new]
    if manifest.class_names != wanted.class_names:
        differences.append("the class names")
    if differences:
        raise UserError(
            f"output '{output}' holds another copy: {', '.join(differences)}; "
            "name another folder or restore these"
        )
    return folder, manifest


def _complete(
    folder: Path,
    manifest: _Manifest,
    splits: dict[str, Indexed | Records],
    announce: Callable[[str], None],
) -> int:
    """Writes the shards that are missing and the metadata; returns the images written."""
    missing = [
        shard
        for shard in shards_of(manifest.images)
        if shard.file not in manifest.shards or not (folder / shard.file).exists()
    ]
    if manifest.complete and not missing:
        return 0

    @tf.function  # traced once, not for each shard
    def smaller(example: Example) -> Example:
        image = example["image"]
        size = tf.strings.length(image) if image.dtype == tf.string else tf.size(image)
        image = limit_short_side(image, resize=manifest.resize, quality=manifest.quality)
        return {**example, "image": image, "bytes_before": size}

    announce(_disk(folder, missing, splits, smaller))
    manifest.write(folder)
    features = features_of(manifest.class_names)
    total, left = sum(manifest.images.values()), sum(shard.stop - shard.start for shard in missing)
    with progress_bar("preparing", total=total, unit="images", done=total - left) as advance:
        for shard in missing:
            examples, file = splits[shard.split], shard.file
            manifest.shards[file] = write_shard(
                folder / file, examples, shard, transform=smaller, features=features, advance=advance
            )
            manifest.write(folder)
    description = f"{manifest.source}, the short side at most {manifest.resize} pixels."
    write_metadata(folder, manifest.images, manifest.shards, features, description)
    manifest.complete = True
    manifest.write(folder)
    return left


def _disk(
    folder: Path,
    shards: Sequence[Shard],
    splits: dict[str, Indexed | Records],
    smaller: Callable[[Example], Example],
) -> str:
    """Returns a line on the disk that these shards need, by a sample; UserError if there is less."""
    needed, seen = 0.0, 0
    for split in {shard.split for shard in shards}:
        images = sum(shard.stop - shard.start for shard in shards if shard.split == split)
        sizes = list(_sizes(splits[split], smaller))
        seen += len(sizes)
        needed += images * sum(sizes) / max(1, len(sizes))
    free = free_bytes(epath.Path(folder)) or 0
    line = f"the copy needs about {byte_size(needed)}, by {seen} of its images; {byte_size(free)} are free"
    if needed > free:
        raise UserError(f"{line} in '{folder}'; make room, name another folder, or take a smaller --resize")
    return line


def _sizes(examples: Indexed | Records, smaller: Callable[[Example], Example]) -> Iterator[int]:
    """Yields the bytes of some images of the copy; bad ones are left to the copying, which names them."""
    count, reads = min(examples.num_examples, _SAMPLE), list[Callable[[], Example]]()
    if isinstance(examples, Indexed):
        for number in np.linspace(0, examples.num_examples - 1, count).astype(np.int64):
            reads.append(lambda number=number: examples.fetch(tf.constant(number)))
    else:
        reads = [iter(read_part(examples, 0, count)).__next__] * count
    for read in reads:
        with contextlib.suppress(tf.errors.OpError, RuntimeError):  # RuntimeError: of a reader in Python
            yield len(smaller(read())["image"].numpy())


def limit_short_side(image: tf.Tensor, *, resize: int, quality: int) -> tf.Tensor:
    """Returns an encoded image whose short side is at most ``resize`` pixels.

    ``image`` is an encoded image, which is returned byte for byte if it is small enough, or a uint8 array
    (height, width, 3), which then becomes a PNG. A larger one becomes a JPEG of this ``quality``, 1..100,
    that notes the same orientation. Raises InvalidArgumentError if the image cannot be decoded.
    """
    pixels, is_array = decode(image), image.dtype != tf.string

    def smaller() -> tf.Tensor:
        jpeg = tf.io.encode_jpeg(shorten(pixels, resize), quality=quality, format="rgb")
        return with_note(jpeg, orientation_of(image, "respected"))

    return tf.cond(
        tf.reduce_min(tf.shape(pixels)[:2]) > resize,
        smaller,
        lambda: tf.io.encode_png(pixels) if is_array else image,
    )


def shorten(pixels: tf.Tensor, resize: int) -> tf.Tensor:
    """Returns uint8 (height, width, 3) with a short side of ``resize`` pixels: bicubic, antialiased."""
    sides = tf.shape(pixels)[:2]
    scale = resize / tf.cast(tf.reduce_min(sides), tf.float64)
    size = tf.cast(tf.round(scale * tf.cast(sides, tf.float64)), tf.int32)
    return in_levels(tf.image.resize(pixels, size, method="bicubic", antialias=True))
