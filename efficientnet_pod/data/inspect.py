"""What a data set holds: counts, sizes, a check of a sample, and a sheet of what a recipe shows of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from efficientnet_pod.data.bad_images import find_fault
from efficientnet_pod.data.quiet import reason_of, tf
from efficientnet_pod.data.sources.reading import read_records
from efficientnet_pod.data.sources.tfrecord_bytes import locate_corruption
from efficientnet_pod.data.sources.types import Example, Indexed, Records, Source
from efficientnet_pod.data.transforms.preprocess import eval_image, size_of, train_image
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import progress_bar
from efficientnet_pod.recipe.preprocessing import Preprocessing
from efficientnet_pod.recipe.recipe import DataSettings

_SHEET_ROWS, _SHEET_COLUMNS, _GAP = 8, 8, 4
_THREADS = 8  # each in a decoder of TensorFlow, which lets the others run


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """One example as it was found; ``height`` and ``width`` in pixels are 0 where ``fault`` hides them."""

    name: str
    label: int
    num_bytes: int
    height: int
    width: int
    fault: str | None
    image: Any = dataclasses.field(repr=False, default=None)


def describe(
    source: Source,
    data: DataSettings,
    *,
    image_size: int,
    check: int | None = 1000,
    sheet: str | None = None,
    console: Console | None = None,
) -> int:
    """Prints what a data set holds and returns how many of the examples that were checked cannot be used.

    Args:
      source: of the images.
      data: how the recipe treats them.
      image_size: of the network, in pixels.
      check: examples of each split to check, chosen at random; None checks all.
      sheet: PNG file for a contact sheet; None writes none.
      console: where to print; standard output by default.

    Raises:
      UserError: the sheet cannot be written, or no image of the sample can be shown on it.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    splits = {data.train_split: source.train, data.eval_split: source.eval}
    wanted = {
        name: split.num_examples if check is None else min(check, split.num_examples)
        for name, split in splits.items()
    }
    looks: dict[str, list[Look]] = {}
    with progress_bar("checking", total=sum(wanted.values()), unit="images") as advance:
        for name, split in splits.items():
            looks[name], kept = [], 0
            for number, look in enumerate(_examine(split, wanted[name], source.num_classes)):
                # Of the images shown, a folder's come from classes far apart.
                is_shown = not look.fault and number * _SHEET_ROWS >= kept * wanted[name]
                kept += is_shown
                looks[name].append(look if is_shown else dataclasses.replace(look, image=None))
                advance(1)
    console.print(_table(source, splits, looks))
    for warning in source.warnings:
        console.print(f"[yellow]warning[/]  {escape(warning)}")
    faults = [(name, look) for name in looks for look in looks[name] if look.fault]
    for name, look in faults:
        console.print(f"[red]bad image[/]  {escape(f'{name}: {look.name}: {look.fault}')}")
    if sheet:
        shown = [look.image for look in looks[data.train_split] if look.image is not None]
        write_sheet(sheet, shown, Preprocessing.of(data, image_size=image_size, dtype="uint8"))
        console.print(
            f"sheet {escape(sheet)}: a row for each of {len(shown)} training images, as it would be "
            f"evaluated, then augmented {_SHEET_COLUMNS - 1} times; mixup and cutmix follow on the device"
        )
    return len(faults)


def write_sheet(path: str, images: Sequence[Any], preprocessing: Preprocessing) -> None:
    """Writes a PNG with a row for each undecoded image: the evaluation crop, then seven augmented versions.

    Tiles are ``preprocessing.image_size`` pixels wide and high, with white between them. Raises UserError.
    """
    if not images:
        raise UserError(f"sheet '{path}' would be empty; no image of the sample can be used; mend them first")
    rows = []
    for number, image in enumerate(images):
        encoded = tf.convert_to_tensor(image)
        seeds = [tf.constant([epoch, number], tf.int64) for epoch in range(_SHEET_COLUMNS - 1)]
        tiles = [
            eval_image(encoded, preprocessing),
            *(train_image(encoded, seed, preprocessing) for seed in seeds),
        ]
        rows.append(np.concatenate([_framed(tile.numpy()) for tile in tiles], axis=1))
    grid = np.pad(np.concatenate(rows), ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=255)
    try:
        Path(path).write_bytes(tf.io.encode_png(grid).numpy())
    except OSError as error:
        raise UserError(f"sheet '{path}' cannot be written: {error.strerror}; name another file") from None


def _framed(tile: np.ndarray) -> np.ndarray:
    return np.pad(tile, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255)


def _examine(split: Indexed | Records, count: int, num_classes: int) -> Iterator[Look]:
    """Yields ``count`` examples of a split as they were found, several at work at the same time."""

    def look(read: Callable[[], Example]) -> Look:
        return _look(read, num_classes)

    with ThreadPoolExecutor(_THREADS) as pool:
        reads = _reads(split, count)
        while chunk := list(islice(reads, 16 * _THREADS)):  # no more in memory than these
            yield from pool.map(look, chunk)


def _reads(split: Indexed | Records, count: int) -> Iterator[Callable[[], Example]]:
    """Yields functions that return an example: by number, chosen at random, or from files in random order."""
    if isinstance(split, Indexed):
        chosen = np.random.default_rng(0).permutation(split.num_examples)[:count]
        for number in chosen if count < split.num_examples else range(count):
            yield lambda number=number: split.fetch(tf.constant(number, tf.int64))
        return
    is_sample = count < split.num_examples
    stream = iter(read_records(split, tf.constant(0, tf.int64) if is_sample else None).take(count))
    while True:
        try:
            example = next(stream)
        except StopIteration:
            return
        except tf.errors.OpError as error:  # nothing behind it can be read
            place = locate_corruption(split) or reason_of(error)
            yield lambda place=place: _unreadable(place)
            return
        yield lambda example=example: example


def _unreadable(place: str) -> Example:
    raise OSError(f"{place}; what follows is not checked")


def _look(read: Callable[[], Example], num_classes: int) -> Look:
    try:
        example = read()
    except tf.errors.OpError as error:
        return Look("", -1, 0, 0, 0, reason_of(error))
    except (OSError, RuntimeError) as error:  # RuntimeError: of a reader in Python, which tf.data would wrap
        return Look("", -1, 0, 0, 0, str(error))
    image, label = example["image"], int(example["label"])
    name = bytes(example["name"].numpy()).decode(errors="replace")
    num_bytes = len(image.numpy()) if image.dtype == tf.string else image.numpy().nbytes
    if fault := find_fault(example, num_classes):
        return Look(name, label, num_bytes, 0, 0, fault)
    height, width = (int(side) for side in size_of(image))
    return Look(name, label, num_bytes, height, width, None, image)


def _table(source: Source, splits: dict[str, Indexed | Records], looks: dict[str, list[Look]]) -> Table:
    """Returns a column for each split."""
    names = source.class_names
    shown = ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:4])} … {', '.join(names[-2:])}"
    table = Table(escape(source.name), *map(escape, splits), box=None, pad_edge=False)
    table.add_row("classes", f"{len(names):,}: {escape(shown)}")
    table.add_row("images", *(f"{split.num_examples:,}" for split in splits.values()))
    table.add_row("read", *map(_how_read, splits.values()))
    table.add_row("checked", *(f"{len(found):,}" for found in looks.values()))
    table.add_row("bad", *(f"{sum(look.fault is not None for look in found):,}" for found in looks.values()))
    for what, cell in (
        ("bytes an image", _bytes),
        ("short side, px", lambda found: _spread([min(look.height, look.width) for look in found])),
        ("long side, px", lambda found: _spread([max(look.height, look.width) for look in found])),
    ):
        table.add_row(what, *(cell([look for look in found if not look.fault]) for found in looks.values()))
    totals = []
    for name, found in looks.items():
        sizes = [look.num_bytes for look in found if not look.fault]
        about = "about " if len(found) < splits[name].num_examples else ""
        totals.append(f"{about}{_size(float(np.mean(sizes)) * splits[name].num_examples)}" if sizes else "–")
    table.add_row("all images", *totals)
    table.add_row("images a class", *(_per_class(found, len(names)) for found in looks.values()))
    table.caption = "least, median and greatest of the images that were checked and are not bad"
    table.caption_justify = "left"
    return table


def _how_read(split: Indexed | Records) -> str:
    if isinstance(split, Indexed):
        return "by number, in any order"
    files = len({file.path for file in split.files})
    return f"{files:,} record file{'s' * (files > 1)}, from the front"


def _bytes(found: Sequence[Look]) -> str:
    sizes = [look.num_bytes for look in found]
    return f"{_spread(sizes)}, mean {np.mean(sizes):,.0f}" if sizes else "–"


def _per_class(found: Sequence[Look], num_classes: int) -> str:
    counts = np.bincount([look.label for look in found if not look.fault], minlength=num_classes)
    absent = int((counts == 0).sum())
    return _spread(counts) + (f"; none of {absent:,}" if absent else "")


def _spread(values: Any) -> str:
    """Returns ``"least, median, greatest"``."""
    if not len(values):
        return "–"
    return f"{np.min(values):,}, {np.median(values):,.0f}, {np.max(values):,}"


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:,.0f} {unit}" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.2f} TB"
