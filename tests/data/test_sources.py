"""The sources against scikit-learn, tfds.ImageFolder and record files; every refusal names its cause."""

import codecs
import hashlib
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from photos import encoded, mocked_tfds, photo, prepare_numbered_photos, write_folder
from recipes import load
from sklearn.datasets import load_digits

from efficientnet_pod.data.image_files import find_images
from efficientnet_pod.data.names import printable
from efficientnet_pod.data.prepare import prepare
from efficientnet_pod.data.sources.folders import SUFFIXES
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.reading import read_records
from efficientnet_pod.data.sources.types import Indexed, Records
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.reading import read_recipe


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


def test_one_name_in_two_spellings_is_refused_and_shown(tmp_path):
    for folders in (("caf\xe9", "cafe\u0301"), ("train/caf\xe9", "train/b", "validation/cafe\u0301")):
        root = write_folder(tmp_path / str(len(folders)), dict.fromkeys(folders, 2))
        with pytest.raises(UserError, match=r"'cafe\\u0301' and 'caf\\xe9', have one name in two spellings"):
            open_source(f"folder:{root}")


def test_classes_that_differ_by_case_are_two_where_the_file_system_has_two_folders(tmp_path):
    root = write_folder(tmp_path / "one", {"A": 2, "a": 2, "Straße": 2, "strasse": 2})
    assert open_source(f"folder:{root}").class_names == ("A", "Straße", "a", "strasse")
    root = write_folder(tmp_path / "two", {"train/cat": 2, "train/dog": 2, "validation/Dog": 2})
    with pytest.raises(UserError, match="class 'Dog' in '.*' is not in"):
        open_source(f"folder:{root}")


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        (b"caf\xe9", r"caf\xe9"),
        (rb"caf\xe9", r"caf\\xe9"),
        (b"two\nlines", r"two\x0alines"),
        (b"outer ", r"outer\x20"),
        (b" ", r"\x20"),
        ("line\u2028end".encode(), r"line\xe2\x80\xa8end"),
        ("\ufeffmarked".encode(), r"\xef\xbb\xbfmarked"),
        ("\u202egpj".encode(), r"\xe2\x80\xaegpj"),
        ("\U0001f469\u200d\U0001f52c".encode(), "\U0001f469\u200d\U0001f52c"),
        (b"tab\there", r"tab\x09here"),
        ("naïve 木 100 %".encode(), "naïve 木 100 %"),
        (b"[red]", "[red]"),
    ],
)
def test_class_names_are_utf8_on_one_line_and_a_copy_has_the_same_classes(tmp_path, name, class_name):
    root = write_folder(tmp_path / "photos", {"cat": 2, "other": 2})
    os.rename(root / "other", os.path.join(os.fsencode(root), name))
    source = open_source(f"folder:{root}")
    assert sorted(source.class_names) == sorted(["cat", class_name])
    assert codecs.escape_decode(class_name.encode())[0] == name  # reversible
    config = load("digits.py")
    config["data"] |= {"name": f"folder:{root}"}
    prepare(read_recipe(config).data, resize=24, output=str(tmp_path / "copy"))
    assert open_source(f"prepared:{tmp_path}/copy").class_names == source.class_names


def test_different_names_stay_different():
    rng = np.random.default_rng(0)
    letters = [b"\\", b"x", b"e", b"9", b"\xe9", "é".encode(), b" ", b"\n", b"\xc3"]
    names = {b"".join(rng.choice(letters, rng.integers(1, 7))) for _ in range(3000)}
    shown = {name: printable(name) for name in names}
    assert len(set(shown.values())) == len(names)
    for name, text in shown.items():
        assert codecs.escape_decode(text.encode())[0] == name
        assert text == text.strip() and len(text.splitlines()) == 1


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines"])
def test_a_path_that_no_record_can_hold_is_refused_in_one_line(tmp_path, name):
    root = write_folder(tmp_path / "photos", {"cat": 2, "dog": 2})
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    os.rename(root, path)
    with pytest.raises(UserError, match="cannot be written into the records of a run") as caught:
        open_source(f"folder:{path}")
    assert str(caught.value).isprintable()


def test_the_home_folder_may_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "photos", {"cat": 2, "dog": 2})
    assert open_source("folder:~/photos").num_train == 2
    prepare_numbered_photos(tmp_path / "tfds")
    assert open_source("numbered_photos", data_dir="~/tfds").num_train == 103
    with pytest.raises(UserError, match=f"folder '{tmp_path}/gone' does not exist"):
        open_source("prepared:~/gone")


@pytest.mark.parametrize("kind", ["folder", "prepared", "tfrecord"])
def test_a_file_in_place_of_a_folder_is_called_a_file(tmp_path, kind):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=f"folder '{tmp_path}/photo.jpg' is a file; a .* source"):
        open_source(f"{kind}:{tmp_path}/photo.jpg")


@pytest.mark.parametrize("name", ["ROOT", "./photos", "~/photos", "photos", "gs://bucket/photos"])
def test_a_path_without_the_word_in_front_gets_it(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    root = write_folder(tmp_path / "photos", {"cat": 2, "dog": 2})
    name = name.replace("ROOT", str(root))
    with pytest.raises(
        UserError, match=f"'{name}' is a path; .* --config.data.name=folder:{name} "
    ) as caught:
        open_source(name)
    assert len(str(caught.value)) < 300


def test_a_path_of_records_or_of_a_copy_gets_their_word(tmp_path):
    root = prepare_numbered_photos(tmp_path)
    with pytest.raises(UserError, match="--config.data.name=prepared:"):
        open_source(str(root / "numbered_photos/1.0.0"))
    (tmp_path / "records").mkdir()
    (tmp_path / "records/train-00000-of-00001").write_bytes(b"")
    with pytest.raises(UserError, match="--config.data.name=tfrecord:"):
        open_source(str(tmp_path / "records"))


def test_a_store_out_of_reach_is_one_line(monkeypatch):
    def unreachable(path):
        raise tf.errors.AbortedError(None, None, f"Error executing an HTTP request for {path}")

    monkeypatch.setattr(tf.io.gfile, "isdir", unreachable)
    with pytest.raises(UserError, match="data set 'folder:gs://b/x' cannot be reached: Error executing"):
        open_source("folder:gs://b/x")

    def wrapped(*_, **__):
        raise RuntimeError("Failed to construct") from tf.errors.AbortedError(None, None, "no host")

    monkeypatch.setattr(tfds, "builder", wrapped)
    with pytest.raises(UserError, match="data set 'cifar10' cannot be reached: no host; correct the path"):
        open_source("cifar10", data_dir="gs://b")


def test_a_split_folder_of_another_name_gets_the_field_that_names_it(tmp_path):
    root = write_folder(tmp_path, {"train/cat": 2, "train/dog": 2, "extra/cat": 1, "val/cat": 1})
    remedy = r"name the one to evaluate: --config.data.eval_split=val \(of evaluate: --split=val\)"
    with pytest.raises(UserError, match=f"no split folder 'validation', only extra, train, val; {remedy}"):
        open_source(f"folder:{root}")


def test_what_is_left_out_of_class_folders_is_said(tmp_path):
    root = write_folder(tmp_path, {"train/cat": 2, "train/dog": 2, "validation/dog": 1})
    assert open_source(f"folder:{root}").warnings == ()
    (root / "train/cat/notes.txt").write_text("not an image")
    (root / "train/cat/.hidden").write_text("of a file manager")
    one_file = f"left out: 1 file without the suffix of an image in class folders, first: {root}"
    assert open_source(f"folder:{root}").warnings == (f"{one_file}/train/cat/notes.txt",)
    (root / "validation/dog/photo.tiff").write_text("")
    (root / "train/dog/more").mkdir()
    assert open_source(f"folder:{root}").warnings == (
        "left out: 2 files without the suffix of an image in class folders, "
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
    (root / "cat/linked.jpg").unlink()
    (root / "cat/round.jpg").symlink_to(root / "cat/round.jpg")
    with pytest.raises(UserError, match=f"'{root}/cat/round.jpg' cannot be read: Too many levels"):
        open_source(f"folder:{root}")
    (root / "cat/round.jpg").unlink()
    os.mkfifo(root / "cat/pipe.jpg")
    with pytest.raises(UserError, match=f"'{root}/cat/pipe.jpg' is a pipe, a socket or a device, not a file"):
        open_source(f"folder:{root}")


def test_training_and_prediction_take_the_same_images_from_a_folder(tmp_path):
    root = write_folder(tmp_path / "photos", {"cat": 3, "elsewhere/dog": 2, ".hidden": 1})
    (root / "elsewhere/dog").rename(tmp_path / "dogs")
    (root / "elsewhere").rmdir()
    (root / "dog").symlink_to(tmp_path / "dogs")
    for number, suffix in enumerate((*SUFFIXES, ".JPG", ".tiff", ".heic", ".txt")):
        (root / f"cat/{number}{suffix}").write_bytes(encoded(photo(number), "PNG"))
    (root / "cat/.1.jpg").write_bytes(b"")
    source = open_source(f"folder:{root}")
    trained = sorted(
        example["name"].decode() for split in (source.train, source.eval) for example in read(split)
    )
    (root / "dog/loop").symlink_to(root)
    files, faults, others = find_images([str(root)])
    assert sorted(files) == trained and len(files) == 3 + 2 + len(SUFFIXES) + 1 and faults == []
    assert [os.path.splitext(file)[1] for file in others] == [".tiff", ".heic", ".txt"]
    os.mkfifo(root / "dog/pipe.jpg")
    (root / "dog/gone.jpg").symlink_to(root / "nowhere")
    pipe = "it is a pipe, a socket or a device, not a file"
    assert find_images([str(root), str(root / "dog/pipe.jpg")])[1] == [
        (f"{root}/dog/gone.jpg", "it is a link to a file that does not exist"),
        (f"{root}/dog/pipe.jpg", pipe),
        (f"{root}/dog/pipe.jpg", pipe),
    ]


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
