"""ArrayRecord files against the library that wrote them: any record by number, and refusals."""

import resource
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from photos import prepare_numbered_photos

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.pipeline import train_batches
from efficientnet_pod.data.python_calls import _Calls
from efficientnet_pod.data.sources.array_records import indexed_records
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.reading import read_part
from efficientnet_pod.data.sources.types import FileRange, Indexed, Records
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def array_records(tmp_path_factory):
    return prepare_numbered_photos(tmp_path_factory.mktemp("arrays"), "array_record")


def fetched(split, order):
    assert isinstance(split, Indexed)
    examples = tf.data.Dataset.from_tensor_slices(np.array(order, np.int64)).map(
        split.fetch, num_parallel_calls=4
    )
    return list(examples.as_numpy_iterator())


def test_any_example_is_fetched_by_number_as_tfds_reads_it(array_records):
    source = open_source("numbered_photos", data_dir=str(array_records))
    assert (source.num_train, source.num_eval, source.num_classes) == (103, 31, 103)
    order = np.random.default_rng(0).permutation(103).tolist()
    theirs = tfds.builder("numbered_photos", data_dir=array_records).as_data_source("train")
    for example, number in zip(fetched(source.train, order), order, strict=True):
        assert example["label"] == theirs[number]["label"] and example["label"].dtype == np.int32
        np.testing.assert_array_equal(tf.io.decode_png(example["image"]), theirs[number]["image"])
    folder = array_records / "numbered_photos/1.0.0"
    names = [example["name"].decode() for example in fetched(source.train, [0, 25, 26, 102])]
    assert names == [
        f"{folder}/numbered_photos-train.array_record-0000{shard}-of-00004#{number}"
        for shard, number in ((0, 0), (0, 25), (1, 0), (3, 25))
    ]


def test_slices_begin_and_end_within_files(array_records):
    source = open_source(
        "numbered_photos", data_dir=str(array_records), train_split="train[20:30]+train[100:]"
    )
    whole = open_source("numbered_photos", data_dir=str(array_records)).train
    part, expected = fetched(source.train, range(13)), fetched(whole, [*range(20, 30), 100, 101, 102])
    assert [e["name"] for e in part] == [e["name"] for e in expected]
    assert [e["label"] for e in part] == [e["label"] for e in expected]


def test_a_prepared_folder_is_opened_by_its_path_in_either_format(array_records, tmp_path):
    records = prepare_numbered_photos(tmp_path)
    for root, kind in ((array_records, Indexed), (records, Records)):
        source = open_source(f"prepared:{root}/numbered_photos/1.0.0")
        by_name = open_source("numbered_photos", data_dir=str(root))
        assert isinstance(source.train, kind) and isinstance(source.eval, kind)
        assert source.class_names == by_name.class_names and source.num_eval == 31
        parts = [read_part(s.train, 50, 60).as_numpy_iterator() for s in (source, by_name)]
        names = [[example["name"] for example in part] for part in parts]
        assert names[0] == names[1] and len(names[0]) == 10


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "folder '' does not exist; .* give it as prepared:/path"),
        ("/nowhere/at/all", "folder '/nowhere/at/all' does not exist"),
        (".", "cannot be opened as a prepared data set: .*; name the folder that holds dataset_info.json"),
    ],
)
def test_a_folder_that_is_not_prepared_is_refused(path, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        open_source(f"prepared:{path}")
    assert "\n" not in str(caught.value)


def parse(record, place):
    return {"image": record, "label": tf.constant(0), "name": place}


def test_records_come_byte_for_byte(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    stored = [b"", b"\0", b"ends in zeros\0\0\0", bytes(range(256)) * 1000]
    writer = ArrayRecordWriter(str(tmp_path / "file"), "group_size:1")
    for record in stored:
        writer.write(record)
    writer.close()
    split = indexed_records([FileRange(str(tmp_path / "file"), 0, 4)], parse)
    assert [example["image"] for example in fetched(split, range(4))] == stored


def test_a_damaged_file_stops_the_reading_with_its_name_and_number(tmp_path):
    root = prepare_numbered_photos(tmp_path, "array_record")
    train = open_source("numbered_photos", data_dir=str(root)).train
    file = root / "numbered_photos/1.0.0/numbered_photos-train.array_record-00002-of-00004"
    content = bytearray(file.read_bytes())
    content[100:-100] = bytes(len(content) - 200)
    file.write_bytes(content)
    with pytest.raises(tf.errors.OpError, match=f"'{file}#1' cannot be read"):
        fetched(train, [53])  # the files hold 26, 25, 26 and 26
    file.unlink()
    with pytest.raises(UserError, match=f"file '{file}' is missing"):
        open_source("numbered_photos", data_dir=str(root))


@pytest.mark.parametrize("host_batch", [6, 7, 40])
def test_a_damaged_record_fails_its_own_batch_and_none_before_it(tmp_path, host_batch):
    """Records are read together by the batch, so that a second look at the batch finds the record."""
    root = prepare_numbered_photos(tmp_path, "array_record")
    source = open_source("numbered_photos", data_dir=str(root))
    share, small = HostShare(host_batch), Preprocessing(image_size=8, augment="shift", max_shift=0)
    order = _labels(source, share, small)
    file = root / "numbered_photos/1.0.0/numbered_photos-train.array_record-00003-of-00004"
    content = bytearray(file.read_bytes())
    content[100:-100] = bytes(len(content) - 200)
    file.write_bytes(content)  # its records but the first are lost: labels from 78 on
    read = []
    with pytest.raises(UserError, match=f"cannot be read: record '{file}#"):
        _labels(open_source("numbered_photos", data_dir=str(root)), share, small, into=read)
    first = next(place for place, label in enumerate(order) if label >= 78)
    assert len(read) == first // host_batch * host_batch and read == order[: len(read)]


def _labels(source, share, preprocessing, into=None):
    """Returns the labels of the first batches, at least of an epoch; ``into`` gets those before an error."""
    labels = [] if into is None else into
    stream = train_batches(source, preprocessing, share, seed=0).as_numpy_iterator()
    while len(labels) < 103:
        labels += next(stream)["label"].tolist()
    return labels


def test_files_in_an_object_store_are_refused():
    with pytest.raises(UserError, match="file system only; mount or copy"):
        indexed_records([FileRange("memory://folder/file", 0, 1)], parse)


def test_as_many_files_are_allowed_open_as_the_data_set_has(monkeypatch, tmp_path):
    limits, set_to = [(64, 100_000)], []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: set_to.append(pair))
    (tmp_path / "file").write_bytes(b"")
    files = [FileRange(str(tmp_path / "file"), 0, 1)] * 2000
    indexed_records(files, parse)
    assert set_to == [(2256, 100_000)]
    limits.append((64, 2000))
    with pytest.raises(
        UserError, match="2,256 open files, and this process may open 2,000; .*`ulimit -n 2256`"
    ):
        indexed_records(files, parse)


def test_a_process_ends_while_its_stream_reads_ahead(array_records):
    program = f"""
from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.pipeline import train_batches
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.recipe.preprocessing import Preprocessing
source = open_source("prepared:{array_records}/numbered_photos/1.0.0")
preprocessing = Preprocessing(image_size=32, augment="shift")
stream = train_batches(source, preprocessing, HostShare(2000), seed=0).as_numpy_iterator()
print(len(next(stream)["image"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "2000\n"), done.stderr


def test_calls_fail_once_the_process_ends_and_until_then_are_waited_for():
    calls = _Calls()
    calls.count()
    counted = []

    def stream():
        with pytest.raises(RuntimeError, match="the process ends"):
            for _ in range(1000):
                time.sleep(0.01)
                calls.count()
                counted.append(1)

    thread = threading.Thread(target=stream)
    thread.start()
    time.sleep(0.05)
    calls.end()
    assert not thread.is_alive() and 0 < len(counted) < 100
