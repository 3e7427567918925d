"""A folder of class folders as a data set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os.path import join
from typing import NamedTuple

import numpy as np

from efficientnet_pod.data.class_names import fault_of
from efficientnet_pod.data.names import printable
from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.sources.types import SPLIT_FLAGS, Example, Indexed, Source, fingerprint_of
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import plural

# The layout is as in tfds.ImageFolder. That class hides its list of files and reads from the front only; with
# our own list, images are fetched by number and shared among any number of hosts.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".avif")
NO_FILE = "is a pipe, a socket or a device, not a file"
ALL = "all"  # a split of a folder without split folders: nothing is held out
_LAYOUT = "a folder source holds <split>/<class>/*.jpg or <class>/*.jpg (or .png, .webp, .gif, .bmp, .avif)"


def open_folder(name: str, path: str, train_split: str, eval_split: str) -> Source:
    """Returns the images below ``path``, the classes in the order of their folders' names.

    Without split folders a fixed tenth of each class is held out; if both splits are called ``all``, both
    hold all images. If both splits have one name, a single split folder is enough.

    Raises:
      UserError: the folder is missing, unreadable, or not laid out as splits and classes.
    """
    require_folder(path, f"{_LAYOUT}; give it as folder:/path")
    folders = _subfolders(path)
    if not folders:
        raise UserError(f"folder '{path}' has no class folders; {_LAYOUT}; put each class in its own folder")
    if train_split in folders and _subfolders(join(path, train_split)):
        if eval_split not in folders:
            others = [folder for folder in folders if folder != train_split] or folders
            nearest = printable(min(others, key=lambda folder: not folder.startswith(eval_split[:3])))
            raise UserError(
                f"folder '{path}' has no split folder '{eval_split}', only "
                f"{', '.join(map(printable, folders))}; name the one to evaluate: "
                f"--config.data.eval_split={nearest} (of evaluate: --split={nearest})"
            )
        listings = [list_classes(join(path, split)) for split in dict.fromkeys((train_split, eval_split))]
        train, held_out = listings[0].images, listings[-1].images
        _require_distinct([*train, *held_out], path)
        if unknown := sorted(set(held_out) - set(train)):
            raise UserError(
                f"class '{printable(unknown[0])}' in '{join(path, eval_split)}' is not in "
                f"'{join(path, train_split)}'; "
                "each class evaluated must be trained; remove its folder or add it to the training split"
            )
    else:
        listings = [list_classes(path)]
        train = held_out = files = listings[0].images
        _require_distinct(files, path)
        if not train_split == eval_split == ALL:
            held_out = {label: _tenth(path, label, of_class) for label, of_class in files.items()}
            train = {label: sorted(set(files[label]) - set(held_out[label])) for label in files}
    if len(train) < 2 and train_split != eval_split:  # weights may be evaluated on one of their classes
        raise UserError(
            f"folder '{path}' has only one class, '{printable(next(iter(train)))}'; two or more are needed; "
            f"{_LAYOUT}"
        )
    return folder_source(name, path, sorted(train), train, held_out, warnings_of(listings))


def folder_source(
    name: str,
    path: str,
    classes: Sequence[str],
    train: dict[str, list[str]],
    held_out: dict[str, list[str]],
    warnings: tuple[str, ...],
) -> Source:
    """Returns the source of these image files below ``path``, by class."""
    fingerprint = fingerprint_of(_relative(path, train, held_out))
    names, splits = tuple(map(printable, classes)), [_files(split, classes) for split in (train, held_out)]
    return Source(name, names, splits[0], splits[1], warnings, fingerprint)


@dataclass(frozen=True)
class Listing:
    """Contents of the class folders in one folder: images by class, other files, folders."""

    images: dict[str, list[str]]
    files: list[str]
    folders: list[str]


def list_classes(path: str) -> Listing:
    """Returns the paths in each class folder, sorted; raises UserError for a class without images."""
    listing = Listing({}, [], [])
    for label in _subfolders(path):
        images = listing.images[label] = []
        folder = join(path, label)
        for entry in _readable(folder):
            named, shown = entry.name.lower().endswith(SUFFIXES), printable(entry.path)
            if entry.fault:
                raise UserError(f"'{shown}' {entry.fault}; images must be readable; repair or remove it")
            if named and entry.is_folder:
                raise UserError(
                    f"'{shown}' is a folder, and is named like an image; {_LAYOUT}; rename or remove it"
                )
            (images if named else listing.folders if entry.is_folder else listing.files).append(entry.path)
        if not images:
            remedy = "add images to it or remove it"
            if any(os.path.dirname(inner) == folder for inner in listing.folders):
                remedy = f"if '{printable(label)}' is a split, name it as one: {SPLIT_FLAGS}"
            raise UserError(f"class folder '{printable(folder)}' has no images; {_LAYOUT}; {remedy}")
    if not listing.images:
        raise UserError(
            f"split folder '{path}' has no class folders; {_LAYOUT}; put each class in its own folder"
        )
    return listing


class Entry(NamedTuple):
    """An entry of a folder; ``fault`` says why one that is named as an image is none."""

    name: str
    path: str
    is_folder: bool
    fault: str = ""


def entries(path: str) -> list[Entry]:
    """Returns a folder's entries, sorted by name, without the hidden ones; links count as their targets.

    Every reader of a folder takes its images from here: those whose names end as ``SUFFIXES``. Only links
    cost an access to the disk each: ImageNet has 1.3 million entries. Raises OSError.
    """
    if "://" in path:  # object stores append a slash to the name of a folder
        names = tf.io.gfile.listdir(path)
        shown = [name for name in names if not name.startswith(".")]
        listed = [Entry(name.rstrip("/"), join(path, name.rstrip("/")), name.endswith("/")) for name in shown]
    else:
        with os.scandir(path) as scan:
            shown = [entry for entry in scan if not entry.name.startswith(".")]
            listed = [Entry(entry.name, join(path, entry.name), *_kind(entry)) for entry in shown]
    return sorted(listed)


def _kind(entry: os.DirEntry[str]) -> tuple[bool, str]:
    """Returns whether an entry is a folder, and why it is no image if it is named like one."""
    try:
        if entry.is_dir():
            return True, ""
        fault = "" if entry.is_file() else NO_FILE
        if fault and entry.is_symlink() and not os.path.exists(entry.path):
            fault = "is a link to a file that does not exist"
    except OSError as error:  # a link to itself, a folder that may not be entered
        fault = f"cannot be read: {error.strerror}"
    return False, fault if entry.name.lower().endswith(SUFFIXES) else ""


def require_folder(path: str, rule: str) -> None:
    """Raises UserError, with the rule and the remedy, if there is no such folder."""
    if not path or not tf.io.gfile.isdir(path):
        fault = "is a file" if path and tf.io.gfile.exists(path) else "does not exist"
        raise UserError(f"folder '{path}' {fault}; {rule}")


def _subfolders(path: str) -> list[str]:
    return [entry.name for entry in _readable(path) if entry.is_folder]


def _readable(path: str) -> list[Entry]:
    try:
        return entries(path)
    except OSError as error:
        raise UserError(
            f"folder '{printable(path)}' cannot be read: {error.strerror}; make it readable"
        ) from None


def _require_distinct(class_names: Iterable[str], path: str) -> None:
    """Raises UserError for two classes whose names are one in two spellings; case tells classes apart."""
    if fault := fault_of(sorted(set(map(printable, class_names)))):
        raise UserError(f"folder '{path}' cannot be used: {fault}; rename one of the class folders")


def warnings_of(listings: Sequence[Listing]) -> tuple[str, ...]:
    """Returns a sentence on the files, and one on the folders, that are left out."""
    files = [file for listing in listings for file in listing.files]
    folders = [folder for listing in listings for folder in listing.folders]
    return (
        *left_out(files, "file", "without the suffix of an image in class folders"),
        *left_out(folders, "folder", "inside class folders"),
    )


def left_out(paths: Sequence[str], noun: str, rest: str) -> tuple[str, ...]:
    """Returns a sentence on the files or folders that are left out, none if there are none."""
    if not paths:
        return ()
    return (f"left out: {plural(len(paths), noun)} {rest}, first: {printable(paths[0])}",)


def _tenth(path: str, label: str, files: Sequence[str]) -> list[str]:
    """Returns a tenth of the files, at least one, by the digests of their names: the same everywhere."""
    if len(files) < 2:
        raise UserError(
            f"class folder '{printable(join(path, label))}' has one image; without split folders a tenth of "
            "each class is held out for evaluation, so a class needs two; add images or make split folders"
        )
    by_digest = sorted(
        files, key=lambda file: hashlib.sha256(os.fsencode(file[len(path) :].lstrip("/"))).digest()
    )
    return sorted(by_digest[: max(1, round(len(files) / 10))])


def _relative(path: str, *splits: dict[str, list[str]]) -> Iterator[str]:
    """Yields the relative paths of all images, split by split; their folders are the labels."""
    for files in splits:
        yield "/"  # where a split begins
        for label in sorted(files):
            yield from (file[len(path) :].lstrip("/") for file in files[label])


def _files(files: dict[str, list[str]], classes: Sequence[str]) -> Indexed:
    number = {label: i for i, label in enumerate(classes)}
    paths = [path for label in sorted(files) for path in files[label]]
    labels = [number[label] for label in sorted(files) for _ in files[label]]
    path_table = tf.constant([os.fsencode(path) for path in paths])  # names need not be UTF-8
    label_table = tf.constant(labels, tf.int32)

    def fetch(index: tf.Tensor) -> Example:
        path = tf.gather(path_table, index)
        return {"image": tf.io.read_file(path), "label": tf.gather(label_table, index), "name": path}

    return Indexed(len(paths), fetch, labels=np.array(labels, np.int32))
