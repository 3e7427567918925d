"""Data sets in TFDS's formats: by name, or a folder with TFDS metadata."""

from __future__ import annotations

import os
from os.path import join
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.splits import SplitDict

from efficientnet_pod.data.quiet import load, reason_of, tf
from efficientnet_pod.data.sources.array_records import indexed_records
from efficientnet_pod.data.sources.folders import require_folder
from efficientnet_pod.data.sources.reading import read_part
from efficientnet_pod.data.sources.types import (
    SPLIT_FLAGS,
    Example,
    FileRange,
    Indexed,
    Records,
    Source,
    fingerprint_of_files,
)
from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.workdir.files import expanded

load()
_FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}
MANIFEST = "prepare.json"  # of a folder that `data prepare` writes


def open_tfds(name: str, data_dir: str | None, train_split: str, eval_split: str) -> Source:
    """Returns the TFDS data set ``name[/config][:version]``, which must be prepared.

    Raises:
      UserError: there is no such data set, it has no classes, or it is not prepared.
    """
    builder = _builder(name, data_dir)
    _require_classes(name, builder)
    _require_prepared(name, data_dir, builder)
    return _source(name, builder, train_split, eval_split)


def open_prepared(name: str, path: str, train_split: str, eval_split: str) -> Source:
    """Returns the data set in the folder ``path``, which holds TFDS metadata.

    Raises:
      UserError: the folder does not exist or holds no finished data set with classes.
    """
    require_folder(
        path,
        "a prepared source is a folder with TFDS metadata; give it as prepared:/path, or write it with "
        "`efficientnet-pod data prepare`",
    )
    try:
        builder = tfds.builder_from_directory(path)
    except Exception as error:  # TFDS raises many kinds: no metadata, or metadata of another version
        remedy = "name the folder that holds dataset_info.json"
        if tf.io.gfile.exists(f"{path}/{MANIFEST}"):
            remedy = "`efficientnet-pod data prepare` has not finished it: run the same command again"
        raise UserError(
            f"folder '{path}' cannot be opened as a prepared data set: {reason_of(error)}; {remedy}"
        ) from None
    _require_classes(name, builder)
    return _source(name, builder, train_split, eval_split)


def file_ranges(name: str, splits: SplitDict, split: str) -> tuple[FileRange, ...]:
    """Returns the parts of files that make up a split or a slice such as ``train[:99%]``, at least one.

    Raises:
      UserError: the split does not exist or is empty.
    """
    try:
        instructions = splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise UserError(
            f"data set '{name}' has no split '{split}': {reason_of(error)}; "
            f"name one of {', '.join(sorted(splits))}, or a slice of one: {SPLIT_FLAGS}"
        ) from None
    ranges = tuple(FileRange(str(i.filename), i.skip, i.skip + i.take) for i in instructions if i.take > 0)
    if not ranges:
        raise UserError(
            f"split '{split}' of '{name}' is empty; at least one example is needed; name another split"
        )
    return ranges


def split_names(split: str) -> list[str]:
    """Returns the names in ``"train[:99%]+extra"``: train, extra."""
    return [part.partition("[")[0].strip() for part in split.split("+")]


def _source(name: str, builder: tfds.core.DatasetBuilder, train_split: str, eval_split: str) -> Source:
    features: Any = builder.info.features
    label = features["label"]
    class_names = tuple(label.names or map(str, range(label.num_classes)))
    splits = train_split, eval_split
    files = [file_ranges(name, builder.info.splits, split) for split in splits]
    train, held_out = (
        _split(name, builder, split, ranges, len(class_names))
        for split, ranges in zip(splits, files, strict=True)
    )
    return Source(name, class_names, train, held_out, fingerprint=fingerprint_of_files(*files))


def _split(
    name: str,
    builder: tfds.core.DatasetBuilder,
    split: str,
    ranges: tuple[FileRange, ...],
    num_classes: int,
) -> Indexed | Records:
    """Returns a split whose first example has been read and has a label."""
    formats = tfds.core.FileFormat
    if builder.info.file_format == formats.ARRAY_RECORD:
        examples = indexed_records(ranges, _parse)
    elif builder.info.file_format in (None, formats.TFRECORD):
        examples = Records(ranges, _parse)
    else:
        raise UserError(
            f"data set '{name}' is stored as {builder.info.file_format.value}; only tfrecord and "
            "array_record can be read; prepare it again with `tfds build --file_format=array_record`"
        )
    try:
        label = int(next(iter(read_part(examples, 0, 1)))["label"])
    except tf.errors.OpError as error:
        raise UserError(
            f"split '{split}' of '{name}' cannot be read: {reason_of(error)}; prepare it again"
        ) from None
    if not 0 <= label < num_classes:
        raise UserError(
            f"split '{split}' of '{name}' starts with label {label}; labels must be 0..{num_classes - 1} "
            "(TFDS marks unlabelled test images with -1); name another split"
        )
    return examples


def _parse(record: tf.Tensor, place: tf.Tensor) -> Example:
    # As TFDS does it for one record with the images not decoded; this also takes many at once.
    parsed: Any = tf.io.parse_example(record, _FEATURES)
    return {"image": parsed["image"], "label": tf.cast(parsed["label"], tf.int32), "name": place}


def _builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    base = name.partition(":")[0].partition("/")[0]
    if os.path.isabs(name) or name.startswith((".", "~")) or "://" in name:
        raise UserError(_a_path(name))
    try:
        return tfds.builder(name, data_dir=data_dir)
    except RuntimeError as error:
        raise error.__cause__ or error from None  # TFDS wraps the error of an object store
    except (AssertionError, ImportError, ValueError) as error:
        is_unknown = isinstance(error, tfds.core.DatasetNotFoundError)  # a kind of ValueError
        if not is_unknown and "builder name string" not in str(
            error
        ):  # a version, a config, a missing package
            raise UserError(
                f"data set '{name}' cannot be opened: {reason_of(error)}; correct the name"
            ) from None
        if os.path.exists(name):
            raise UserError(_a_path(name)) from None
        known = tfds.list_builders(with_community_datasets=False)
        paths = ["folder:/path", "prepared:/path", "tfrecord:/path", "parquet:/path", "tar:/path"]
        hint = did_you_mean(base, ["digits", *paths, "imagenet-tars:/path", "kaggle:/path", *known])
        if "did you mean" not in hint:  # nothing near, and hundreds are known
            hint = f"; use digits, {', '.join(paths)}, or a name from tensorflow.org/datasets/catalog"
        raise UserError(f"unknown data set '{name}'{hint}") from None


def _a_path(name: str) -> str:
    """Returns the message for a path in place of a name, with the word that its contents suggest."""
    folder, kind = expanded(name), "folder"
    if os.path.exists(join(folder, "dataset_info.json")):
        kind = "prepared"
    elif os.path.isdir(folder):
        entries = os.listdir(folder)
        signs = {
            "parquet": any(
                entry.endswith(".parquet") for entry in [*entries, *_listed(join(folder, "data"))]
            ),
            "kaggle": "LOC_val_solution.csv" in entries,
            "imagenet-tars": any(entry.startswith("ILSVRC2012_img_") for entry in entries),
            "tar": any(entry.endswith(".tar") for entry in entries),
            "tfrecord": any("-of-" in entry for entry in entries),
        }
        kind = next((kind for kind, is_so in signs.items() if is_so), kind)
    return (
        f"data set '{name}' is a path; a word in front says what is there: "
        f"--config.data.name={kind}:{name} (of evaluate: --data={kind}:…)"
    )


def _listed(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _require_classes(name: str, builder: tfds.core.DatasetBuilder) -> None:
    features: Any = builder.info.features
    keys = list(features.keys()) if isinstance(features, tfds.features.FeaturesDict) else []
    image, label = (features[key] if key in keys else None for key in ("image", "label"))
    has_images = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8
    if not has_images or not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise UserError(
            f"data set '{name}' cannot train a classifier; its features must hold an 8-bit 'image' and a "
            f"class 'label', and are {', '.join(keys) or 'none'}; choose a classification data set"
        )


def _require_prepared(name: str, data_dir: str | None, builder: tfds.core.DatasetBuilder) -> None:
    if not builder.info.splits:
        base = name.partition(":")[0].partition("/")[0]
        flag = f" --data_dir={data_dir}" if data_dir else ""
        manual = " after placing its archives in <data_dir>/downloads/manual"
        raise UserError(
            f"data set '{name}' is not prepared in '{builder.data_dir}'; training does not download; "
            f"run `tfds build {base}{flag}` once{manual if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else ''}"
        )
