"""Parquet files against pyarrow's own reading, and every refusal in one line."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from photo_archives import FEATURES, SYNSETS, write_parquet
from photos import write_folder

from efficientnet_pod.data.sources import parquet
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.reading import read_part, read_records
from efficientnet_pod.data.sources.types import Records
from efficientnet_pod.errors import UserError


@pytest.fixture
def folder(tmp_path):
    counts = {"train": (9, 6, 6), "validation": (2, 3, 2)}
    photos = {f"{split}/{s}": n for split in counts for s, n in zip(SYNSETS, counts[split], strict=True)}
    return write_parquet(write_folder(tmp_path / "photos", photos), tmp_path / "parquet")


def change(file, **columns):
    """Writes a file anew with other columns; None takes one away."""
    table = pq.read_table(file)
    for name, values in columns.items():
        table = table.drop_columns([name]) if name in table.column_names else table
        if values is not None:
            table = table.append_column(name, values)
    pq.write_table(table, file, row_group_size=5)


def stored(split, start=0, stop=None):
    return list(read_part(split, start, stop or split.num_examples).as_numpy_iterator())


def test_any_part_of_a_split_is_what_pyarrow_reads(folder, monkeypatch):
    monkeypatch.setattr(parquet, "_ROWS", 3)  # reads end within row groups of 5
    train = open_source(f"parquet:{folder}").train
    assert isinstance(train, Records)
    files = sorted(folder.glob("train*"))
    rows = [row | {"file": file} for file in files for row in pq.read_table(file).to_pylist()]
    first = pq.read_metadata(files[0]).num_rows
    for start, stop in ((0, 21), (2, 3), (4, 6), (5, 10), (7, 15), (9, 11), (20, 21)):
        for number, example in zip(range(start, stop), stored(train, start, stop), strict=True):
            row = rows[number]
            assert (example["image"], example["label"]) == (row["image"]["bytes"], row["label"])
            place = number - (first if number >= first else 0)
            assert example["name"].decode() == f"{row['file']}#{place} ({row['image']['path']})"


def test_files_in_an_object_store_are_read_too(folder):
    tf.io.gfile.makedirs("ram://store/data")
    for file in folder.iterdir():
        tf.io.gfile.copy(str(file), f"ram://store/data/{file.name}", overwrite=True)
    ours, theirs = open_source("parquet:ram://store").train, open_source(f"parquet:{folder}").train
    assert [e["image"] for e in stored(ours)] == [e["image"] for e in stored(theirs)]


def test_a_folder_data_a_folder_of_the_split_and_other_splits_are_found(folder, tmp_path):
    (folder / "data").mkdir()
    for file in folder.glob("*.parquet"):
        file.rename(folder / "data" / file.name)
    assert open_source(f"parquet:{folder}").num_train == 21
    other = tmp_path / "by_split"
    for split in ("train", "test"):
        (other / split).mkdir(parents=True)
        shutil.copy(folder / "data/train-00000-of-00002.parquet", other / split / "0000.parquet")
    assert open_source(f"parquet:{other}", eval_split="test").num_eval == 10


def test_labels_are_checked_without_statistics_and_without_names_they_name_the_classes(folder):
    for file in folder.iterdir():
        table = pq.read_table(file).replace_schema_metadata({})
        pq.write_table(table, file, row_group_size=4, write_statistics=False)
    source = open_source(f"parquet:{folder}")
    assert source.class_names == ("0", "1", "2")
    assert "names no classes; they are called 0 to 2" in source.warnings[0]
    file = next(folder.glob("validation*"))
    change(file, label=pa.array([3] * pq.read_metadata(file).num_rows))
    with pytest.raises(UserError, match=f"file '{file}' has label 3, and the data set has 3 class names"):
        open_source(f"parquet:{folder}")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": None}, "has no labels; its columns are image; a parquet source holds"),
        ({"label": pa.array(["a"] * 10)}, "has the column 'label', which is no integer"),
        (
            {"label": pa.array([-1] * 10)},
            r"has label -1 \(-1 marks images without labels\), and the data set",
        ),
        ({"label": pa.array([0, 3] * 5)}, "has label 3, and the data set has 3 class names, 0 to 2; name a"),
        ({"label": pa.array([0, None] * 5)}, "has label -1"),
        ({"image": None}, "has no column 'image' with the images' bytes; its columns are label"),
        ({"image": pa.array([b"jpeg"] * 10)}, "has no column 'image' with"),
    ],
)
def test_a_file_without_usable_images_and_labels_is_refused(folder, columns, message):
    file = folder / "train-00000-of-00002.parquet"
    change(file, **columns)
    with pytest.raises(UserError, match=f"file '{file}' {message}") as caught:
        open_source(f"parquet:{folder}")
    assert "\n" not in str(caught.value)


def test_class_names_of_another_number_or_twice_are_refused(folder):
    file = folder / "validation-00001-of-00002.parquet"

    def name(*names):
        label = FEATURES["label"] | {"names": names}
        info = json.dumps({"info": {"features": FEATURES | {"label": label}}})
        pq.write_table(pq.read_table(file).replace_schema_metadata({"huggingface": info}), file)

    name(*SYNSETS, "one more")
    with pytest.raises(UserError, match=f"has 3 class names, and '{file}' has 4 or others; the files of a"):
        open_source(f"parquet:{folder}")
    name("a", "b", "a")
    with pytest.raises(UserError, match=f"file '{file}' cannot be used: classes 0 and 2, .*the same name"):
        open_source(f"parquet:{folder}")


def test_a_missing_or_torn_file_is_refused(folder):
    file = folder / "train-00001-of-00002.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-20])
    with pytest.raises(
        UserError, match=f"file '{file}' cannot be read as Parquet: .*; fetch it anew"
    ) as caught:
        open_source(f"parquet:{folder}")
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match=f"file '{file}' is missing; a split needs all its files"):
        open_source(f"parquet:{folder}")
    (folder / "train-00000-of-00002.parquet").rename(folder / "train-00000-of-00001.parquet")
    with pytest.raises(
        UserError, match="no files of split 'test' among 3 files .*parquet, first 'train-00000"
    ):
        open_source(f"parquet:{folder}", eval_split="test")
    for rest in folder.iterdir():
        rest.unlink()
    with pytest.raises(UserError, match="has no files .*parquet; a parquet source holds"):
        open_source(f"parquet:{folder}")


def test_damage_within_a_file_is_named_by_its_row(folder):
    train = open_source(f"parquet:{folder}").train
    file = folder / "train-00000-of-00002.parquet"
    column = pq.read_metadata(file).row_group(1).column(0)
    content = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 60] = bytes(60)
    file.write_bytes(content)
    with pytest.raises(tf.errors.OpError, match=f"file '{file}', rows 0 to 9: "):
        list(read_records(train, None))
    assert len(stored(train, 0, 5)) == 5


def test_rows_that_lack_their_image_are_bad_images(folder):
    file = folder / "train-00000-of-00002.parquet"
    rows = pq.read_table(file)["image"].to_pylist()
    rows[1], rows[2] = None, {"bytes": None, "path": "elsewhere.jpg"}
    change(file, image=pa.array(rows, pq.read_schema(file).field("image").type))
    images = [example["image"] for example in stored(open_source(f"parquet:{folder}").train, 0, 4)]
    assert [len(image) > 0 for image in images] == [True, False, False, True]
    assert np.all([images[0] == rows[0]["bytes"], images[3] == rows[3]["bytes"]])
