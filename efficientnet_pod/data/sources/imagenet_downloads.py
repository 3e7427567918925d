"""ImageNet as it is downloaded: the archives of its makers, and Kaggle's folders."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Sequence
from os.path import join
from typing import Any, NamedTuple

from etils import epath

from efficientnet_pod.data.names import printable
from efficientnet_pod.data.quiet import reason_of
from efficientnet_pod.data.sources.folders import (
    entries,
    folder_source,
    list_classes,
    require_folder,
    warnings_of,
)
from efficientnet_pod.data.sources.index_file import read_index, stamp_of, write_index
from efficientnet_pod.data.sources.tars import (
    Members,
    indexed_members,
    members_of,
    open_tar,
    require_local,
)
from efficientnet_pod.data.sources.types import SPLIT_FLAGS, Source, fingerprint_of
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import progress_bar
from efficientnet_pod.workdir.files import expanded


class Archive(NamedTuple):
    """An archive as it was published: its MD5, and its size, None for one that is small enough to be read."""

    md5: str
    num_bytes: int | None = None


# Source: sizes as of `ls -l` in several public guides; MD5s of the download page, also in torchvision.
TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
PUBLISHED = {
    TRAIN: Archive("1d675b47d978889d74fa0da5fadfb00e", 147_897_477_120),
    VALIDATION: Archive("29b22e2961454d5413ddabcf34fc5622", 6_744_924_160),
    DEVKIT: Archive("fa75699e90414af021442c21a62c3abf"),
}
_INDEX, _CHECKED = "imagenet_members.json", "checked_md5.json"
_TARS = f"an imagenet-tars source is a folder with {TRAIN}, {VALIDATION} and {DEVKIT}"
_KAGGLE = (
    "a kaggle source is the unpacked download, with ILSVRC/Data/CLS-LOC/train, …/val, LOC_synset_mapping.txt "
    "and LOC_val_solution.csv"
)


def open_imagenet_tars(name: str, path: str, train_split: str, eval_split: str) -> Source:
    """Returns the images in ImageNet's own archives, which stay packed: any of them by number.

    The labels of the validation images come from the archive of the development kit. The headers are read at
    the first start, and kept in an index.

    Raises:
      UserError: an archive is missing, or has another size than the published one.
    """
    require_local(path, "an imagenet-tars source")
    require_folder(path, f"{_TARS}; give it as imagenet-tars:/path")
    for file in PUBLISHED:
        require_published(join(path, file))
    synsets, truth = read_devkit(join(path, DEVKIT))
    numbers = {synset: number for number, synset in enumerate(synsets)}
    listings: dict[str, Callable[[], Members]] = {
        "train": lambda: _indexed(path, TRAIN, lambda file: _training_members(file, numbers)),
        "validation": lambda: _indexed(
            path, VALIDATION, lambda file: _validation_members(file, truth, numbers)
        ),
    }
    files = {"train": join(path, TRAIN), "validation": join(path, VALIDATION)}
    splits = [_split(name, split) for split in (train_split, eval_split)]
    members = {split: listings[split]() for split in dict.fromkeys(splits)}
    train, held_out = (indexed_members({files[split]: members[split]}) for split in splits)
    named = [entry for split in splits for entry in ("/", *members[split].names)]
    return Source(name, synsets, train, held_out, fingerprint=fingerprint_of(named))


def require_whole(name: str) -> None:
    """Raises UserError if a data set is ImageNet's archives, and one has not the MD5 that was published."""
    kind, _, path = name.partition(":")
    for file in PUBLISHED if kind == "imagenet-tars" else ():
        require_published(join(expanded(path), file), whole=True)


def require_published(path: str, *, whole: bool = False) -> None:
    """Raises UserError unless an archive has the published size and, small or with ``whole``, the MD5.

    An archive whose MD5 was right once, and that is unchanged by size and time, is not read again.
    """
    if not os.path.exists(path):
        raise UserError(f"archive '{path}' is missing; {_TARS}; download it from image-net.org")
    folder, name = os.path.split(path)
    published, stamp = PUBLISHED[name], stamp_of(path)
    num_bytes = stamp[0]
    if published.num_bytes not in (None, num_bytes):
        raise UserError(
            f"archive '{path}' has {num_bytes:,} bytes, and {published.num_bytes:,} were published: its "
            "download is not complete; download it again"
        )
    index = read_index(folder, _CHECKED)
    if index.get(name, {}).get("stamp") == stamp or not whole and published.num_bytes:
        return
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        about = f"checking {name}"
        with progress_bar(about, total=max(1, num_bytes >> 20), unit="MiB") as advance:
            while block := file.read(16 << 20):
                digest.update(block)
                advance(len(block) >> 20)
    if digest.hexdigest() != published.md5:
        raise UserError(
            f"archive '{path}' has the MD5 {digest.hexdigest()}, and {published.md5} was published: it is "
            "damaged; download it again"
        )
    write_index(folder, _CHECKED, index | {name: {"stamp": stamp}})


def read_devkit(path: str) -> tuple[tuple[str, ...], list[str]]:
    """Returns the synsets in the order of the labels, and the synset of each validation image.

    The kit numbers the synsets in an order of its own; labels follow the order of their names, as in TFDS,
    Keras and Kaggle.

    Raises:
      UserError: the archive is damaged, or its tables do not fit together.
    """
    from scipy.io import loadmat  # a tenth of a second to import, for this source alone

    try:
        with tarfile.open(path, "r:gz") as kit:
            contents = {}
            for member in kit:
                base = os.path.basename(member.name)
                if member.isreg() and base in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"):
                    file = kit.extractfile(member)
                    contents[base] = file.read() if file else b""
        table: Any = loadmat(io.BytesIO(contents["meta.mat"]), squeeze_me=True)["synsets"]
        leaves = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table if not row["num_children"]}
        truth = [
            leaves[int(line)] for line in contents["ILSVRC2012_validation_ground_truth.txt"].decode().split()
        ]
    except Exception as error:  # of gzip, tar, SciPy and what is missing
        raise UserError(
            f"archive '{path}' cannot be read: {type(error).__name__}: {error}; download it again"
        ) from None
    return tuple(sorted(leaves.values())), truth


def _indexed(folder: str, name: str, read: Callable[[str], Members]) -> Members:
    """Returns the members of an archive, from the folder's index where that is valid."""
    path = join(folder, name)
    stamp, index = stamp_of(path), read_index(folder, _INDEX)
    if index.get(name, {}).get("stamp") != stamp:
        index[name] = {"stamp": stamp, **vars(read(path))}
        write_index(folder, _INDEX, index, indent=None)
    return Members(**{column: index[name][column] for column in Members.__dataclass_fields__})


def _training_members(path: str, numbers: dict[str, int]) -> Members:
    """Returns the images in the archives of the classes, which lie one after the other in one archive."""
    members, seen = Members(), set()
    about = "reading the headers of tar files"
    with open_tar(path) as outer, progress_bar(about, total=len(numbers), unit="classes") as advance:
        for archive in members_of(outer, path):
            synset = os.path.basename(archive.name).removesuffix(".tar")
            if synset not in numbers:
                raise UserError(
                    f"archive '{path}' holds '{printable(archive.name)}', a class that the development kit "
                    "does not have; download both again"
                )
            with tarfile.open(fileobj=outer.extractfile(archive), mode="r:") as inner:
                for image in members_of(inner, f"{path}#{archive.name}"):
                    offset = archive.offset_data + image.offset_data
                    members.add(offset, image.size, f"{archive.name}/{image.name}", numbers[synset])
            seen.add(synset)
            advance(1)
    if missing := sorted(set(numbers) - seen):
        raise UserError(
            f"archive '{path}' lacks {len(missing)} classes, first {missing[0]}; download it again"
        )
    return members


def _validation_members(path: str, truth: Sequence[str], numbers: dict[str, int]) -> Members:
    """Returns the validation images in the order of their numbers, as their labels are."""
    with open_tar(path) as archive:
        images = sorted(members_of(archive, path), key=lambda image: image.name)
    if len(images) != len(truth):
        raise UserError(
            f"archive '{path}' has {len(images):,} images, and the development kit labels {len(truth):,}; "
            "download both again"
        )
    members = Members()
    for image, synset in zip(images, truth, strict=True):
        members.add(image.offset_data, image.size, image.name, numbers[synset])
    return members


def open_kaggle(name: str, path: str, train_split: str, eval_split: str) -> Source:
    """Returns the images of Kaggle's ImageNet, unpacked, the validation images by the labels of its table.

    Raises:
      UserError: a folder or a table is missing, or they do not fit together.
    """
    require_folder(path, f"{_KAGGLE}; give it as kaggle:/path")
    root = join(path, "ILSVRC/Data/CLS-LOC")
    require_folder(root, f"{_KAGGLE}; unpack the download with unzip and tar")
    synsets = [line.split()[0] for line in _lines(join(path, "LOC_synset_mapping.txt")) if line.strip()]
    splits = [_split(name, split) for split in (train_split, eval_split)]
    images, warnings = {}, ()
    if "train" in splits:
        listing = list_classes(join(root, "train"))
        images["train"], warnings = listing.images, warnings_of([listing])
        if different := sorted({*images["train"]} ^ {*synsets}):
            raise UserError(
                f"folder '{root}/train' and LOC_synset_mapping.txt differ in {len(different)} classes, first "
                f"'{printable(different[0])}'; unpack the download again"
            )
        _require_listed(join(path, "ILSVRC/ImageSets/CLS-LOC/train_cls.txt"), root, images["train"])
    if "validation" in splits:
        images["validation"] = _validation_files(
            join(path, "LOC_val_solution.csv"), join(root, "val"), synsets
        )
    return folder_source(name, root, sorted(synsets), images[splits[0]], images[splits[1]], warnings)


def _validation_files(table: str, folder: str, synsets: Sequence[str]) -> dict[str, list[str]]:
    """Returns the images of each class: LOC_val_solution.csv names image and class, with boxes behind it."""
    by_class: dict[str, list[str]] = {synset: [] for synset in synsets}
    stored = {entry.name: entry.path for entry in entries(folder) if not entry.is_folder}
    rows = list(csv.reader(_lines(table)))[1:]
    for number, row in enumerate(rows, 2):
        words = row[1].split() if len(row) == 2 else []
        if not words or words[0] not in by_class:
            raise UserError(
                f"line {number} of '{table}' has no class of LOC_synset_mapping.txt; it must be "
                "ImageId,PredictionString; unpack the download again"
            )
        if f"{row[0]}.JPEG" not in stored:
            raise UserError(
                f"image '{join(folder, row[0])}.JPEG' is missing, which LOC_val_solution.csv names; unpack "
                "the download again"
            )
        by_class[words[0]].append(stored[f"{row[0]}.JPEG"])
    if len(rows) != len(stored):
        raise UserError(
            f"folder '{folder}' has {len(stored):,} files, and LOC_val_solution.csv labels {len(rows):,}; "
            "unpack the download again"
        )
    return {synset: sorted(files) for synset, files in by_class.items()}


def _require_listed(table: str, root: str, images: dict[str, list[str]]) -> None:
    """Raises UserError if an image that Kaggle's list of training images names is missing."""
    if not epath.Path(table).exists():
        return
    listed = {line.split()[0] for line in _lines(table) if line.strip()}
    stored = {
        f"{label}/{os.path.splitext(os.path.basename(file))[0]}" for label in images for file in images[label]
    }
    if missing := sorted(listed - stored):
        raise UserError(
            f"{len(missing):,} training images are missing in '{root}/train', first '{missing[0]}.JPEG'; "
            "unpack the download again"
        )


def _lines(path: str) -> list[str]:
    try:
        return epath.Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise UserError(f"'{path}' cannot be read: {reason}; {_KAGGLE}; unpack the download again") from None


def _split(name: str, split: str) -> str:
    """Returns the split of this name, ``train`` or ``validation``, which is also called ``val``."""
    if split not in ("train", "validation", "val"):
        raise UserError(f"data set '{name}' has no split '{split}'; name train or validation: {SPLIT_FLAGS}")
    return "validation" if split == "val" else split
