"""The files that make up the splits of a data set, by their names; and the labels that they may hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from efficientnet_pod.data.names import printable
from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.sources.folders import require_folder
from efficientnet_pod.data.sources.types import SPLIT_FLAGS
from efficientnet_pod.errors import UserError


def files_of(path: str, splits: Iterable[str], suffix: str, layout: str, form: str) -> dict[str, list[str]]:
    """Returns the files of each split, sorted; UserError if there are none or one of a numbering is missing.

    The files stand in the folder, or in its folder ``data`` or one of the split's name. In their names the
    split is a word of its own: ``train-00000-of-00294.parquet``, ``imagenet1k-train-0000.tar``.
    """
    splits = list(dict.fromkeys(splits))
    require_folder(path, f"{layout}; give it as {form}")
    folders = [path, *(os.path.join(path, folder) for folder in ("data", *splits))]
    present = [
        os.path.join(folder, file)
        for folder in filter(tf.io.gfile.isdir, folders)
        for file in sorted(tf.io.gfile.listdir(folder))
        if file.endswith(suffix) and not file.startswith(".")
    ]
    if not present:
        raise UserError(f"folder '{path}' has no files *{suffix}; {layout}; name the folder of the files")
    files = {}
    for split in splits:
        word = re.compile(rf"(?:.*[-_.])?{re.escape(split)}(?:[-_.].*)?")
        files[split] = [
            file
            for file in present
            if word.fullmatch(os.path.basename(file).removesuffix(suffix))
            or os.path.dirname(file) == os.path.join(path, split)
        ]
        if not files[split]:
            raise UserError(
                f"folder '{path}' has no files of split '{split}' among {len(present)} files *{suffix}, "
                f"first '{printable(os.path.basename(present[0]))}'; name one that is there: {SPLIT_FLAGS}"
            )
        _require_all(files[split])
    return files


def _require_all(files: Sequence[str]) -> None:
    """Raises UserError if the names end as ``-of-00294`` and a number below is missing."""
    numbered = [re.search(r"(\d+)-of-(\d+)\.\w+$", file) for file in files]
    for total in {match[2] for match in numbered if match}:
        there = {int(match[1]) for match in numbered if match and match[2] == total}
        if missing := sorted(set(range(int(total))) - there):
            one = next(match for match in numbered if match and match[2] == total)
            file = f"{one.string[: one.start()]}{missing[0]:0{len(one[1])}}{one.string[one.end(1) :]}"
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(f"file '{file}' is missing{more}; a split needs all its files; copy it there")


def require_labels(path: str, first: int, last: int, num_classes: int) -> None:
    """Raises UserError if the labels first..last of a file are not all below the number of classes."""
    label = first if first < 0 else last
    if not 0 <= label < num_classes:
        why = " (-1 marks images without labels)" if label == -1 else ""
        raise UserError(
            f"file '{path}' has label {label}{why}, and the data set has {num_classes} class names, 0 to "
            f"{num_classes - 1}; name a labelled split, or correct the class names"
        )
