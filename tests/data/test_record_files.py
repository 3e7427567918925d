"""Record files against TensorFlow's reader: counts, shares and orders, and the place where one is damaged."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from photos import prepare_numbered_photos, write_records

from efficientnet_pod.data.order import _fingerprint
from efficientnet_pod.data.sources import tfrecord_bytes as record_files
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.reading import FileTable, read_files, read_records
from efficientnet_pod.data.sources.tfrecord_bytes import count_records, locate_corruption
from efficientnet_pod.data.sources.types import FileRange, Records, Source
from efficientnet_pod.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path):
    """A training split of 23 records in files of 7, 0, 11 and 5, and 3 to validate."""
    write_records(tmp_path / "records", "train", [7, 0, 11, 5])
    write_records(tmp_path / "records", "validation", [2, 1])
    return tmp_path / "records"


def opened(folder, **splits) -> Source:
    source = open_source(f"tfrecord:{folder}", **splits)
    assert isinstance(source.train, Records) and isinstance(source.eval, Records)
    return source


def names(records, seed=None):
    seed = None if seed is None else tf.constant(seed, tf.int64)
    return [example["name"].decode() for example in read_records(records, seed).as_numpy_iterator()]


def labels(records):
    return [int(example["label"]) for example in read_records(records, None).as_numpy_iterator()]


# Reading


def test_records_of_imagenet_come_undecoded_with_labels_from_0_and_the_place_they_came_from(folder):
    source = opened(folder)
    assert (source.num_train, source.num_eval, source.num_classes) == (23, 3, 1000)
    assert source.class_names[:2] == ("n01440764", "n01443537")
    examples = list(read_records(source.train, None).as_numpy_iterator())
    assert [int(example["label"]) for example in examples] == list(range(23))
    assert all(example["image"].startswith(b"\xff\xd8\xff") for example in examples)
    assert examples[8]["name"].decode() == f"{folder}/train-00002-of-00004#1 (n8.JPEG)"
    assert labels(source.eval) == [0, 1, 2]


def test_slices_of_record_files_are_the_slices_of_tfds(folder):
    source = opened(folder, train_split="train[:50%]", eval_split="train[50%:]+validation")
    assert labels(source.train) == list(range(12))
    assert labels(source.eval) == [*range(12, 23), 0, 1, 2]


@pytest.mark.parametrize("host_count", [1, 2, 5, 23, 30])
def test_the_shares_are_those_of_even_splits(folder, host_count):
    train = opened(folder).train
    shares = [train.share(host, host_count) for host in range(host_count)]
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, template="{SPLIT}-{SHARD_X_OF_Y}", split="train"
    )
    info = tfds.core.SplitInfo("train", [7, 0, 11, 5], 1, template)
    split_dict = tfds.core.splits.SplitDict([info])
    theirs = [split_dict[part].file_instructions for part in tfds.even_splits("train", n=host_count)]
    assert [share.files for share in shares] == [
        tuple(FileRange(i.filename, i.skip, i.skip + i.take) for i in part if i.take) for part in theirs
    ]
    assert sum((labels(share) for share in shares), []) == list(range(23))


def test_several_shares_are_one_split_that_reads_each_file_once(folder):
    train = opened(folder).train
    assert train.shares(range(8), 8).files == tuple(file for file in train.files if file.stop)
    some = train.shares((1, 2, 6), 8)
    assert labels(some) == sum((labels(train.share(n, 8)) for n in (1, 2, 6)), [])
    assert [(file.start, file.stop) for file in some.files] == [(3, 7), (0, 2), (0, 3)]


@pytest.mark.parametrize("files_at_once", [1, 2, 3, 16])
def test_reading_in_parallel_changes_nothing_of_the_order(tmp_path, files_at_once):
    write_records(tmp_path / "records", "train", [1, 9, 4, 0, 6, 3, 12, 2])
    write_records(tmp_path / "records", "validation", [1])
    table = FileTable.of([opened(tmp_path / "records").train]).part(0)
    for seed in range(5):
        drawn = tf.constant(seed, tf.int64)
        orders = [
            [
                place
                for _, place in read_files(table, drawn, files_at_once, in_parallel=way).as_numpy_iterator()
            ]
            for way in (True, False)
        ]
        assert len(orders[0]) == 37 and orders[0] == orders[1]


def test_a_seed_decides_the_order_and_files_are_interleaved(folder):
    train = opened(folder).train
    stored = names(train)
    orders = [names(train, seed) for seed in range(6)]
    assert orders[0] == names(train, 0)
    assert all(sorted(order) == sorted(stored) for order in orders)
    assert len({tuple(order) for order in orders}) > 1 and stored not in orders
    for order in orders:  # the first three records come from the three files that have any
        assert len({name.partition("#")[0] for name in order[:3]}) == 3


def test_class_names_are_those_of_the_records_where_these_are_not_imagenets(tmp_path):
    for split in ("train", "validation"):
        write_records(tmp_path / "records", split, [1], synset="tabby")
    assert opened(tmp_path / "records").class_names[:3] == ("tabby", "2", "3")


def test_records_of_tfds_name_their_file_and_number(tmp_path):
    root = prepare_numbered_photos(tmp_path)
    train = open_source("numbered_photos", data_dir=str(root), train_split="train[30:]").train
    assert isinstance(train, Records)
    file = root / "numbered_photos/1.0.0/numbered_photos-train.tfrecord-00001-of-00004"
    assert names(train)[0] == f"{file}#4"  # the four files hold 26, 25, 26 and 26


# Counting


def test_counts_are_tensorflows_and_kept_beside_the_files(folder, monkeypatch):
    files = sorted(str(file) for file in folder.iterdir())
    counts = count_records(files)
    assert counts == {file: len(list(tf.data.TFRecordDataset(file))) for file in files}
    index = json.loads((folder / "record_counts.json").read_text())["files"]
    assert index["train-00002-of-00004"]["records"] == 11

    counted = []
    count = record_files._count
    monkeypatch.setattr(record_files, "_count", lambda path: counted.append(path) or count(path))
    assert count_records(files) == counts and not counted
    with tf.io.TFRecordWriter(files[0]) as writer:
        writer.write(b"one record instead of seven")
    assert count_records(files)[files[0]] == 1 and counted == [files[0]]


def test_counts_go_to_the_cache_folder_where_the_folder_of_the_files_cannot_be_written(folder, monkeypatch):
    (folder / "record_counts.json").mkdir()  # in the way
    files = [str(folder / "validation-00000-of-00002")]
    assert count_records(files) == {files[0]: 2}
    monkeypatch.setattr(record_files, "_count", lambda path: pytest.fail(f"{path} is counted again"))
    assert count_records(files) == {files[0]: 2}
    assert not list(folder.glob(".*"))


def test_files_of_an_object_store_are_counted_by_reading(folder, monkeypatch):
    for file in sorted(folder.iterdir()):
        count, offset, reason = record_files._scan(FileRange(str(file), 0, -1))
        assert (count, offset, reason) == record_files._walk(str(file))
        assert offset == file.stat().st_size


# Damage


def offsets(file):
    """Returns where each record of a file begins, and its end."""
    sizes = [len(record) + 16 for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()]
    return np.cumsum([0, *sizes]).tolist()


@pytest.mark.parametrize("byte", range(12))
@pytest.mark.parametrize("record", [0, 3, 6])
def test_a_damaged_length_is_named_by_record_and_offset(folder, record, byte):
    file = folder / "train-00000-of-00004"
    begin = offsets(file)[record]
    content = bytearray(file.read_bytes())
    content[begin + byte] ^= 0x10
    file.write_bytes(content)
    with pytest.raises(
        UserError, match=f"'{file}' is damaged at record {record}, byte {begin}: the checksum"
    ):
        count_records([str(file)])
    assert not (folder / "record_counts.json").exists()


@pytest.mark.parametrize("kept", [1, 11, 12, 40, -1])
def test_a_file_cut_off_is_named_by_record_and_offset(folder, kept):
    file = folder / "train-00000-of-00004"
    *_, begin, end = offsets(file)
    file.write_bytes(file.read_bytes()[: begin + kept if kept > 0 else end - 1])
    with pytest.raises(
        UserError, match=f"'{file}' is damaged at record 6, byte {begin}: the record is cut off"
    ):
        open_source(f"tfrecord:{folder}")


def test_damaged_data_is_located_by_file_record_and_offset(folder):
    train = opened(folder).train
    assert locate_corruption(train) is None
    file = folder / "train-00002-of-00004"
    begin, content = offsets(file)[4], bytearray(file.read_bytes())
    content[begin + 100] ^= 1
    file.write_bytes(content)
    with pytest.raises(tf.errors.DataLossError):
        names(train, 0)
    assert locate_corruption(train) == f"{file}, record 4, byte {begin}: its checksum is wrong"
    assert locate_corruption(train.share(0, 3)) is None  # records 0 to 7: the damage is another host's
    file.write_bytes(content[: begin + 50])
    assert locate_corruption(train) == f"{file}, record 4, byte {begin}: the record is cut off"
    file.write_bytes(content[:begin])
    assert locate_corruption(train) == f"{file}, record 4, byte {begin}: the file ends, of 11 records"
    with pytest.raises(tf.errors.OpError):
        names(train, 0)
    file.unlink()
    assert locate_corruption(train) == f"{file}, record 0, byte 0: the file does not exist"


def test_a_record_of_another_kind_is_located(folder):
    train, file = opened(folder).train, folder / "train-00002-of-00004"
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(file))]
    with tf.io.TFRecordWriter(str(file)) as writer:
        for number, record in enumerate(records):
            writer.write(tf.train.Example().SerializeToString() if number == 5 else record)
    place = f"{file}, record 5, byte {offsets(file)[5]}: "
    where = locate_corruption(train)
    assert where is not None and where.startswith(place + "Feature: image/")
    assert "is required but could not be found" in where and "user-defined" not in where


# Refusals


@pytest.mark.parametrize(
    ("removed", "split", "message"),
    [
        (["train-00001-of-00004"], "train", "train-00001-of-00004' is missing; a split needs all its files"),
        (["train-00001-of-00004", "train-00003-of-00004"], "train", "-00001-of-00004' is missing and 1 more"),
        ([], "test", "no files of split 'test', only of train, validation"),
        ([], "train[:30]", r"no split 'train\[:30\]'.*incompatible with 23"),
        ([], "train[:0]", r"'train\[:0\]' of .* is empty"),
    ],
)
def test_incomplete_record_files_are_refused(folder, removed, split, message):
    for name in removed:
        (folder / name).unlink()
    with pytest.raises(UserError, match=message) as caught:
        open_source(f"tfrecord:{folder}", train_split=split)
    assert "\n" not in str(caught.value)


def test_two_numberings_of_one_split_are_refused(folder):
    write_records(folder, "train", [1, 1])
    with pytest.raises(UserError, match="'train' numbered of 00002 and of 00004"):
        open_source(f"tfrecord:{folder}")


@pytest.mark.parametrize(
    ("label", "message"), [(0, "train-00000-of-00001#0' has label 0; labels must be 1"), (1001, "label 1001")]
)
def test_labels_outside_1_to_1000_are_refused(tmp_path, label, message):
    for split in ("train", "validation"):
        write_records(tmp_path / "records", split, [1], label=label)
    with pytest.raises(UserError, match=message):
        open_source(f"tfrecord:{tmp_path}/records")


def test_records_of_another_kind_are_refused(tmp_path):
    for split in ("train", "validation"):
        with tf.io.TFRecordWriter(str(tmp_path / f"{split}-00000-of-00001")) as writer:
            writer.write(tf.train.Example().SerializeToString())
    with pytest.raises(
        UserError, match="train-00000-of-00001#0' is not of this layout: .*image/class/label"
    ) as e:
        open_source(f"tfrecord:{tmp_path}")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("path", ["", "/nowhere/at/all"])
def test_a_missing_folder_of_record_files_is_refused(path):
    with pytest.raises(UserError, match=f"folder '{path}' does not exist.*tfrecord:/path"):
        open_source(f"tfrecord:{path}")


def test_a_folder_without_record_files_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no record files; a tfrecord source holds train-00000-of-01024"):
        open_source(f"tfrecord:{tmp_path}")


def test_damage_of_the_first_record_is_named_when_the_source_is_opened(folder):
    first = sorted(folder.glob("train-*"))[0]
    content = bytearray(first.read_bytes())
    content[60] ^= 1
    first.write_bytes(content)
    with pytest.raises(UserError, match=f"record '{first}#0' is not of this layout: corrupted record at 12"):
        opened(folder)


def test_an_unreadable_record_file_is_named(folder, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(record_files, "_walk", denied)  # the tests may run as root, whom nothing is denied
    with pytest.raises(UserError, match="record file '.*-of-.*' cannot be read: Permission denied; make it"):
        opened(folder)


@pytest.mark.parametrize(
    "name",
    ["/a/train-00001-of-00002#57", "/b (c)/train-00001-of-00002#57 (x/n0.JPEG)", "train-00001-of-00002#57"],
)
def test_the_draws_of_a_record_depend_on_its_file_and_number_alone(name):
    place = tf.constant("train-00001-of-00002#57")
    assert int(_fingerprint(tf.constant(name))) == int(tf.strings.to_hash_bucket_fast(place, sys.maxsize))
