"""Webdataset's shards against tarfile, the index of their headers, and every refusal in one line."""

import json
import os
import tarfile

import pytest
from photo_archives import SYNSETS, write_shards, write_tar
from photos import encoded, photo, write_folder

from efficientnet_pod.data.sources import tars
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.reading import read_part
from efficientnet_pod.errors import UserError

JPEG = encoded(photo(1), "JPEG")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos = {f"{split}/{synset}": 4 for split in ("train", "validation") for synset in SYNSETS}
    return write_shards(write_folder(tmp_path / "photos", photos), tmp_path / "shards")


def stored(split):
    return list(read_part(split, 0, split.num_examples).as_numpy_iterator())


def test_images_are_those_that_tarfile_reads_in_their_order(folder):
    split = open_source(f"tar:{folder}").train
    expected = []
    for path in sorted(folder.glob("*train*.tar")):
        with tarfile.open(path) as file:
            contents = {member.name: file.extractfile(member).read() for member in file}
        for name in contents:
            if name.endswith(".jpg"):
                label = int(contents[name.removesuffix("jpg") + "cls"])
                expected.append((contents[name], label, f"{path}#{name}".encode()))
    assert [(e["image"], int(e["label"]), e["name"]) for e in stored(split)] == expected


def test_headers_are_read_once_and_again_for_a_shard_written_anew(folder, monkeypatch):
    first = stored(open_source(f"tar:{folder}").train)
    read, samples = [], tars._samples
    monkeypatch.setattr(tars, "_samples", lambda path: read.append(path) or samples(path))
    assert stored(open_source(f"tar:{folder}").train) == first and not read
    path = folder / "imagenet1k-train-0000.tar"
    size = path.stat().st_size
    with tarfile.open(path) as file:
        contents = {member.name: file.extractfile(member).read() for member in file}
    write_tar(path, dict(reversed(contents.items())))
    assert path.stat().st_size == size  # tar files have the size of whole records
    os.utime(path, ns=(1, 1))
    again = stored(open_source(f"tar:{folder}").train)
    assert read == [str(path)] and again != first
    assert sorted(e["image"] for e in again) == sorted(e["image"] for e in first)


def test_where_the_folder_cannot_be_written_the_index_is_in_the_cache(folder, monkeypatch):
    (folder / "tar_members.json").mkdir()  # in the way
    open_source(f"tar:{folder}")
    monkeypatch.setattr(tars, "_samples", lambda path: pytest.fail(f"{path} is read again"))
    open_source(f"tar:{folder}")


def test_keys_end_at_the_first_dot_and_other_formats_and_json_labels_are_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    members = {
        "./a/n1_1.JPEG": JPEG,
        "./a/n1_1.cls": b" 1\n",
        "./b/n1_1.png": encoded(photo(2), "PNG"),
        "./b/n1_1.json": json.dumps({"label": 0, "width": 3}).encode(),
        "./b/n1_1.txt": b"a caption",
        "./b/._n1_1.png": b"of a Mac",
        "x" * 200 + ".webp": encoded(photo(3), "WEBP"),
        "x" * 200 + ".cls": b"2",
    }
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        write_tar(tmp_path / split / "0.tar", members)
    source = open_source(f"tar:{tmp_path}", eval_split="val")
    assert source.class_names == ("0", "1", "2") and "classes are called 0 to 2" in source.warnings[0]
    assert [int(e["label"]) for e in stored(source.eval)] == [1, 0, 2]
    assert [e["image"][:4] for e in stored(source.eval)] == [b"\xff\xd8\xff\xe0", b"\x89PNG", b"RIFF"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": JPEG}, "sample 'a' of '.*' has no label; a tar source holds"),
        ({"a.jpg": JPEG, "a.json": b'{"text": 1}'}, "sample 'a' of '.*' has no label"),
        ({"a.jpg": JPEG, "a.cls": b"cat"}, "sample 'a' of '.*' has a .cls that is no integer; correct it"),
        ({"a.jpg": JPEG, "a.png": JPEG, "a.cls": b"0"}, "sample 'a' of '.*' has two images"),
        ({"a.cls": b"0"}, "has no images"),
        ({"a.jpg": JPEG, "a.cls": b"3"}, "has label 3, and the data set has 3 class names, 0 to 2"),
        ({"a.jpg": JPEG, "a.cls": b"-1"}, "has label -1 .-1 marks images without labels"),
    ],
)
def test_a_sample_that_cannot_be_trained_on_is_refused(folder, members, message):
    write_tar(folder / "imagenet1k-train-0001.tar", members)
    with pytest.raises(UserError, match=message) as caught:
        open_source(f"tar:{folder}")
    assert "\n" not in str(caught.value) and "imagenet1k-train-0001.tar" in str(caught.value)


def test_class_names_of_another_number_are_refused_or_said(folder):
    (folder / "classnames.txt").write_text("tench\ngoldfish\n")
    with pytest.raises(UserError, match="has label 2, and the data set has 2 class names, 0 to 1"):
        open_source(f"tar:{folder}")
    (folder / "classnames.txt").write_text("tench\ngoldfish\nshark\nray\n")
    assert open_source(f"tar:{folder}").warnings == (
        "classnames.txt has 4 names, and the greatest label is 2",
    )
    (folder / "classnames.txt").write_text("tench\ngoldfish\ntench\n")
    with pytest.raises(UserError, match="classnames.txt' cannot be used: classes 0 and 2"):
        open_source(f"tar:{folder}")


@pytest.mark.parametrize("kept", [100, 512, 5120, -1, -1024])
def test_a_torn_shard_is_refused(folder, kept):
    path = folder / "imagenet1k-train-0000.tar"
    content = path.read_bytes().rstrip(b"\0") + bytes(1024)
    path.write_bytes(content[:kept])
    with pytest.raises(UserError, match=f"file '{path}' is cut off"):
        open_source(f"tar:{folder}")


def test_a_compressed_shard_and_an_object_store_are_refused(folder):
    with tarfile.open(folder / "imagenet1k-train-0000.tar", "w:gz") as file:
        file.addfile(tarfile.TarInfo("a.cls"))
    with pytest.raises(UserError, match="imagenet1k-train-0000.tar' "):
        open_source(f"tar:{folder}")
    with pytest.raises(
        UserError, match="'gs://b/shards' is in an object store, and a tar source is read from"
    ):
        open_source("tar:gs://b/shards")
