"""Where the images come from: the digits of scikit-learn, a folder of class folders, or a TFDS data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import join
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from efficientnet_pod.errors import UserError, did_you_mean

# {"image": encoded JPEG or PNG as a string, or uint8 (height, width, 3); "label": int32; "name": string}
Example = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Indexed:
    """A split whose examples are fetched by number, so that any order costs nothing to enter anywhere.

    ``fetch`` takes an int64 scalar in 0..num_examples-1 and returns the undecoded Example, inside tf.data.
    """

    num_examples: int
    fetch: Callable[[tf.Tensor], Example]


@dataclass(frozen=True)
class Records:
    """A split stored as TFDS record files, which can only be read from the front."""

    num_examples: int
    builder: tfds.core.DatasetBuilder
    split: tfds.typing.SplitArg

    def share(self, host_index: int, host_count: int) -> Records:
        """Returns one host's part: the parts cover the split, and their lengths differ by at most one."""
        spec: Any = self.split  # the stubs expect a name, and slices are as good
        part = tfds.even_splits(spec, n=host_count)[host_index]
        return Records(self.builder.info.splits[part].num_examples, self.builder, part)

    def read(self, shuffle_seed: tf.Tensor | None) -> tf.data.Dataset:
        """Returns the undecoded Examples, the record files in a seeded order, or as stored where it is None.

        Reading stops with an error, never with a shorter epoch, where records are damaged or missing.
        """
        seed: Any = shuffle_seed  # passed on to tf.data, which takes tensors too
        config = tfds.ReadConfig(
            shuffle_seed=seed,
            shuffle_reshuffle_each_iteration=False,
            add_tfds_id=True,
            try_autocache=False,
            enable_ordering_guard=False,
            skip_prefetch=True,
        )
        records = self.builder.as_dataset(
            split=self.split,  # pyright: ignore[reportCallIssue]  # a decorator hides the signature
            shuffle_files=shuffle_seed is not None,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=config,
        )
        return records.map(
            lambda record: {
                "image": record["image"],
                "label": tf.cast(record["label"], tf.int32),
                "name": record["tfds_id"],
            }
        )


@dataclass(frozen=True)
class Source:
    """A labelled image data set with a training and an evaluation split; label i means ``class_names[i]``."""

    name: str
    class_names: tuple[str, ...]
    train: Indexed | Records
    eval: Indexed | Records

    @property
    def num_train(self) -> int:
        """Images in the training split."""
        return self.train.num_examples

    @property
    def num_eval(self) -> int:
        """Images in the evaluation split."""
        return self.eval.num_examples

    @property
    def num_classes(self) -> int:
        """Classes of the data set."""
        return len(self.class_names)


def open_source(
    name: str, *, data_dir: str | None = None, train_split: str = "train", eval_split: str = "validation"
) -> Source:
    """Returns the data set called ``name``, checked as far as that is possible without reading it all.

    ``digits`` is the 1,797 digits of scikit-learn, with its own split. ``folder:/path`` holds
    ``<split>/<class>/*.jpg``, or ``<class>/*.jpg`` alone, of which a fixed tenth of each class is held out.
    Anything else is a TFDS name, ``name[/config][:version]``, read from ``data_dir`` (None: TFDS's default);
    its splits may be slices such as ``train[:99%]``. Raises UserError.
    """
    if name == "digits":
        return _digits()
    if name.startswith("folder:"):
        return _folder(name, name.removeprefix("folder:"), train_split, eval_split)
    return _tfds(name, data_dir, train_split, eval_split)


def _digits() -> Source:
    """Returns scikit-learn's 8x8 grey digits; RandomState(0)'s order holds out the first 36 of each digit."""
    from sklearn.datasets import load_digits  # half a second to import, for this source alone

    pixels, labels = (np.asarray(table) for table in load_digits(return_X_y=True))
    grey = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)  # stored as 0..16
    images, labels = np.repeat(grey, 3, axis=-1), labels.astype(np.int32)
    order = np.random.RandomState(0).permutation(len(labels))  # RandomState: numpy has frozen its streams
    held_out = np.concatenate([order[labels[order] == digit][:36] for digit in range(10)])
    kept = np.setdiff1d(order, held_out)
    return Source(
        name="digits",
        class_names=tuple(str(digit) for digit in range(10)),
        train=_in_memory(images[kept], labels[kept]),
        eval=_in_memory(images[held_out], labels[held_out]),
    )


def _in_memory(images: np.ndarray, labels: np.ndarray) -> Indexed:
    image_table, label_table = tf.constant(images), tf.constant(labels)

    def fetch(index: tf.Tensor) -> Example:
        return {
            "image": tf.gather(image_table, index),
            "label": tf.gather(label_table, index),
            "name": tf.strings.as_string(index),
        }

    return Indexed(len(labels), fetch)


# The layout and the suffixes are those of tfds.ImageFolder, whose file list is private and which reads from
# the front only: with the list in hand, images are fetched by number and shared among any number of hosts.
_SUFFIXES = (".jpg", ".jpeg", ".png")
_LAYOUT = "a folder source holds <split>/<class>/*.jpg or <class>/*.jpg (.jpg, .jpeg or .png)"


def _folder(name: str, path: str, train_split: str, eval_split: str) -> Source:
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
        train = _list_images(join(path, train_split))
        held_out = _list_images(join(path, eval_split))
        if unknown := sorted(set(held_out) - set(train)):
            raise UserError(
                f"class '{unknown[0]}' in '{join(path, eval_split)}' is not in '{join(path, train_split)}'; "
                "each class evaluated must be trained; remove its folder or add it to the training split"
            )
    else:
        files = _list_images(path)
        held_out = {label: _tenth(path, label, of_class) for label, of_class in files.items()}
        train = {label: sorted(set(files[label]) - set(held_out[label])) for label in files}
    if len(train) < 2:
        raise UserError(
            f"folder '{path}' has only one class, '{next(iter(train))}'; two or more are needed; {_LAYOUT}"
        )
    class_names = tuple(sorted(train))
    return Source(name, class_names, _files(train, class_names), _files(held_out, class_names))


def _subfolders(path: str) -> list[str]:
    names = (entry.rstrip("/") for entry in tf.io.gfile.listdir(path))  # object stores append the slash
    return sorted(n for n in names if not n.startswith(".") and tf.io.gfile.isdir(join(path, n)))


def _list_images(path: str) -> dict[str, list[str]]:
    """Returns the paths of each class's images, sorted; raises UserError for a class without any."""
    images = {}
    for label in _subfolders(path):
        entries = sorted(tf.io.gfile.listdir(join(path, label)))
        images[label] = [join(path, label, e) for e in entries if e.lower().endswith(_SUFFIXES)]
        if not images[label]:
            raise UserError(
                f"class folder '{join(path, label)}' has no images; {_LAYOUT}; add images to it or remove it"
            )
    if not images:
        raise UserError(
            f"split folder '{path}' has no class folders; {_LAYOUT}; put each class in its own folder"
        )
    return images


def _tenth(path: str, label: str, files: Sequence[str]) -> list[str]:
    """Returns a tenth of the files, at least one, by the digests of their names: the same everywhere."""
    if len(files) < 2:
        raise UserError(
            f"class folder '{join(path, label)}' has one image; without split folders a tenth of each class "
            "is held out for evaluation, so a class needs two; add images or make split folders"
        )
    by_digest = sorted(
        files, key=lambda file: hashlib.sha256(file[len(path) :].lstrip("/").encode()).digest()
    )
    return sorted(by_digest[: max(1, round(len(files) / 10))])


def _files(files: dict[str, list[str]], class_names: Sequence[str]) -> Indexed:
    number = {label: i for i, label in enumerate(class_names)}
    paths = [path for label in sorted(files) for path in files[label]]
    labels = [number[label] for label in sorted(files) for _ in files[label]]
    path_table, label_table = tf.constant(paths), tf.constant(labels, tf.int32)

    def fetch(index: tf.Tensor) -> Example:
        path = tf.gather(path_table, index)
        return {"image": tf.io.read_file(path), "label": tf.gather(label_table, index), "name": path}

    return Indexed(len(paths), fetch)


def _tfds(name: str, data_dir: str | None, train_split: str, eval_split: str) -> Source:
    builder = _builder(name, data_dir)
    features: Any = builder.info.features
    keys = list(features.keys()) if isinstance(features, tfds.features.FeaturesDict) else []
    image, label = (features[key] if key in keys else None for key in ("image", "label"))
    has_images = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8
    if not has_images or not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise UserError(
            f"data set '{name}' cannot train a classifier; its features must hold an 8-bit 'image' and a "
            f"class 'label', and are {', '.join(keys) or 'none'}; choose a classification data set"
        )
    _require_prepared(name, data_dir, builder)
    class_names = tuple(label.names or map(str, range(label.num_classes)))
    train = _records(name, builder, train_split, len(class_names))
    return Source(name, class_names, train, _records(name, builder, eval_split, len(class_names)))


def _builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    base = name.partition(":")[0].partition("/")[0]
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        hint = did_you_mean(base, ["digits", "folder:/path", *known])
        if "did you mean" not in hint:  # nothing near, and hundreds are known
            hint = "; use digits, folder:/path, or a name from tensorflow.org/datasets/catalog"
        raise UserError(f"unknown data set '{name}'{hint}") from None
    except (AssertionError, ImportError, ValueError) as error:  # no such version or config; a missing package
        reason = " ".join(str(error).split())
        raise UserError(f"data set '{name}' cannot be opened: {reason}; correct the name") from None
    return builder


def _require_prepared(name: str, data_dir: str | None, builder: tfds.core.DatasetBuilder) -> None:
    if not builder.info.splits:
        base = name.partition(":")[0].partition("/")[0]
        where = f" --data_dir={data_dir}" if data_dir else ""
        manual = " after placing its archives in <data_dir>/downloads/manual"
        raise UserError(
            f"data set '{name}' is not prepared in '{builder.data_dir}'; training does not download; "
            f"run `tfds build {base}{where}` once{manual if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else ''}"
        )


def _records(name: str, builder: tfds.core.DatasetBuilder, split: str, num_classes: int) -> Records:
    """Returns a split with at least one example, the first of which has a label."""
    try:
        records = Records(builder.info.splits[split].num_examples, builder, split)
    except (KeyError, ValueError) as error:
        reason = " ".join(str(error).split()).strip("'\"")
        raise UserError(
            f"data set '{name}' has no split '{split}': {reason}; "
            f"name one of {', '.join(sorted(builder.info.splits))}, or a slice of one"
        ) from None
    if not records.num_examples:
        raise UserError(
            f"split '{split}' of '{name}' is empty; at least one example is needed; name another split"
        )
    label = int(next(iter(records.read(None).take(1)))["label"])
    if not 0 <= label < num_classes:
        raise UserError(
            f"split '{split}' of '{name}' starts with label {label}; labels must be 0..{num_classes - 1} "
            "(TFDS marks unlabelled test images with -1); name another split"
        )
    return records
