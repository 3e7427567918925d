"""A folder of class folders as a data set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os.path import join

from efficientnet_pod.data.class_names import fault_of
from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.sources.types import Example, Indexed, Source, fingerprint_of
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import plural

# Layout and suffixes are as in tfds.ImageFolder. That class hides its list of files and reads from the front
# only; with our own list, images are fetched by number and shared among any number of hosts.
SUFFIXES = (".jpg", ".jpeg", ".png")
ALL = "all"  # a split of a folder without split folders: nothing is held out
_LAYOUT = "a folder source holds <split>/<class>/*.jpg or <class>/*.jpg (.jpg, .jpeg or .png)"


def open_folder(name: str, path: str, train_split: str, eval_split: str) -> Source:
    """Returns the images below ``path``, the classes in the order of their folders' names.

    Without split folders a fixed tenth of each class is held out; if both splits are called ``all``, both
    hold all images. If both splits have one name, a single split folder is enough.

    Raises:
      UserError: the folder is missing, unreadable, or not laid out as splits and classes.
    """
    if not path or not tf.io.gfile.isdir(path):
        raise UserError(f"folder '{path}' does not exist; {_LAYOUT}; give it as folder:/path")
    folders = _subfolders(path)
    if not folders:
        raise UserError(f"folder '{path}' has no class folders; {_LAYOUT}; put each class in its own folder")
    if train_split in folders and _subfolders(join(path, train_split)):
        if eval_split not in folders:
            raise UserError(
                f"folder '{path}' has no split folder '{eval_split}', only {', '.join(folders)}; "
                "an evaluation split is needed; name one of these as the evaluation split"
            )
        listings = [_list(join(path, split)) for split in dict.fromkeys((train_split, eval_split))]
        train, held_out = listings[0].images, listings[-1].images
        _require_distinct([*train, *held_out], path)
        if unknown := sorted(set(held_out) - set(train)):
            raise UserError(
                f"class '{unknown[0]}' in '{join(path, eval_split)}' is not in '{join(path, train_split)}'; "
                "each class evaluated must be trained; remove its folder or add it to the training split"
            )
    else:
        listings = [_list(path)]
        train = held_out = files = listings[0].images
        _require_distinct(files, path)
        if not train_split == eval_split == ALL:
            held_out = {label: _tenth(path, label, of_class) for label, of_class in files.items()}
            train = {label: sorted(set(files[label]) - set(held_out[label])) for label in files}
    if len(train) < 2 and train_split != eval_split:  # weights may be evaluated on one of their classes
        raise UserError(
            f"folder '{path}' has only one class, '{next(iter(train))}'; two or more are needed; {_LAYOUT}"
        )
    class_names = tuple(sorted(train))
    return Source(
        name,
        class_names,
        _files(train, class_names),
        _files(held_out, class_names),
        _warnings(listings),
        fingerprint_of(_relative(path, train, held_out)),
    )


@dataclass(frozen=True)
class _Listing:
    """Contents of the class folders in one folder: images by class, other files, folders."""

    images: dict[str, list[str]]
    files: list[str]
    folders: list[str]


def _list(path: str) -> _Listing:
    """Returns the paths in each class folder, sorted; raises UserError for a class without images."""
    listing = _Listing({}, [], [])
    for label in _subfolders(path):
        images = listing.images[label] = []
        for entry, is_folder in _entries(join(path, label)):
            file = join(path, label, entry)
            if entry.lower().endswith(SUFFIXES):
                if is_folder:
                    raise UserError(
                        f"'{file}' is a folder, and is named like an image; {_LAYOUT}; rename or remove it"
                    )
                images.append(file)
            elif is_folder:
                listing.folders.append(file)
            else:
                listing.files.append(file)
        if not images:
            remedy = "add images to it or remove it"
            if any(os.path.dirname(folder) == join(path, label) for folder in listing.folders):
                remedy = f"if '{label}' is a split, name it as one"
            raise UserError(f"class folder '{join(path, label)}' has no images; {_LAYOUT}; {remedy}")
    if not listing.images:
        raise UserError(
            f"split folder '{path}' has no class folders; {_LAYOUT}; put each class in its own folder"
        )
    return listing


def _subfolders(path: str) -> list[str]:
    return [name for name, is_folder in _entries(path) if is_folder]


def _entries(path: str) -> list[tuple[str, bool]]:
    """Returns (name, whether it is a folder) of a folder's entries, sorted, without the hidden ones.

    Only links cost an access to the disk each: ImageNet has 1.3 million entries.
    """
    if "://" in path:  # object stores append a slash to the name of a folder
        names = tf.io.gfile.listdir(path)
        entries = [(name.rstrip("/"), name.endswith("/")) for name in names]
    else:
        try:
            with os.scandir(path) as scan:
                entries = [(entry.name, _is_folder(entry)) for entry in scan]
        except OSError as error:
            raise UserError(f"folder '{path}' cannot be read: {error.strerror}; make it readable") from None
    return sorted((name, is_folder) for name, is_folder in entries if not name.startswith("."))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink() and not os.path.exists(entry.path) and entry.name.lower().endswith(SUFFIXES):
        raise UserError(
            f"'{entry.path}' is a link to a file that does not exist; images must be readable; "
            "repair or remove it"
        )
    return entry.is_dir()


def _require_distinct(class_names: Iterable[str], path: str) -> None:
    """Raises UserError for two classes whose names are one in two spellings; case tells classes apart."""
    if fault := fault_of(sorted(set(class_names))):
        raise UserError(f"folder '{path}' cannot be used: {fault}; rename one of the class folders")


def _warnings(listings: Sequence[_Listing]) -> tuple[str, ...]:
    """Returns a sentence on the files, and one on the folders, that are left out."""
    files = [file for listing in listings for file in listing.files]
    folders = [folder for listing in listings for folder in listing.folders]
    pairs = ((files, "file", "other than .jpg, .jpeg or .png in"), (folders, "folder", "inside"))
    return tuple(
        f"left out: {plural(len(paths), noun)} {place} class folders, first: {paths[0]}"
        for paths, noun, place in pairs
        if paths
    )


def _tenth(path: str, label: str, files: Sequence[str]) -> list[str]:
    """Returns a tenth of the files, at least one, by the digests of their names: the same everywhere."""
    if len(files) < 2:
        raise UserError(
            f"class folder '{join(path, label)}' has one image; without split folders a tenth of each class "
            "is held out for evaluation, so a class needs two; add images or make split folders"
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


def _files(files: dict[str, list[str]], class_names: Sequence[str]) -> Indexed:
    number = {label: i for i, label in enumerate(class_names)}
    paths = [path for label in sorted(files) for path in files[label]]
    labels = [number[label] for label in sorted(files) for _ in files[label]]
    path_table = tf.constant([os.fsencode(path) for path in paths])  # names need not be UTF-8
    label_table = tf.constant(labels, tf.int32)

    def fetch(index: tf.Tensor) -> Example:
        path = tf.gather(path_table, index)
        return {"image": tf.io.read_file(path), "label": tf.gather(label_table, index), "name": path}

    return Indexed(len(paths), fetch)
