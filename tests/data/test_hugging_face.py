"""Data sets of the hub by a stand-in for the package, and by the package itself where it is installed."""

import sys
import types

import numpy as np
import pyarrow as pa
import pytest
from photo_archives import SYNSETS, write_parquet
from photos import write_folder

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.pipeline import train_batches
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.reading import read_part
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.preprocessing import Preprocessing


@pytest.fixture
def photos(tmp_path):
    counts = {"train": (5, 4, 4), "validation": (2, 1, 1)}
    return write_folder(
        tmp_path / "photos",
        {f"{split}/{s}": n for split in counts for s, n in zip(SYNSETS, counts[split], strict=True)},
    )


class Image:
    """Feature of the stand-in."""

    def __init__(self, decode=True):
        self.decode = decode


class ClassLabel:
    """Feature of the stand-in."""

    def __init__(self, names):
        self.names = list(names)


class Table:
    """A split of the stand-in: rows of encoded images and labels."""

    def __init__(self, images, labels, features):
        self.images, self.labels, self.features = images, labels, features

    def select_columns(self, names):
        return self

    def cast_column(self, name, feature):
        assert name == "image" and not feature.decode
        return self

    def with_format(self, kind):
        assert kind == "arrow"
        return _Arrow(self.labels)

    def __getitem__(self, number):
        return {"image": self.images[number]}


class _Arrow:
    def __init__(self, labels):
        self.labels = labels

    def __getitem__(self, part):
        return pa.table({"label": pa.array(self.labels, pa.int64())})


def install(monkeypatch, tables):
    """Makes ``import datasets`` find the stand-in, whose hub has these splits."""

    def load_dataset(path, *, split):
        if path != "me/photos":
            raise FileNotFoundError(f"Dataset '{path}' doesn't exist on the Hub\nor cannot be accessed")
        if split not in tables:
            raise ValueError(f'Unknown split "{split}". Should be one of {list(tables)}.')
        return tables[split]

    module = types.SimpleNamespace(load_dataset=load_dataset, Image=Image, ClassLabel=ClassLabel)
    monkeypatch.setitem(sys.modules, "datasets", module)


def table(photos, split, names=SYNSETS):
    files = sorted((photos / split).glob("*/*"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    labels = [SYNSETS.index(file.parent.name) for file in files]
    return Table(images, labels, {"image": Image(), "label": ClassLabel(names)})


def stored(split):
    examples = read_part(split, 0, split.num_examples).as_numpy_iterator()
    return sorted((example["image"], int(example["label"])) for example in examples)


def test_images_and_labels_are_the_folders_and_a_run_resumes(photos, monkeypatch):
    install(monkeypatch, {split: table(photos, split) for split in ("train", "validation")})
    source, folder = open_source("hf:me/photos"), open_source(f"folder:{photos}")
    assert source.class_names == SYNSETS
    assert stored(source.train) == stored(folder.train) and stored(source.eval) == stored(folder.eval)
    preprocessing = Preprocessing(image_size=16, dtype="uint8")

    def batch(first, number):
        share = HostShare(5, first_image=first)
        stream = train_batches(source, preprocessing, share, seed=0).as_numpy_iterator()
        return [next(stream) for _ in range(number + 1)][number]["image"]

    np.testing.assert_array_equal(batch(20, 0), batch(0, 4))


def test_an_image_that_is_a_file_beside_the_table_is_read_from_it(photos, monkeypatch):
    tables = {split: table(photos, split) for split in ("train", "validation")}
    file = photos / "train" / SYNSETS[0] / "000.jpg"
    tables["train"].images[0] = {"bytes": None, "path": str(file)}
    install(monkeypatch, tables)
    assert stored(open_source("hf:me/photos").train) == stored(open_source(f"folder:{photos}").train)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "hf:me/none",
            {},
            "'hf:me/none' cannot be loaded: Dataset 'me/none' doesn't exist on the Hub or cannot",
        ),
        ("hf:me/photos", {"features": {"img": Image()}}, "and has img; choose another"),
        ("hf:me/photos", {"labels": [0, -1]}, "'hf:me/photos validation' has label -1"),
        ("hf:me/photos", {"labels": [0, None]}, "'hf:me/photos validation' has label -1"),
        ("hf:me/photos", {"labels": [0, 3]}, "'hf:me/photos validation' has label 3, and the data set has 3"),
        (
            "hf:me/photos",
            {"features": {"image": Image(), "label": ClassLabel("ab")}},
            "'train' and 'validation' of 'hf:me/photos' have 3 and 2 class names",
        ),
    ],
)
def test_a_data_set_that_cannot_be_used_is_one_line(photos, monkeypatch, name, change, message):
    tables = {split: table(photos, split) for split in ("train", "validation")}
    vars(tables["validation"]).update(change)
    install(monkeypatch, tables)
    with pytest.raises(UserError, match=message) as caught:
        open_source(name)
    assert "\n" not in str(caught.value)


def test_a_split_that_is_not_there_and_a_missing_package_are_one_line(photos, monkeypatch):
    install(monkeypatch, {"train": table(photos, "train")})
    with pytest.raises(
        UserError, match='cannot be loaded: Unknown split "validation".*--config.data.eval_split'
    ):
        open_source("hf:me/photos")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UserError, match=r"needs the package datasets; pip install 'efficientnet-pod\[datasets\]'"
    ):
        open_source("hf:me/photos")


def test_the_package_itself_reads_the_same_images(photos, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    out = write_parquet(photos, tmp_path / "parquet")
    source, folder = open_source(f"hf:{out}"), open_source(f"folder:{photos}")
    assert source.class_names == SYNSETS
    assert stored(source.train) == stored(folder.train) and stored(source.eval) == stored(folder.eval)
    assert open_source(f"hf:{out}", train_split="train[:4]").num_train == 4
    assert stored(open_source(f"parquet:{out}").train) == stored(source.train)
