"""Data sets of the Hugging Face hub, by the package ``datasets``: any image by number."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from efficientnet_pod.data.class_names import fault_of
from efficientnet_pod.data.names import printable
from efficientnet_pod.data.python_calls import reader
from efficientnet_pod.data.quiet import reason_of, tf
from efficientnet_pod.data.sources.split_files import require_labels
from efficientnet_pod.data.sources.types import SPLIT_FLAGS, Example, Indexed, Source, fingerprint_of
from efficientnet_pod.errors import UserError


def open_hugging_face(name: str, path: str, train_split: str, eval_split: str) -> Source:
    """Returns the data set ``OWNER/NAME``, with the columns ``image`` and ``label``.

    It is fetched where it is not in the cache of ``datasets`` yet. The package itself finds the token for it,
    of ``hf auth login`` or ``HF_TOKEN``: nothing here reads or writes it. Splits may be slices, such as
    ``train[:99%]``.

    Raises:
      UserError: the package is missing; or the data set is, or cannot be fetched, or has no such columns.
    """
    try:
        import datasets  # type: ignore[import-not-found]  # an extra
    except ImportError:
        raise UserError(
            f"data set '{name}' needs the package datasets; pip install 'efficientnet-pod[datasets]', or "
            "fetch its Parquet files and read them as parquet:/path"
        ) from None
    tables = {}
    for split in dict.fromkeys((train_split, eval_split)):
        try:
            tables[split] = datasets.load_dataset(path, split=split)
        except Exception as error:  # of the network, the hub, Arrow and the package: many kinds
            raise UserError(
                f"data set '{name}' cannot be loaded: {reason_of(error)[:300]}; correct the name or the "
                f"split ({SPLIT_FLAGS}), or see to network and credentials (hf auth login)"
            ) from None
    names = {split: _class_names(name, table, datasets) for split, table in tables.items()}
    if names[train_split] != names[eval_split]:
        raise UserError(
            f"splits '{train_split}' and '{eval_split}' of '{name}' have {len(names[train_split])} and "
            f"{len(names[eval_split])} class names, or others; name two splits of one labelling"
        )
    class_names = names[train_split]
    labels = {split: _labels(table) for split, table in tables.items()}
    for split in tables:
        first, last = int(labels[split].min(initial=0)), int(labels[split].max(initial=0))
        require_labels(f"{name} {split}", first, last, len(class_names))
    train, held_out = (
        _indexed(f"{name} {split}", tables[split], labels[split], datasets)
        for split in (train_split, eval_split)
    )
    entries = (
        entry
        for split in (train_split, eval_split)
        for entry in ("/", split, *map(str, labels[split].tolist()))
    )
    return Source(name, class_names, train, held_out, fingerprint=fingerprint_of(entries))


def _class_names(name: str, table: Any, datasets: Any) -> tuple[str, ...]:
    features = table.features
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, datasets.Image) or not isinstance(label, datasets.ClassLabel):
        raise UserError(
            f"data set '{name}' cannot train a classifier; it must have an Image 'image' and a ClassLabel "
            f"'label', and has {', '.join(features)}; choose another"
        )
    if fault := fault_of(label.names):
        raise UserError(f"data set '{name}' cannot be used: {fault}; choose another")
    return tuple(map(printable, label.names))


def _labels(table: Any) -> np.ndarray:
    """Returns all labels, int64; a missing one is -1."""
    column = table.select_columns(["label"]).with_format("arrow")[:]["label"]
    return column.fill_null(-1).to_numpy().astype(np.int64)


def _indexed(place: str, table: Any, labels: np.ndarray, datasets: Any) -> Indexed:
    """Returns a split, whose images are read as they are stored."""
    images = table.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    label_table = tf.constant(labels, tf.int32)

    def read(index: int) -> bytes:
        try:
            image = images[index]["image"] or {}
            if image.get("bytes") is None and image.get("path"):
                with open(os.fspath(image["path"]), "rb") as file:
                    return file.read()
            return image.get("bytes") or b""
        except Exception as error:  # of Arrow and of the package
            raise RuntimeError(f"'{place}#{index}' cannot be read: {reason_of(error)}") from error

    read_all = reader(read)

    def fetch(index: tf.Tensor) -> Example:
        number = tf.strings.as_string(index)
        name = tf.strings.join([tf.fill(tf.shape(index), place), number], "#")
        return {"image": read_all(index), "label": tf.gather(label_table, index), "name": name}

    return Indexed(len(labels), fetch, takes_many=True, labels=labels.astype(np.int32))
