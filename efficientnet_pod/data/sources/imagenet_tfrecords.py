"""ImageNet as record files in the layout of tensorflow/tpu: train-00000-of-01024 and so on, labels from 1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from os.path import join
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.splits import SplitDict

from efficientnet_pod.data.names import printable
from efficientnet_pod.data.quiet import reason_of, tf
from efficientnet_pod.data.sources.folders import require_folder
from efficientnet_pod.data.sources.tfds import file_ranges, split_names
from efficientnet_pod.data.sources.tfrecord_bytes import count_records
from efficientnet_pod.data.sources.types import (
    SPLIT_FLAGS,
    Example,
    FileRange,
    Records,
    Source,
    fingerprint_of_files,
)
from efficientnet_pod.errors import UserError

NUM_CLASSES = 1000
_LAYOUT = "a tfrecord source holds train-00000-of-01024 … and validation-00000-of-00128 …"
_SHARD = re.compile(r"(?P<split>\w+)-(?P<shard>\d{5})-of-(?P<shards>\d{5})")
_SAMPLED_FILES = 16  # their first records are checked when the source is opened

# Source: tensorflow/tpu, tools/datasets/imagenet_to_gcs.py (_convert_to_example).
_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    "image/filename": tf.io.FixedLenFeature([], tf.string, ""),
    "image/class/synset": tf.io.FixedLenFeature([], tf.string, ""),
    "image/class/text": tf.io.FixedLenFeature([], tf.string, ""),
}


def open_tfrecords(name: str, path: str, train_split: str, eval_split: str) -> Source:
    """Returns the source of record files in the folder ``path``; label 1 of the files becomes 0.

    Splits may be slices. The records are counted at the first start (``count_records``).

    Raises:
      UserError: a file is missing or damaged, or its records are not ImageNet's.
    """
    files = _list_shards(path, [*split_names(train_split), *split_names(eval_split)])
    counts = count_records([file for shards in files.values() for file in shards])
    template = tfds.core.ShardedFileTemplate(data_dir=epath.Path(path), template="{SPLIT}-{SHARD_X_OF_Y}")
    table = SplitDict(
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[counts[file] for file in shards],
            num_bytes=0,
            filename_template=template.replace(split=split),
        )
        for split, shards in files.items()
    )
    train, held_out = (
        Records(file_ranges(name, table, split), _parse) for split in (train_split, eval_split)
    )
    names = _class_names([*_first_records(train), *_first_records(held_out)])
    fingerprint = fingerprint_of_files(train.files, held_out.files)
    return Source(name, names, train, held_out, fingerprint=fingerprint)


def _list_shards(path: str, splits: Sequence[str]) -> dict[str, list[str]]:
    """Returns the files of each split in their order; raises UserError if one is absent."""
    require_folder(path, f"{_LAYOUT}; give it as tfrecord:/path")
    present: dict[str, dict[int, set[int]]] = {}  # by split and number of shards
    for entry in tf.io.gfile.listdir(path):
        if match := _SHARD.fullmatch(entry):
            numberings = present.setdefault(match["split"], {})
            numberings.setdefault(int(match["shards"]), set()).add(int(match["shard"]))
    if not present:
        raise UserError(f"folder '{path}' has no record files; {_LAYOUT}; name the folder of the files")
    files = {}
    for split in splits:
        if split not in present:
            known = ", ".join(sorted(present))
            raise UserError(
                f"folder '{path}' has no files of split '{split}', only of {known}; "
                f"name one of these: {SPLIT_FLAGS}"
            )
        totals = sorted(present[split])
        if len(totals) > 1:
            raise UserError(
                f"folder '{path}' has files of split '{split}' numbered of {totals[0]:05} and of "
                f"{totals[1]:05}; one split is one numbering; move the others elsewhere"
            )
        shards = [f"{split}-{shard:05}-of-{totals[0]:05}" for shard in range(totals[0])]
        missing = [shards[i] for i in range(totals[0]) if i not in present[split][totals[0]]]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(
                f"record file '{join(path, missing[0])}' is missing{more}; a split needs all its files; "
                "copy it there"
            )
        files[split] = [join(path, shard) for shard in shards]
    return files


def _parse(record: tf.Tensor, place: tf.Tensor) -> Example:
    parsed = tf.io.parse_single_example(record, _FEATURES)
    file = parsed["image/filename"]
    name = tf.cond(tf.equal(file, ""), lambda: place, lambda: tf.strings.join([place, " (", file, ")"]))
    return {
        "image": parsed["image/encoded"],
        "label": tf.cast(parsed["image/class/label"], tf.int32) - 1,
        "name": name,
    }


def _first_records(records: Records) -> list[tuple[int, str]]:
    """Returns label and class name, "" if the record has none, of the first records of some files."""

    def first(file: FileRange) -> tuple[int, str]:
        place = f"{file.path}#{file.start}"
        try:
            record = next(iter(tf.data.TFRecordDataset(file.path).skip(file.start)), None)
            if record is None:
                raise ValueError("the file has no such record")
            parsed = tf.io.parse_single_example(record, _FEATURES)
        except (tf.errors.OpError, ValueError) as error:
            raise UserError(
                f"record '{place}' is not of this layout: {reason_of(error)}; it must hold image/encoded and "
                "image/class/label; copy the file anew or name a folder of such records"
            ) from None
        label = int(parsed["image/class/label"])
        if not 1 <= label <= NUM_CLASSES:
            raise UserError(
                f"record '{place}' has label {label}; labels must be 1..{NUM_CLASSES}; "
                "name a folder of labelled ImageNet records"
            )
        word = parsed["image/class/synset"].numpy() or parsed["image/class/text"].numpy()
        return label - 1, printable(word)

    with ThreadPoolExecutor(_SAMPLED_FILES) as pool:
        return list(pool.map(first, islice(records.files, _SAMPLED_FILES)))


def _class_names(sample: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    """Returns 1000 names: ImageNet's synsets or, if the sample has others, its names, and numbers."""
    features: Any = tfds.builder("imagenet2012").info.features
    synsets = features["label"].names
    if all(word in ("", synsets[label]) for label, word in sample):
        return tuple(synsets)
    named = dict(sample)
    return tuple(named.get(label) or str(label + 1) for label in range(NUM_CLASSES))
