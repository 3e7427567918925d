"""Streams of batches with bad images: the line that stops them, and what is skipped."""

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from photos import DamagedPhotos, encoded, photo, prepare_numbered_photos, write_folder
from recipes import load
from tiny import build_tiny_networks

from efficientnet_pod.cli import main as cli
from efficientnet_pod.data import pipeline
from efficientnet_pod.data.bad_images import look_at_sample
from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.skips import Skips
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.types import Indexed, Source
from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.recipe.preprocessing import Preprocessing
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.run import look_at_images, open_run
from efficientnet_pod.workdir.metrics_log import read_metrics
from efficientnet_pod.workdir.workdir import Workdir

CROP = Preprocessing(image_size=16, augment="inception_crop")
JPEG, PNG = encoded(photo(9), "JPEG"), encoded(photo(9), "PNG")


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path, {"train/cat": 6, "train/dog": 6, "val/cat": 3, "val/dog": 3})


def training(source, *, batches=6, skips=None, preprocessing=CROP, global_batch=4, **share):
    share = HostShare(global_batch, **share)
    stream = pipeline.train_batches(source, preprocessing, share, seed=3, skips=skips)
    return list(itertools.islice(stream.as_numpy_iterator(), batches))


def evaluation(source):
    return list(pipeline.eval_batches(source, CROP, HostShare(4)).as_numpy_iterator())


def opened(folder):
    return open_source(f"folder:{folder}", eval_split="val")


def damage(file):
    file.write_bytes(file.read_bytes()[:-100])


def test_a_damaged_training_image_stops_with_its_file_number_and_remedy(folder):
    damage(folder / "train/dog/002.jpg")
    expected = (
        f"image '{folder}/train/dog/002.jpg' (number 8 of the training split) cannot be used: truncated "
        "JPEG, its end marker is missing; replace or remove it, or let each host skip up to N such images: "
        "--config.data.skip_corrupt=N"
    )
    with pytest.raises(UserError) as stopped:
        training(opened(folder))
    assert str(stopped.value) == expected
    messages = []
    for host in range(2):  # one of two hosts meets it
        try:
            training(opened(folder), batches=3, devices=(host,), num_devices=2)
        except UserError as error:
            messages.append(str(error))
    assert messages == [expected]


def test_a_damaged_evaluation_image_always_stops(folder):
    damage(folder / "val/dog/001.jpg")
    training(opened(folder))
    with pytest.raises(UserError) as stopped:
        evaluation(opened(folder))
    assert str(stopped.value) == (
        f"image '{folder}/val/dog/001.jpg' (number 4 of the evaluation split) cannot be used: truncated "
        "JPEG, its end marker is missing; replace or remove it; evaluation skips none: the accuracy on fewer "
        "images is another number"
    )


def test_a_file_that_vanished_or_is_a_folder_is_named(folder):
    source = opened(folder)
    file = folder / "train/cat/003.jpg"
    file.unlink()
    skips = Skips(5)
    with pytest.raises(
        UserError, match=r"image number 3 of the training split cannot be read: .*cat/003\.jpg; No"
    ):
        training(source, skips=skips)
    file.mkdir()
    with pytest.raises(UserError, match=r"cannot be read: .*cat/003\.jpg; Is a directory; make it readable"):
        training(source, skips=skips)
    assert not skips.names


def test_sizes_read_for_rectangular_crops_name_what_is_no_image(folder):
    (folder / "val/dog/001.jpg").write_bytes(b"GIF89a")
    with pytest.raises(
        UserError,
        match=r"val/dog/001\.jpg' \(number 4 of the evaluation split\) .*damaged GIF, its header cannot",
    ):
        pipeline.aspect_ratios(opened(folder), exif="ignored")


def test_a_jpeg_named_png_is_decided_by_content(folder):
    (folder / "train/cat/000.jpg").rename(folder / "train/cat/000.png")
    (folder / "val/cat/000.jpg").write_bytes(PNG)
    training(opened(folder))
    evaluation(opened(folder))


def table(images, labels, num_classes=2):
    def fetch(index):
        return {
            "image": tf.gather(tf.constant(images), index),
            "label": tf.gather(tf.constant(labels), index),
            "name": tf.strings.as_string(index),
        }

    split = Indexed(len(labels), fetch)
    return Source("table", tuple(map(str, range(num_classes))), split, split)


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_outside_the_classes_is_never_skipped(label):
    source = table([JPEG, JPEG, JPEG], [0, 1, label])
    expected = (
        rf"image '2' \(number 2 of the training .* its label {label} is outside 0\.\.1; correct its label"
    )
    with pytest.raises(UserError, match=expected):
        training(source, skips=Skips(10))
    with pytest.raises(UserError, match=rf"evaluation split\) .* its label {label} is outside 0\.\.1"):
        evaluation(source)


def test_what_a_reader_written_in_python_says_is_told_on_one_line():
    def read(index):
        if index == 2:
            raise RuntimeError("record '/a/b.array_record#2' cannot be read: bad chunk; copy the file anew")
        return JPEG

    def fetch(index):
        image = tf.ensure_shape(tf.numpy_function(read, [index], tf.string), ())
        return {"image": image, "label": tf.constant(0), "name": tf.strings.as_string(index)}

    source = Source("table", ("a", "b"), Indexed(3, fetch), Indexed(3, fetch))
    for batches in (training, evaluation):
        with pytest.raises(UserError) as stopped:
            batches(source)
        assert re.fullmatch(
            r"image number 2 of the (training|evaluation) split cannot be read: record '/a/b.array_record#2' "
            "cannot be read: bad chunk; copy the file anew; make it readable or remove it",
            str(stopped.value),
        )


def test_an_error_that_a_second_look_does_not_find_is_told_in_tensorflows_words(folder, monkeypatch):
    file, intact = folder / "train/cat/000.jpg", (folder / "train/cat/000.jpg").read_bytes()
    damage(file)
    replaced = pipeline.Batches._with_bad_images_replaced

    def repaired(*arguments):
        file.write_bytes(intact)
        return replaced(*arguments)

    monkeypatch.setattr(pipeline.Batches, "_with_bad_images_replaced", repaired)
    with pytest.raises(RunError, match="could not be read: .*a torn JPEG.*; a second look") as stopped:
        training(opened(folder))
    assert "\n" not in str(stopped.value)


# The first look


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "train/dog/005.jpg",
            JPEG[:-100],
            "(number 11 of the training split) cannot be used: truncated JPEG, its end",
        ),
        (
            "train/cat/000.jpg",
            b"<html>",
            "(number 0 of the training split) cannot be used: neither JPEG, PNG",
        ),
        (
            "val/cat/002.jpg",
            b"",
            "(number 2 of the evaluation split) cannot be used: it is empty, 0 bytes; replace",
        ),
    ],
)
def test_bad_images_are_found_before_anything_is_compiled(folder, file, content, message):
    (folder / file).write_bytes(content)
    for image in (folder / "train/dog/001.jpg", folder / "val/dog/001.jpg"):  # goes through every decoder
        image.write_bytes(JPEG[: len(JPEG) // 2] + b"\xff\xd9")
    config = load("digits.py")
    config["data"] |= {"name": f"folder:{folder}", "eval_split": "val"}
    run = open_run(read_recipe(config))
    with pytest.raises(UserError, match=re.escape(f"image '{folder}/{file}' {message}")):
        look_at_images(run)
    config["data"]["skip_corrupt"] = 1
    if file.startswith("train"):
        look_at_images(open_run(read_recipe(config)))


def test_a_file_that_is_gone_is_named_before_anything_is_compiled(folder):
    source = opened(folder)
    (folder / "train/cat/000.jpg").unlink()
    with pytest.raises(UserError, match="number 0 of the training split cannot be read: .*cat/000.jpg; No"):
        look_at_sample(source.train, split="training", may_skip=True)


# Skipping


def test_skipped_images_are_replaced_and_all_others_stay_in_their_places(folder):
    preprocessing = dataclasses.replace(CROP, policy="randaugment", dtype="uint8")
    epochs = {"global_batch": 12, "preprocessing": preprocessing}  # a batch is an epoch
    whole = training(opened(folder), batches=3, **epochs)
    names = [f"{folder}/train/{name}.jpg" for name in ("cat/004", "dog/002")]
    for name in names:
        damage(Path(name))
    lines = []
    skips = Skips(2, lines.append)
    mended = training(opened(folder), batches=3, skips=skips, **epochs)
    assert skips.names == set(names)
    reason = "truncated JPEG, its end marker is missing"
    assert lines[0].startswith("skipped image ") and lines[0].endswith(
        f": {reason} (1 of 2 that may be skipped)"
    )
    assert lines[1].startswith("skipped image ") and lines[1].endswith(
        f": {reason} (2 of 2 that may be skipped)"
    )
    assert f"'{names[0]}' (number 4 of the training split)" in sorted(lines)[0]
    assert len(lines) == 2  # though each was met in three epochs
    replaced = 0
    for ours, theirs in zip(mended, whole, strict=True):
        assert ours["image"].dtype == theirs["image"].dtype and ours["label"].dtype == theirs["label"].dtype
        same = (ours["image"] == theirs["image"]).all((1, 2, 3))
        np.testing.assert_array_equal(ours["label"][same], theirs["label"][same])
        for place in np.flatnonzero(~same):
            source = next(i % 12 for i in range(place - 1, place - 12, -1) if same[i % 12])
            np.testing.assert_array_equal(ours["image"][place], theirs["image"][source])
            assert ours["label"][place] == theirs["label"][source]
            replaced += 1
    assert replaced == 6  # two images in three epochs
    later = training(opened(folder), batches=1, skips=Skips(2, lines.append), first_image=24, **epochs)
    for ours, theirs in zip(later, mended[2:], strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])


def test_one_image_more_than_allowed_stops(folder):
    for name in ("cat/004", "dog/002"):
        damage(folder / f"train/{name}.jpg")
    with pytest.raises(UserError) as stopped:
        training(opened(folder), skips=Skips(1, lambda line: None))
    assert str(stopped.value).endswith(
        "cannot be used: truncated JPEG, its end marker is missing; it is number 2 of the images that this "
        "host cannot use, and --config.data.skip_corrupt=1; replace or remove them, or let more be skipped"
    )


def test_a_batch_without_a_good_image_stops():
    source = table([JPEG[:-9]] * 8, [0] * 8)
    with pytest.raises(
        UserError, match="none of the 4 images of a batch of the training split can be used; a"
    ):
        training(source, skips=Skips(100, lambda line: None))


# Record files


def test_an_image_in_a_record_file_is_named_and_skipped(tmp_path):
    DamagedPhotos(data_dir=tmp_path).download_and_prepare()
    source = open_source("damaged_photos", data_dir=str(tmp_path))
    for split, batches in (("train", training), ("validation", evaluation)):
        with pytest.raises(
            UserError, match=rf"image '.*{split}.*00000-of-00001.*' of the .* split cannot be used: trunc"
        ):
            batches(source)
    lines = []
    mended = np.concatenate([batch["label"] for batch in training(source, skips=Skips(1, lines.append))])
    assert len(lines) == 1 and 7 not in mended
    assert set(mended[:12]) == set(range(12)) - {7} and len(mended) == 24


def test_a_record_with_a_wrong_checksum_stops_and_is_located(tmp_path):
    root = prepare_numbered_photos(tmp_path)
    file = next(root.rglob("*train.tfrecord-00002*"))
    data = file.read_bytes()
    source = open_source("numbered_photos", data_dir=str(root))
    file.write_bytes(
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 0xFF]) + data[len(data) // 2 + 1 :]
    )
    expected = (
        rf"the training split is damaged at {file}, record \d+, byte \d+: its checksum is wrong; what lies "
        r"behind it in that file cannot be read either, so that nothing is skipped; copy the file anew"
    )
    with pytest.raises(UserError) as stopped:
        training(source, batches=30, skips=Skips(10))
    assert re.fullmatch(expected, str(stopped.value))


# The command line


def test_a_damaged_image_is_one_line_and_exit_code_2_and_can_be_skipped(
    folder, tmp_path, capsys, monkeypatch
):
    build_tiny_networks(monkeypatch)
    damage(folder / "train/dog/002.jpg")
    assert load("digits.py")["data"]["skip_corrupt"] == 0
    arguments = [
        "train",
        "--config=configs/digits.py",
        f"--workdir={tmp_path}/run",
        f"--config.data.name=folder:{folder}",
        "--config.data.eval_split=val",
        "--config.data.image_size=16",
        "--config.global_batch=8",
        "--config.epochs=2.0",
        "--config.log_steps=1",
    ]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"efficientnet-pod: image '{folder}/train/dog/002.jpg' (number 8 of the training")
    assert error.count("\n") == 1

    assert cli.main([*arguments, "--config.data.skip_corrupt=1"]) == 0
    assert f"skipped image '{folder}/train/dog/002.jpg'" in " ".join(capsys.readouterr().out.split("\n"))
    rows = read_metrics(Workdir(f"{tmp_path}/run"))
    assert rows[-2]["split"] == "train" and rows[-2]["skipped"] == 1
    assert all("skipped" not in row for row in rows if row["split"] == "eval")
