"""Tar files whose members are images, fetched by number; webdataset's shards as a source."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from efficientnet_pod.data.class_names import fault_of, names_in
from efficientnet_pod.data.names import printable
from efficientnet_pod.data.python_calls import reader
from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.sources.folders import SUFFIXES
from efficientnet_pod.data.sources.index_file import read_index, stamp_of, write_index
from efficientnet_pod.data.sources.split_files import files_of, require_labels
from efficientnet_pod.data.sources.types import Example, Indexed, Source, fingerprint_of
from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import progress_bar

_LAYOUT = "a tar source holds train-000000.tar … and validation-000000.tar …, with KEY.jpg and KEY.cls"
_INDEX = "tar_members.json"
_CLASS_NAMES = "classnames.txt"
_END = bytes(1024)  # of every tar file: two empty blocks


@dataclass
class Members:
    """The images in one tar file: where they lie, what they are called, and their labels."""

    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(self, offset: int, size: int, name: str, label: int) -> None:
        """Adds one image."""
        self.offsets.append(offset)
        self.sizes.append(size)
        self.names.append(name)
        self.labels.append(label)


def open_tars(name: str, path: str, train_split: str, eval_split: str) -> Source:
    """Returns the images of webdataset's shards in the folder ``path``: any of them by number.

    A sample is the members of one key: ``KEY.jpg`` (or .png, .webp …) and ``KEY.cls`` with the label, or
    ``KEY.json`` with the field ``label``. The headers are read at the first start, and kept in an index. The
    class names are the lines of ``classnames.txt``; without it they are the labels' numbers.

    Raises:
      UserError: a file is missing, cut off or in an object store, or a sample has no usable label.
    """
    require_local(path, "a tar source")
    files = files_of(path, (train_split, eval_split), ".tar", _LAYOUT, "tar:/path")
    members = index_of(path, list(dict.fromkeys(file for split in files.values() for file in split)))
    most = max(label for file in files[train_split] for label in members[file].labels)
    class_names, warnings = _class_names(path), ()
    if not class_names:
        class_names = tuple(map(str, range(most + 1)))
        warnings = (f"'{path}' has no {_CLASS_NAMES}; the classes are called 0 to {most}, by the labels",)
    elif most + 1 < len(class_names):
        warnings = (f"{_CLASS_NAMES} has {len(class_names)} names, and the greatest label is {most}",)
    for file in members:
        require_labels(file, min(members[file].labels), max(members[file].labels), len(class_names))
    train, held_out = (
        indexed_members({file: members[file] for file in files[split]}) for split in (train_split, eval_split)
    )
    entries = _entries({split: files[split] for split in (train_split, eval_split)}, members)
    return Source(name, class_names, train, held_out, warnings, fingerprint_of(entries))


def require_local(path: str, what: str) -> None:
    """Raises UserError for a folder in an object store."""
    if "://" in path:
        raise UserError(
            f"'{path}' is in an object store, and {what} is read from a file system; mount or copy the folder"
        )


def indexed_members(files: dict[str, Members]) -> Indexed:
    """Returns the images of these tar files, end to end, by number."""
    paths = list(files)
    number = np.repeat(np.arange(len(paths)), [len(members.names) for members in files.values()])
    offsets, sizes, labels = (
        np.concatenate([np.array(getattr(members, column), np.int64) for members in files.values()])
        for column in ("offsets", "sizes", "labels")
    )
    names = tf.constant([os.fsencode(name) for members in files.values() for name in members.names])
    path_table, number_table = tf.constant([os.fsencode(path) for path in paths]), tf.constant(number)
    label_table = tf.constant(labels, tf.int32)

    def read(index: int) -> bytes:
        path, size = paths[number[index]], int(sizes[index])
        try:
            file = os.open(path, os.O_RDONLY)
            try:
                data = os.pread(file, size, int(offsets[index]))
            finally:
                os.close(file)
        except OSError as error:
            raise RuntimeError(f"file '{path}' cannot be read: {error.strerror}") from error
        if len(data) < size:
            raise RuntimeError(f"file '{path}' is shorter than at the start; copy it anew")
        return data

    read_all = reader(read)

    def fetch(index: tf.Tensor) -> Example:
        file = tf.gather(path_table, tf.gather(number_table, index))
        return {
            "image": read_all(index),
            "label": tf.gather(label_table, index),
            "name": tf.strings.join([file, tf.gather(names, index)], "#"),
        }

    return Indexed(len(number), fetch, takes_many=True, labels=labels.astype(np.int32))


def index_of(folder: str, paths: Sequence[str]) -> dict[str, Members]:
    """Returns the images of each webdataset shard, from the folder's index where that is valid.

    Files whose size or time of writing is not in the index are read, with a progress bar on a terminal.

    Raises:
      UserError: a file is cut off or no tar file, or a sample has no image or no label.
    """
    index = read_index(folder, _INDEX)
    names = {path: os.path.relpath(path, folder) for path in paths}
    stamps = {path: stamp_of(path) for path in paths}
    wanted = [path for path in paths if index.get(names[path], {}).get("stamp") != stamps[path]]
    if wanted:
        with progress_bar("reading the headers of tar files", total=len(wanted), unit="files") as advance:
            for path in wanted:
                index[names[path]] = {"stamp": stamps[path], **vars(_samples(path))}
                advance(1)
        write_index(folder, _INDEX, index, indent=None)
    columns = Members.__dataclass_fields__
    return {path: Members(**{name: index[names[path]][name] for name in columns}) for path in paths}


def members_of(file: tarfile.TarFile, path: str) -> Iterator[tarfile.TarInfo]:
    """Yields the regular files in a tar file; UserError where the file ends early or is none."""
    try:
        for member in file:
            if member.isreg() and not os.path.basename(member.name).startswith("."):
                yield member
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"file '{path}' is cut off or damaged: {error}; copy it anew") from None


def open_tar(path: str) -> tarfile.TarFile:
    """Returns a tar file that has its end; raises UserError for others."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - len(_END)))
            if file.read() != _END:
                raise UserError(f"file '{path}' is cut off: a tar file ends in 1,024 zeros; copy it anew")
        return tarfile.open(path, "r:")
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"file '{path}' cannot be read as an uncompressed tar file: {error}; copy it anew, or unpack it "
            "where it is compressed"
        ) from None


def _samples(path: str) -> Members:
    """Returns the images of a shard, with their labels."""
    images: dict[str, tuple[int, int, str]] = {}
    labels: dict[str, int] = {}
    with open_tar(path) as file:
        for member in members_of(file, path):
            folder, base = os.path.split(member.name)
            stem, _, suffix = base.partition(".")  # the key ends at the first dot, as webdataset has it
            key, suffix = os.path.join(folder, stem), suffix.lower()
            shown = f"sample '{printable(key)}' of '{path}'"
            if f".{suffix}" in SUFFIXES:
                if key in images:
                    raise UserError(f"{shown} has two images; a sample has one; rename one of them")
                images[key] = member.offset_data, member.size, member.name
            elif suffix == "cls" or suffix == "json" and key not in labels:
                if (label := _label(file, member, suffix)) is not None:
                    labels[key] = label
                elif suffix == "cls":
                    raise UserError(f"{shown} has a .cls that is no integer; correct it")
    members = Members()
    for key, image in images.items():
        if key not in labels:
            raise UserError(
                f"sample '{printable(key)}' of '{path}' has no label; {_LAYOUT}; name a labelled split"
            )
        members.add(*image, labels[key])
    if not images:
        raise UserError(f"file '{path}' has no images ({', '.join(SUFFIXES)}); {_LAYOUT}; remove it")
    return members


def _label(file: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> int | None:
    """Returns the label that a member holds; None if it is no integer, or a .json without one."""
    content = file.extractfile(member)
    assert content
    try:
        text = content.read().decode()
        label = json.loads(text)["label"] if suffix == "json" else int(text)
    except (ValueError, KeyError, TypeError):
        return None
    return label if isinstance(label, int) and abs(label) < 2**31 else None


def _class_names(path: str) -> tuple[str, ...]:
    file = os.path.join(path, _CLASS_NAMES)
    if not os.path.exists(file):
        return ()
    with open(file, "rb") as contents:
        names = names_in(contents.read())
    if fault := fault_of(names):
        raise UserError(f"'{file}' cannot be used: {fault}; correct the names")
    return tuple(map(printable, names))


def _entries(files: dict[str, list[str]], members: dict[str, Members]) -> Iterator[str]:
    """Yields what the fingerprint of the splits is made of."""
    for split in files:
        yield "/"  # where a split begins
        for path in files[split]:
            yield os.path.basename(path)
            for name, label in zip(members[path].names, members[path].labels, strict=True):
                yield f"{name}={label}"
