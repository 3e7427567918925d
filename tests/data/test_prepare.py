"""Smaller copies of data sets: pixels against Pillow's, files against TFDS, interruptions against none."""

import io
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from photos import encoded, imagenet_example, photo, prepare_numbered_photos, write_folder, write_records
from PIL import Image
from recipes import load

from efficientnet_pod.data import prepare as module
from efficientnet_pod.data import shards
from efficientnet_pod.data.prepare import CopySummary, limit_short_side, prepare, shorten
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.reading import read_part
from efficientnet_pod.data.sources.types import Indexed
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.reading import read_recipe


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch, tmp_path):
    monkeypatch.setattr(shards, "SHARD_IMAGES", 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def settings(name, **fields):
    """Returns the data settings of a recipe of these images."""
    config = load("digits.py")
    config["data"] |= {"name": str(name), **fields}
    return read_recipe(config).data


@pytest.fixture
def folder(tmp_path):
    """Nine cats and five dogs, 48x64, to train, two to evaluate; one of them already small."""
    root = write_folder(tmp_path / "photos", {"train/cat": 9, "train/dog": 5, "val/cat": 1, "val/dog": 1})
    (root / "train/cat/003.jpg").write_bytes(encoded(photo(5, 20, 90), "JPEG"))
    (root / "train/dog/004.jpg").unlink()
    (root / "train/dog/004.png").write_bytes(encoded(photo(6, 70, 30), "PNG"))
    return settings(f"folder:{root}", eval_split="val")


def read(split):
    assert isinstance(split, Indexed)
    return list(read_part(split, 0, split.num_examples).as_numpy_iterator())


def contents(path):
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def test_a_copy_holds_the_same_images_in_the_same_order_with_a_short_side_of_at_most_the_limit(
    folder, tmp_path
):
    (tmp_path / "photos/val/cat/notes.txt").write_text("not an image")
    summary = prepare(folder, resize=24, output=str(tmp_path / "copy"))
    before, after = (
        open_source(folder.name, eval_split="val"),
        open_source(f"prepared:{tmp_path}/copy", eval_split="val"),
    )
    assert after.class_names == before.class_names == ("cat", "dog")
    sizes = [0, 0]
    for old_split, new_split in ((before.train, after.train), (before.eval, after.eval)):
        for old, new in zip(read(old_split), read(new_split), strict=True):
            assert old["label"] == new["label"]
            sizes = [sizes[0] + len(old["image"]), sizes[1] + len(new["image"])]
            image = Image.open(io.BytesIO(new["image"]))
            if old["name"].endswith(b"003.jpg") and b"train/cat" in old["name"]:
                assert new["image"] == old["image"] and image.size == (90, 20)
            else:
                assert image.format == "JPEG" and min(image.size) == 24
                assert max(image.size) == (56 if old["name"].endswith(b".png") else 32)
    assert replace(summary, warnings=()) == CopySummary(16, *sizes, written=16)
    assert len(summary.warnings) == 1 and "notes.txt" in summary.warnings[0]


def test_tfds_opens_a_copy(folder, tmp_path):
    prepare(folder, resize=24, output=str(tmp_path / "copy"))
    builder = tfds.builder_from_directory(str(tmp_path / "copy"))
    assert builder.info.features["label"].names == ["cat", "dog"]
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 14,
        "val": 2,
    }
    assert builder.info.splits["train"].shard_lengths == [3, 4, 3, 4]
    first = builder.as_data_source("train")[0]
    assert first["image"].shape == (24, 32, 3) and first["label"] == 0


@pytest.mark.parametrize(("height", "width", "resize"), [(375, 500, 160), (333, 201, 64), (48, 64, 47)])
def test_pixels_are_those_of_pillows_antialiased_bicubic(height, width, resize):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)  # the hardest case
    scale = resize / min(height, width)
    size = (round(width * scale), round(height * scale))
    bands = [
        Image.fromarray(pixels[..., c].astype(np.float32)) for c in range(3)
    ]  # mode F: not clipped between
    theirs = np.stack([np.asarray(band.resize(size, Image.Resampling.BICUBIC)) for band in bands], -1)
    difference = np.abs(shorten(tf.constant(pixels), resize).numpy() - np.clip(theirs, 0, 255))
    assert difference.max() < 0.501  # of 255: rounding alone


def test_a_smaller_image_is_a_jpeg_of_its_pixels():
    pixels = photo(3, 90, 120)
    smaller = limit_short_side(tf.constant(encoded(pixels, "PNG")), resize=60, quality=95).numpy()
    theirs = Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC)
    kept = np.asarray(Image.open(io.BytesIO(smaller)), np.int16)
    assert np.abs(kept - np.asarray(theirs)).mean() < 2
    coarser = limit_short_side(tf.constant(encoded(pixels, "PNG")), resize=60, quality=30).numpy()
    assert len(coarser) < len(smaller)


def test_an_image_within_the_limit_is_kept_byte_for_byte_and_so_is_a_resized_one():
    for image in (encoded(photo(1, 40, 99), "JPEG"), encoded(photo(2, 40, 40), "PNG")):
        assert limit_short_side(tf.constant(image), resize=40, quality=50).numpy() == image
        smaller = limit_short_side(tf.constant(image), resize=39, quality=50).numpy()
        assert smaller != image
        assert limit_short_side(tf.constant(smaller), resize=39, quality=90).numpy() == smaller


def test_an_array_becomes_a_png_without_loss():
    pixels = photo(3, 8, 8)
    image = limit_short_side(tf.constant(pixels), resize=8, quality=50).numpy()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image))), pixels)


def test_a_copy_of_a_copy_is_the_copy(folder, tmp_path):
    prepare(folder, resize=24, output=str(tmp_path / "copy"))
    prepare(
        settings(f"prepared:{tmp_path}/copy", eval_split="val"), resize=24, output=str(tmp_path / "again")
    )
    for name, content in contents(tmp_path / "copy").items():
        if name not in ("prepare.json", "dataset_info.json"):  # which name the source
            assert contents(tmp_path / "again")[name] == content, name


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_copy_resumed_is_the_uninterrupted_one(folder, tmp_path, monkeypatch, after):
    prepare(folder, resize=24, output=str(tmp_path / "whole"))
    write_shard, started = module.write_shard, []

    def interrupted(path, *arguments, advance, **options):
        def advance_once(images):
            advance(images)
            if len(started) > after:
                raise KeyboardInterrupt

        started.append(path.name)
        return write_shard(path, *arguments, advance=advance_once, **options)

    monkeypatch.setattr(module, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder, resize=24, output=str(tmp_path / "copy"))
    assert len(started) == after + 1
    written = contents(tmp_path / "copy")
    assert sorted(written) == sorted(["prepare.json", *started[:-1]])
    with pytest.raises(UserError, match="prepare` has not finished it: run the same command again"):
        open_source(f"prepared:{tmp_path}/copy", eval_split="val")

    monkeypatch.setattr(module, "write_shard", write_shard)
    prepare(folder, resize=24, output=str(tmp_path / "copy"))
    assert contents(tmp_path / "copy") == contents(tmp_path / "whole")


def test_a_complete_copy_is_left_alone(folder, tmp_path, monkeypatch):
    first = prepare(folder, resize=24, output=str(tmp_path / "copy"))
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "copy").iterdir()}
    monkeypatch.setattr(module, "write_shard", lambda *_, **__: pytest.fail("a shard is written again"))
    assert prepare(folder, resize=24, output=str(tmp_path / "copy")) == replace(first, written=0)
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "copy").iterdir()}


def test_a_missing_shard_is_written_again(folder, tmp_path):
    prepare(folder, resize=24, output=str(tmp_path / "copy"))
    whole = contents(tmp_path / "copy")
    (tmp_path / "copy/prepared-train.array_record-00001-of-00004").unlink()
    assert prepare(folder, resize=24, output=str(tmp_path / "copy")).written == 4
    assert contents(tmp_path / "copy") == whole


def test_slices_of_a_copy_are_those_of_the_original(tmp_path, monkeypatch):
    root = prepare_numbered_photos(tmp_path / "tfds")
    monkeypatch.setattr(shards, "SHARD_IMAGES", 60)
    slices = {"train_split": "train[:30]", "eval_split": "train[30:35]+validation"}
    prepare(
        settings("numbered_photos", data_dir=str(root), **slices), resize=4, output=str(tmp_path / "copy")
    )
    copy = open_source(f"prepared:{tmp_path}/copy", **slices)
    original = open_source("numbered_photos", data_dir=str(root), **slices)
    for new, old in ((copy.train, original.train), (copy.eval, original.eval)):
        labels = [
            [int(e["label"]) for e in read_part(split, 0, split.num_examples).as_numpy_iterator()]
            for split in (new, old)
        ]
        assert labels[0] == labels[1]
    assert set(tfds.builder_from_directory(str(tmp_path / "copy")).info.splits) == {"train", "validation"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"resize": 25}, "holds another copy: resize was 24, is 25; name another folder"),
        ({"quality": 90}, "holds another copy: quality was 95, is 90"),
    ],
)
def test_other_parameters_are_refused(folder, tmp_path, changed, message):
    prepare(folder, resize=24, output=str(tmp_path / "copy"))
    with pytest.raises(UserError, match=message):
        prepare(folder, output=str(tmp_path / "copy"), **({"resize": 24} | changed))


def test_another_source_is_refused(folder, tmp_path):
    prepare(folder, resize=24, output=str(tmp_path / "copy"))
    other = write_folder(tmp_path / "other", {"train/cat": 2, "train/cow": 2, "val/cat": 1})
    with pytest.raises(
        UserError, match="another copy: source was .*photos', is .*other', images was .*, the class"
    ):
        prepare(settings(f"folder:{other}", eval_split="val"), resize=24, output=str(tmp_path / "copy"))


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("photos", {}, "photos' is not empty, and has no prepare.json; name a new folder"),
        ("photos/train/cat/000.jpg", {}, "cannot be used"),
        ("gs://bucket/copy", {}, "is in an object store; .* name a local folder"),
        ("copy", {"resize": 0}, "resize is 0 pixels"),
        ("copy", {"quality": 101}, "quality 101; they must be"),
    ],
)
def test_impossible_outputs_are_refused(folder, tmp_path, output, options, message):
    where = output if "://" in output else str(tmp_path / output)
    with pytest.raises(UserError, match=message) as caught:
        prepare(folder, output=where, **({"resize": 24} | options))
    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_decoded_is_named_and_nothing_half_written(folder, tmp_path):
    bad = tmp_path / "photos/train/cat/007.jpg"  # in the third shard
    intact = bad.read_bytes()
    bad.write_bytes(intact[: len(intact) // 2])
    with pytest.raises(
        UserError, match=f"image '{bad}' cannot be decoded: .*; replace or remove it"
    ) as caught:
        prepare(folder, resize=24, output=str(tmp_path / "copy"))
    assert "\n" not in str(caught.value)
    assert sorted(contents(tmp_path / "copy")) == [
        "prepare.json",
        "prepared-train.array_record-00000-of-00004",
        "prepared-train.array_record-00001-of-00004",
    ]
    bad.write_bytes(intact)
    prepare(folder, resize=24, output=str(tmp_path / "copy"))
    prepare(folder, resize=24, output=str(tmp_path / "whole"))
    assert contents(tmp_path / "copy") == contents(tmp_path / "whole")


def test_an_image_that_claims_to_be_huge_is_not_decoded(folder, tmp_path):
    huge = bytearray(encoded(photo(1), "PNG"))
    huge[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height: 11 GB of pixels
    (tmp_path / "photos/val/dog/000.png").write_bytes(huge)
    with pytest.raises(
        UserError, match="val/dog/000.png' cannot be decoded: 60,000 by 60,000 pixels, more than"
    ):
        prepare(folder, resize=24, output=str(tmp_path / "copy"))


def test_a_damaged_record_is_named(tmp_path):
    train, *_ = write_records(tmp_path / "records", "train", [5])
    write_records(tmp_path / "records", "validation", [1])
    content = bytearray(train.read_bytes())
    content[-100] ^= 1
    train.write_bytes(content)
    data = settings(f"tfrecord:{tmp_path}/records")
    with pytest.raises(
        UserError, match=f"cannot be read: {train}, record 4, byte .*: its checksum is wrong;"
    ):
        prepare(data, resize=24, output=str(tmp_path / "copy"))


def test_a_label_outside_the_classes_is_named(tmp_path):
    train, *_ = write_records(tmp_path / "records", "train", [1])
    write_records(tmp_path / "records", "validation", [1])
    with tf.io.TFRecordWriter(str(train)) as writer:
        for label in (1, 1001):
            writer.write(imagenet_example(0, label=label))
    data = settings(f"tfrecord:{tmp_path}/records")
    with pytest.raises(
        UserError, match=rf"image '{train}#1 \(n0.JPEG\)' has label 1000; labels must be 0..999"
    ):
        prepare(data, resize=24, output=str(tmp_path / "copy"))


def test_two_writers_of_one_copy_are_refused(folder, tmp_path):
    (tmp_path / "copy").mkdir()
    with module._only_writer(tmp_path / "copy"):
        with pytest.raises(UserError, match="another process is writing to output '.*/copy'; wait for it"):
            prepare(folder, resize=24, output=str(tmp_path / "copy"))
    prepare(folder, resize=24, output=str(tmp_path / "copy"))


def test_a_full_disk_is_one_line(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_whole", full)
    with pytest.raises(UserError, match="output '.*/copy' cannot be written: No space left on device;"):
        prepare(folder, resize=24, output=str(tmp_path / "copy"))
