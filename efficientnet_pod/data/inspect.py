"""Description of a data set: counts, sizes, a check of a sample, and a sheet of its images under a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from efficientnet_pod.data.bad_images import find_fault
from efficientnet_pod.data.balance import imbalance
from efficientnet_pod.data.contact_sheet import write_contact_sheet
from efficientnet_pod.data.names import printable
from efficientnet_pod.data.quiet import decoder_messages, reason_of, tf
from efficientnet_pod.data.sources.reading import read_records
from efficientnet_pod.data.sources.tfrecord_bytes import locate_corruption
from efficientnet_pod.data.sources.types import Example, Indexed, Records, Source
from efficientnet_pod.data.transforms.orientation import UPRIGHT, noted_orientation
from efficientnet_pod.data.transforms.preprocess import eval_image, size_of, train_image
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod import terminal
from efficientnet_pod.recipe.preprocessing import Preprocessing
from efficientnet_pod.recipe.recipe import DataSettings

_SHEET_ROWS, _SHEET_COLUMNS = 8, 8
_SAMPLE_OF_A_CLASS = 100  # images checked, on average, that show which classes are rare
_THREADS = 8  # each in a decoder of TensorFlow, which lets the others run


@dataclasses.dataclass(frozen=True, slots=True)
class CheckedExample:
    """One example of a split.

    Attributes:
      name: of the image, or "" if the example cannot be read.
      label: as stored.
      num_bytes: of the undecoded image.
      height: pixels; 0 for a bad image.
      width: pixels; 0 for a bad image.
      fault: reason why the example cannot be used; None for a good one.
      is_turned: whether EXIF notes that the image does not lie as it stands; False for a bad one.
      note: what the decoder says of an image that it can decode all the same; usually empty.
      image: undecoded image; None for a bad one.
    """

    name: str
    label: int
    num_bytes: int
    height: int
    width: int
    fault: str | None
    is_turned: bool = False
    note: str = ""
    image: tf.Tensor | None = dataclasses.field(repr=False, default=None)


def describe_data(
    source: Source,
    data: DataSettings,
    *,
    image_size: int,
    check: int | None = 1000,
    sheet: str | None = None,
    console: Console | None = None,
) -> int:
    """Prints the contents of a data set and returns the number of bad images among those checked.

    Args:
      source: of the images.
      data: the recipe's settings, for splits and augmentation.
      image_size: of the network, in pixels.
      check: examples of each split to check, chosen at random; None checks all.
      sheet: PNG file for a contact sheet; None writes none.
      console: console to print on; standard output by default.

    Raises:
      UserError: no image of the sample can be shown on the sheet.
      RunError: the sheet cannot be written.
    """
    console = console or terminal.console()
    splits = {data.train_split: source.train, data.eval_split: source.eval}
    checked = _check(splits, check, source.num_classes)
    console.print(_table(source, splits, checked))
    console.print("least, median and greatest of the images that were checked and are not bad", style="dim")
    for warning in source.warnings:
        console.print(Text("warning ", style="yellow"), warning)
    if unequal := _imbalance(source, data, checked[data.train_split]):
        console.print(Text("warning ", style="yellow"), unequal)
    turned = sum(example.is_turned for split in checked.values() for example in split)
    if turned and data.exif == "ignored":
        console.print(
            Text("warning ", style="yellow"),
            f"EXIF notes {turned:,} of the photos checked as turned, and they are taken as stored; to turn "
            "them upright: --config.data.exif=respected",
        )
    bad = [(split, example) for split in checked for example in checked[split] if example.fault]
    for split, example in bad:
        console.print(Text("bad image ", style="red"), f"{split}: {example.name}: {example.fault}")
    noted = [(split, example) for split in checked for example in checked[split] if example.note]
    for split, example in noted:
        console.print(
            Text("damaged ", style="yellow"), f"{split}: {example.name}: {example.note}; it is used"
        )
    if sheet:
        images = [example.image for example in checked[data.train_split] if example.image is not None]
        _write_sheet(sheet, images, Preprocessing.of(data, image_size=image_size, dtype="uint8"))
        console.print(
            f"sheet {sheet}: a row for each of {len(images)} training images, as it would be "
            f"evaluated, then augmented {_SHEET_COLUMNS - 1} times; mixup and cutmix follow on the device"
        )
    return len(bad)


def _check(
    splits: dict[str, Indexed | Records], check: int | None, num_classes: int
) -> dict[str, list[CheckedExample]]:
    """Returns the checked examples of each split; only those for the sheet keep their images."""
    counts = {
        name: split.num_examples if check is None else min(check, split.num_examples)
        for name, split in splits.items()
    }
    checked: dict[str, list[CheckedExample]] = {name: [] for name in splits}
    with terminal.progress_bar("checking", total=sum(counts.values()), unit="images") as advance:
        for name, split in splits.items():
            shown = 0
            for number, example in enumerate(_examine(split, counts[name], num_classes)):
                # Evenly over the sample, so that a folder's images come from classes far apart.
                if example.fault or number * _SHEET_ROWS < shown * counts[name]:
                    example = dataclasses.replace(example, image=None)
                else:
                    shown += 1
                checked[name].append(example)
                advance(1)
    return checked


def _write_sheet(path: str, images: Sequence[tf.Tensor], preprocessing: Preprocessing) -> None:
    """Writes a PNG with a row for each undecoded image: the evaluation crop, then augmented versions."""
    if not images:
        raise UserError(
            f"--sheet={path} would be empty: no image of the sample can be used; repair or replace them"
        )
    tiles = []
    for number, image in enumerate(images):
        seeds = [tf.constant([epoch, number], tf.int64) for epoch in range(_SHEET_COLUMNS - 1)]
        tiles.append(eval_image(image, preprocessing))
        tiles += [train_image(image, seed, preprocessing) for seed in seeds]
    write_contact_sheet(
        path, [tile.numpy() for tile in tiles], columns=_SHEET_COLUMNS, side=preprocessing.image_size
    )


def _examine(split: Indexed | Records, count: int, num_classes: int) -> Iterator[CheckedExample]:
    """Yields ``count`` examples of a split, checked by several threads."""
    with ThreadPoolExecutor(_THREADS) as pool:
        reads = _reads(split, count)
        while chunk := list(islice(reads, 16 * _THREADS)):  # no more in memory than these
            with decoder_messages() as messages:
                checked = list(pool.map(lambda read: _checked(read, num_classes), chunk))
            # They have no names: where there are any, each image is decoded once more, alone.
            yield from map(_with_note, checked) if messages else checked


def _with_note(example: CheckedExample) -> CheckedExample:
    if example.image is None or example.image.dtype != tf.string or not tf.io.is_jpeg(example.image):
        return example
    with decoder_messages() as messages:
        tf.image.decode_jpeg(example.image, channels=3)
    return dataclasses.replace(example, note=messages[0] if messages else "")


def _reads(split: Indexed | Records, count: int) -> Iterator[Callable[[], Example] | str]:
    """Yields functions that return an example: by number, chosen at random, or from files in random order.

    The last element is a sentence if the files cannot be read any further.
    """
    is_sample = count < split.num_examples
    if isinstance(split, Indexed):
        chosen = np.random.default_rng(0).permutation(split.num_examples)[:count]
        for number in chosen if is_sample else range(count):
            yield lambda number=number: split.fetch(tf.constant(number, tf.int64))
        return
    stream = iter(read_records(split, tf.constant(0, tf.int64) if is_sample else None).take(count))
    try:
        for example in stream:
            yield lambda example=example: example
    except tf.errors.OpError as error:  # nothing behind it can be read
        yield f"{locate_corruption(split) or reason_of(error)}; what follows is not checked"


def _checked(read: Callable[[], Example] | str, num_classes: int) -> CheckedExample:
    if isinstance(read, str):
        return CheckedExample("", -1, 0, 0, 0, read)
    try:
        example = read()
    except (tf.errors.OpError, RuntimeError) as error:  # RuntimeError: of a reader in Python
        return CheckedExample("", -1, 0, 0, 0, reason_of(error))
    image, label = example["image"], int(example["label"])
    name = printable(bytes(example["name"].numpy()))
    num_bytes = len(image.numpy()) if image.dtype == tf.string else image.numpy().nbytes
    if fault := find_fault(example, num_classes):
        return CheckedExample(name, label, num_bytes, 0, 0, fault)
    height, width = (int(side) for side in size_of(image))
    is_turned = image.dtype == tf.string and bool(noted_orientation(bytes(image.numpy())) != UPRIGHT)
    return CheckedExample(name, label, num_bytes, height, width, None, is_turned, "", image)


def _table(
    source: Source, splits: dict[str, Indexed | Records], checked: dict[str, list[CheckedExample]]
) -> Table:
    """Returns a column for each split."""
    names = source.class_names
    listed = ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:4])} … {', '.join(names[-2:])}"
    good = {split: [example for example in checked[split] if not example.fault] for split in splits}
    table = terminal.table(source.name, *splits, left=1 + len(splits))
    table.add_row("classes", f"{len(names):,}: {listed}")
    table.add_row("images", *(f"{split.num_examples:,}" for split in splits.values()))
    table.add_row("read", *map(_way_of_reading, splits.values()))
    table.add_row("checked", *(f"{len(examples):,}" for examples in checked.values()))
    table.add_row("bad", *(f"{len(checked[split]) - len(good[split]):,}" for split in splits))
    counts = [sum(example.is_turned for example in good[split]) for split in splits]
    if any(counts):
        table.add_row("turned by EXIF", *(f"{count:,}" for count in counts))
    table.add_row("bytes an image", *map(_bytes, good.values()))
    for row, side in (("short side, px", min), ("long side, px", max)):
        lengths = ([side(example.height, example.width) for example in good[split]] for split in splits)
        table.add_row(row, *map(_spread, lengths))
    totals = []
    for name, split in splits.items():
        sizes = [example.num_bytes for example in good[name]]
        about = "about " if len(checked[name]) < split.num_examples else ""
        totals.append(f"{about}{_size(float(np.mean(sizes)) * split.num_examples)}" if sizes else "–")
    table.add_row("all images", *totals)
    table.add_row("images a class", *(_per_class(examples, len(names)) for examples in good.values()))
    return table


def _imbalance(source: Source, data: DataSettings, checked: Sequence[CheckedExample]) -> str:
    """Returns a warning of classes with far fewer images than others; by a sample only if it is large."""
    if data.class_weights != "none" or data.sampling != "epoch":
        return ""
    labels = source.train.labels if isinstance(source.train, Indexed) else None
    if labels is None:
        labels = np.array([example.label for example in checked if not example.fault], np.int64)
        if len(labels) < min(source.num_train, _SAMPLE_OF_A_CLASS * source.num_classes):
            return ""
    return imbalance(np.bincount(labels, minlength=source.num_classes), source.class_names)


def _way_of_reading(split: Indexed | Records) -> str:
    if isinstance(split, Indexed):
        return "by number, in any order"
    files = {file.path for file in split.files}
    return f"{terminal.plural(len(files), 'record file')}, from the front"


def _bytes(examples: Sequence[CheckedExample]) -> str:
    sizes = [example.num_bytes for example in examples]
    return f"{_spread(sizes)}, mean {np.mean(sizes):,.0f}" if sizes else "–"


def _per_class(examples: Sequence[CheckedExample], num_classes: int) -> str:
    counts = np.bincount([example.label for example in examples], minlength=num_classes)
    absent = int((counts == 0).sum())
    return _spread(counts) + (f"; none of {absent:,}" if absent else "")


def _spread(values: Sequence[int] | np.ndarray) -> str:
    """Returns ``"least, median, greatest"``."""
    if not len(values):
        return "–"
    return f"{np.min(values):,}, {np.median(values):,.0f}, {np.max(values):,}"


def _size(num_bytes: float) -> str:
    """Returns e.g. ``"150.2 GB"``, in the decimal units of disks and of published data sets."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:,.0f} {unit}" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.2f} TB"
