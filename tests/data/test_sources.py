"""The sources against scikit-learn, tfds.ImageFolder and record files; every refusal names its cause."""

import hashlib
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from photos import encoded, mocked_tfds, photo, prepare_numbered_photos, write_folder
from sklearn.datasets import load_digits

from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.reading import read_records
from efficientnet_pod.data.sources.types import Indexed, Records
from efficientnet_pod.errors import UserError


@pytest.fixture(scope="module")
def records_dir(tmp_path_factory):
    return str(prepare_numbered_photos(tmp_path_factory.mktemp("tfds")))


def read(split):
    """Returns the examples of a split in stored order, as numpy values."""
    if isinstance(split, Records):
        return list(read_records(split, None).as_numpy_iterator())
    return list(tf.data.Dataset.range(split.num_examples).map(split.fetch).as_numpy_iterator())


# digits


def test_digits_are_scikit_learns_split_1437_to_360_with_36_of_each_digit_held_out():
    source = open_source("digits")
    assert (source.num_train, source.num_eval, source.num_classes) == (1437, 360, 10)
    train, held_out = read(source.train), read(source.eval)
    assert np.bincount([e["label"] for e in held_out]).tolist() == [36] * 10

    def rows(examples):
        return sorted((e["image"].tobytes(), int(e["label"])) for e in examples)

    reference = load_digits()
    scaled = np.floor(reference.images * 255 / 16 + 0.5).astype(np.uint8)[..., None].repeat(3, -1)
    assert rows(train + held_out) == sorted(
        (i.tobytes(), int(t)) for i, t in zip(scaled, reference.target, strict=True)
    )
    assert train[0]["image"].shape == (8, 8, 3) and train[0]["image"].dtype == np.uint8


def test_the_split_of_the_digits_never_changes():
    held_out = read(open_source("digits").eval)
    digest = hashlib.sha256(
        b"".join(e["image"].tobytes() + bytes([e["label"]]) for e in held_out)
    ).hexdigest()
    assert digest == "a87cadc345c6153fdaf23b916f18b3347fbbdee777015c65b0f1107f962bcc25"


# folder


def test_a_folder_with_splits_reads_what_image_folder_reads(tmp_path):
    root = write_folder(
        tmp_path, {"train/cat": 3, "train/ant": 2, "train/bee": 1, "val/cat": 2, "val/bee": 1}
    )
    (root / "train/ant/upper.PNG").write_bytes(encoded(photo(7), "PNG"))
    (root / "train/ant/notes.txt").write_text("not an image")
    (root / ".cache/ant").mkdir(parents=True)
    source = open_source(f"folder:{root}", eval_split="val")
    reference = tfds.ImageFolder(str(root))
    assert source.class_names == ("ant", "bee", "cat") == tuple(reference.info.features["label"].names)
    for split, name in ((source.train, "train"), (source.eval, "val")):
        theirs = reference.as_dataset(split=name, decoders={"image": tfds.decode.SkipDecoding()})
        expected = {(e["image/filename"], e["image"], int(e["label"])) for e in theirs.as_numpy_iterator()}
        assert isinstance(split, Indexed) and split.num_examples == len(expected)
        assert {(e["name"], e["image"], int(e["label"])) for e in read(split)} == expected
    assert (source.num_train, source.num_eval) == (7, 3)


def test_a_folder_without_splits_holds_out_the_same_tenth_of_each_class_anywhere(tmp_path):
    held_out = []
    for place in ("here", "there/deeper"):
        root = write_folder(tmp_path / place, {"cat": 20, "ant": 5})
        source = open_source(f"folder:{root}/" if place == "here" else f"folder:{root}")
        train, kept = (
            {e["name"].decode().replace("//", "/").removeprefix(f"{root}/") for e in read(split)}
            for split in (source.train, source.eval)
        )
        assert len(train) == source.num_train == 22 and len(kept) == source.num_eval == 3
        assert train | kept == {f"cat/{i:03}.jpg" for i in range(20)} | {f"ant/{i:03}.jpg" for i in range(5)}
        held_out.append(kept)
    assert held_out[0] == held_out[1] == {"ant/003.jpg", "cat/004.jpg", "cat/014.jpg"}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "has no class folders"),
        ({"cat": 3}, "only one class, 'cat'"),
        ({"cat": 3, "dog": 0}, "dog' has no images"),
        ({"cat": 3, "dog": 1}, "dog' has one image"),
        ({"train/cat": 3, "train/dog": 3}, "no split folder 'validation', only train"),
        ({"train/cat": 3, "train/dog": 3, "validation": 0}, "validation' has no class folders"),
        ({"train/cat": 3, "train/dog": 0, "validation/cat": 1}, "train/dog' has no images"),
        ({"train/cat": 3, "train/dog": 3, "validation/cow": 1}, "class 'cow'"),
        ({"train/cat": 3, "validation/cat": 1}, "only one class, 'cat'"),
        (
            {"training/cat": 3, "testing/dog": 3},
            "testing' has no images; a folder source holds <split>/<class>",
        ),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(tmp_path, counts, message):
    root = write_folder(tmp_path, counts)
    with pytest.raises(UserError, match=message) as caught:
        open_source(f"folder:{root}")
    assert str(root) in str(caught.value) and "\n" not in str(caught.value)


def test_classes_that_differ_by_case_are_two(tmp_path):
    root = write_folder(tmp_path, {"Dog": 2, "dog": 2, "Straße": 2, "strasse": 2})
    assert open_source(f"folder:{root}").class_names == ("Dog", "Straße", "dog", "strasse")


def test_one_name_in_two_spellings_is_refused_and_shown(tmp_path):
    for folders in (("caf\xe9", "cafe\u0301"), ("train/caf\xe9", "train/b", "validation/cafe\u0301")):
        root = write_folder(tmp_path / str(len(folders)), dict.fromkeys(folders, 2))
        with pytest.raises(UserError, match=r"'cafe\\u0301' and 'caf\\xe9', have one name in two spellings"):
            open_source(f"folder:{root}")


def test_what_is_left_out_of_class_folders_is_said(tmp_path):
    root = write_folder(tmp_path, {"train/cat": 2, "train/dog": 2, "validation/dog": 1})
    assert open_source(f"folder:{root}").warnings == ()
    (root / "train/cat/notes.txt").write_text("not an image")
    (root / "train/cat/.hidden").write_text("of a file manager")
    one_file = f"left out: 1 file other than .jpg, .jpeg or .png in class folders, first: {root}"
    assert open_source(f"folder:{root}").warnings == (f"{one_file}/train/cat/notes.txt",)
    (root / "validation/dog/photo.tiff").write_text("")
    (root / "train/dog/more").mkdir()
    assert open_source(f"folder:{root}").warnings == (
        "left out: 2 files other than .jpg, .jpeg or .png in class folders, "
        f"first: {root}/train/cat/notes.txt",
        f"left out: 1 folder inside class folders, first: {root}/train/dog/more",
    )
    assert open_source(f"folder:{root}").num_train == 4


def test_an_entry_that_cannot_be_an_image_is_refused_by_name(tmp_path):
    root = write_folder(tmp_path, {"cat": 2, "dog": 2})
    (root / "cat/more.jpg").mkdir()
    with pytest.raises(UserError, match=f"'{root}/cat/more.jpg' is a folder, and is named like an image"):
        open_source(f"folder:{root}")
    (root / "cat/more.jpg").rmdir()
    (root / "cat/linked.jpg").symlink_to(root / "dog/000.jpg")
    assert open_source(f"folder:{root}").num_train == 3
    (root / "dog/000.jpg").unlink()
    with pytest.raises(UserError, match=f"'{root}/cat/linked.jpg' is a link to a file that does not exist"):
        open_source(f"folder:{root}")


def test_the_fingerprint_of_a_folder_is_of_its_names_wherever_it_lies(tmp_path):
    def fingerprint(name, files):
        root = write_folder(tmp_path / name, files)
        return open_source(f"folder:{root}").fingerprint

    first = fingerprint("a", {"cat": 3, "dog": 2})
    assert first == fingerprint("b", {"cat": 3, "dog": 2}) and len(bytes.fromhex(first)) == 32
    assert first != fingerprint("c", {"cat": 2, "dog": 3})
    assert first != fingerprint("d", {"cats": 3, "dog": 2})
    (tmp_path / "b" / "cat" / "000.jpg").rename(tmp_path / "b" / "cat" / "0000.jpg")
    assert first != open_source(f"folder:{tmp_path / 'b'}").fingerprint


def test_the_fingerprint_of_record_files_is_of_their_names_and_numbers_wherever_they_lie(tmp_path):
    def fingerprint(root, split="train"):
        return open_source("numbered_photos", data_dir=str(root), train_split=split).fingerprint

    first, second = (prepare_numbered_photos(tmp_path / name) for name in "ab")
    assert fingerprint(first) == fingerprint(second) != ""
    assert fingerprint(first) != fingerprint(first, "train[:99%]")
    assert open_source("digits").fingerprint == ""


@pytest.mark.parametrize("name", ["folder:/nowhere/at/all", "folder:"])
def test_a_missing_folder_is_refused(name):
    with pytest.raises(UserError, match=f"folder '{name[7:]}' does not exist.*folder:/path"):
        open_source(name)


# TFDS


def test_imagenet_comes_undecoded_with_its_thousand_classes(tmp_path):
    with mocked_tfds("imagenet2012", 4, tmp_path):
        source = open_source("imagenet2012")
        examples = read(source.train)
    assert (source.num_train, source.num_eval, source.num_classes) == (4, 4, 1000)
    assert source.class_names[:2] == ("n01440764", "n01443537")
    assert len(examples) == 4 and all(e["image"].startswith(b"\xff\xd8\xff") for e in examples)
    assert examples[0]["label"].dtype == np.int32


def test_cifar_reads_its_test_split_and_slices(tmp_path):
    with mocked_tfds("cifar10", 8, tmp_path, splits=("train", "test")):
        source = open_source("cifar10", train_split="train[:75%]", eval_split="test")
    assert (source.num_train, source.num_eval) == (6, 8)
    assert source.class_names == tuple("0123456789")  # the names come with the real data only


def test_the_shares_of_the_hosts_cover_a_split(records_dir):
    split = open_source("numbered_photos", data_dir=records_dir).train
    assert isinstance(split, Records)
    shares = [split.share(host, 4) for host in range(4)]
    assert [share.num_examples for share in shares] == [26, 26, 26, 25]
    labels = [int(e["label"]) for share in shares for e in read(share)]
    assert sorted(labels) == list(range(103))


def test_damaged_record_files_stop_the_reading(tmp_path):
    root = prepare_numbered_photos(tmp_path)
    split = open_source("numbered_photos", data_dir=str(root)).train
    shard = next(root.glob("numbered_photos/*/*-train.tfrecord-00002-of-00004"))
    intact = shard.read_bytes()
    middle = len(intact) // 2
    for damaged in (intact[:middle], intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :]):
        shard.write_bytes(damaged)
        with pytest.raises(tf.errors.DataLossError):
            read(split)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar100O", "unknown data set 'cifar100O'; did you mean 'cifar100'"),
        ("digit", "did you mean 'digits'"),
        ("folder", "did you mean 'folder:/path'"),
        ("qqqqqqqqqq", "unknown data set 'qqqqqqqqqq'; use digits, folder:/path, .*, or a name from"),
        ("cifar10:1.2.3", "only: 3.0.2"),
        ("cifar10/large", "'cifar10/large' cannot be opened"),
        ("imdb_reviews", "must hold an 8-bit 'image' and a class 'label', and are text, label"),
        ("cifar10", "not prepared.*run `tfds build cifar10 --data_dir=.*` once$"),
        ("imagenet2012", "not prepared.*run `tfds build imagenet2012 .*` once after placing its archives in"),
    ],
)
def test_a_data_set_that_cannot_be_opened_is_refused(tmp_path, name, message):
    with pytest.raises(UserError, match=message) as caught:
        open_source(name, data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("val", "no split 'val'.*name one of test, train, validation"),
        ("train[:200]", "no split 'train.:200.'.*incompatible with 103"),
        ("train[:0]", "'train.:0.' of 'numbered_photos' is empty"),
        ("test", "'test' of 'numbered_photos' starts with label -1; labels must be 0..102"),
    ],
)
@pytest.mark.parametrize("role", ["train_split", "eval_split"])
def test_a_split_that_cannot_be_used_is_refused(records_dir, split, role, message):
    with pytest.raises(UserError, match=message):
        open_source("numbered_photos", data_dir=records_dir, **{role: split})


def test_an_unreadable_class_folder_is_named(tmp_path, monkeypatch):
    root = write_folder(tmp_path, {"cat": 2, "dog": 2})

    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", denied)  # the tests may run as root, whom nothing is denied
    with pytest.raises(UserError, match="folder '.*' cannot be read: Permission denied; make it readable"):
        open_source(f"folder:{root}")


def test_names_need_not_be_utf8(tmp_path):
    root = write_folder(tmp_path, {"cat": 2, "dog": 2})
    os.rename(root / "cat/000.jpg", os.fsencode(root / "cat") + b"/caf\xe9.jpg")
    source = open_source(f"folder:{root}")
    for split in (source.train, source.eval):
        for i in range(split.num_examples):
            assert split.fetch(tf.constant(i, tf.int64))["image"].numpy().startswith(b"\xff\xd8")
