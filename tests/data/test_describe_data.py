"""What `data describe` prints and finds, and the sheet it draws, against Pillow and the files."""

import dataclasses
import io
import os

import numpy as np
import pytest
import tensorflow as tf
from photos import encoded, imagenet_example, noted, photo, write_folder, write_records
from PIL import Image
from recipes import load

from efficientnet_pod.cli.main import main
from efficientnet_pod.data.inspect import describe_data
from efficientnet_pod.data.prepare import prepare
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.data.sources.reading import read_part
from efficientnet_pod.data.transforms.preprocess import eval_image, train_image
from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.pod.terminal import console
from efficientnet_pod.recipe.preprocessing import Preprocessing
from efficientnet_pod.recipe.reading import read_recipe


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def described(name, *, image_size=16, check=None, sheet=None, **fields):
    """Returns what is printed, with single spaces, and the number of bad images."""
    config = load("digits.py")
    config["data"] |= {"name": str(name), "augment": "inception_crop", "max_shift": 0, **fields}
    data = read_recipe(config).data
    source = open_source(data.name, train_split=data.train_split, eval_split=data.eval_split)
    out = io.StringIO()
    bad = describe_data(
        source, data, image_size=image_size, check=check, sheet=sheet, console=console(file=out)
    )
    return "\n".join(" ".join(line.split()) for line in out.getvalue().splitlines()), bad


@pytest.fixture
def folder(tmp_path):
    """Nine cats and five dogs, 48x64, one of them 100x30, to train; two to evaluate."""
    counts = {"train/cat": 9, "train/dog": 5, "validation/cat": 1, "validation/dog": 1}
    root = write_folder(tmp_path / "photos", counts)
    (root / "train/cat/003.jpg").write_bytes(encoded(photo(5, 100, 30), "JPEG"))
    return root


def test_numbers_of_a_folder_are_those_of_its_files(folder):
    (folder / "train/cat/notes.txt").write_text("")
    text, bad = described(f"folder:{folder}")
    sizes = sorted(file.stat().st_size for file in folder.glob("train/*/*.jpg"))
    assert bad == 0
    for line in (
        "classes 2: cat, dog",
        "images 14 2",
        "checked 14 2",
        "bad 0 0",
        "short side, px 30, 48, 48 48, 48, 48",
        "long side, px 64, 64, 100 64, 64, 64",
        "images a class 5, 7, 9 1, 1, 1",
        f"warning left out: 1 file without the suffix of an image in class folders, first: {folder}",
    ):
        assert line in text, line
    assert (
        f"bytes an image {sizes[0]:,}, {np.median(sizes):,.0f}, {sizes[-1]:,}, mean {np.mean(sizes):,.0f}"
        in text
    )
    assert f"all images {sum(sizes) / 1000:,.1f} kB" in text


def test_a_sample_is_of_the_size_asked_for_and_totals_are_estimates(folder):
    text, _ = described(f"folder:{folder}", check=8)
    assert "checked 8 2" in text and "all images about " in text


@pytest.mark.parametrize("check", [None, 14])
def test_bad_images_are_listed_by_name_with_the_reason(folder, check):
    cut = folder / "train/dog/001.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    (folder / "train/cat/002.jpg").write_bytes(b"<html>not found</html>")
    (folder / "validation/dog/000.jpg").write_bytes(b"")
    text, bad = described(f"folder:{folder}", check=check)
    assert bad == 3 and "bad 2 1" in text
    lines = [line for line in text.splitlines() if line.startswith("bad image ")]
    assert len(lines) == 3
    for name in (
        f"train: {cut}",
        f"train: {folder}/train/cat/002.jpg",
        f"validation: {folder}/validation/dog/000.jpg",
    ):
        assert any(line.startswith(f"bad image {name}: ") and len(line) > len(name) + 20 for line in lines), (
            name
        )


def test_what_the_decoder_says_of_an_image_that_is_used_has_its_name(folder, capfd):
    file = folder / "train/dog/000.jpg"
    whole = file.read_bytes()
    file.write_bytes(whole[:-2] + 5 * b"\x55" + whole[-2:])
    text, bad = described(f"folder:{folder}")
    said = "Corrupt JPEG data: 4 extraneous bytes before marker 0xd9"  # libjpeg had read one
    assert [line for line in text.splitlines() if "Corrupt" in line] == [
        f"damaged train: {file}: {said}; it is used"
    ]
    assert bad == 0 and "Corrupt" not in capfd.readouterr().err


def test_names_are_shown_as_they_are_whatever_they_look_like(tmp_path):
    classes = ("[red]", "[_]", ":dog:", "[bold]é×[bold]")
    root = write_folder(
        tmp_path / "[b]i[_b]", {f"{split}/{name}": 1 for split in ("train", "validation") for name in classes}
    )
    (root / "train/[red]/000.jpg").write_bytes(b"")
    text, bad = described(f"folder:{root}")
    assert bad == 1 and f"folder:{root} train validation" in text
    assert f"classes 4: {', '.join(sorted(classes))}" in text
    assert f"bad image train: {root}/train/[red]/000.jpg: " in text


@pytest.mark.parametrize("exif", ["ignored", "respected"])
def test_photos_that_exif_notes_as_turned_are_counted(folder, exif):
    (folder / "train/dog/001.jpg").write_bytes(noted(6))
    (folder / "train/cat/001.jpg").write_bytes(noted(3))
    (folder / "validation/cat/000.jpg").write_bytes(noted(1))
    text, bad = described(f"folder:{folder}", exif=exif)
    assert bad == 0 and "turned by EXIF 2 0" in text
    warning = (
        "warning EXIF notes 2 of the photos checked as turned, and they are taken as stored; to turn them"
    )
    assert (f"{warning} upright: --config.data.exif=respected" in text) == (exif == "ignored")


def test_names_that_are_not_utf8_are_printed(folder):
    name = b"caf\xe9.jpg"
    os.rename(folder / "train/cat/001.jpg", os.path.join(os.fsencode(folder / "train/cat"), name))
    (folder / os.fsdecode(b"train/cat/" + name)).write_bytes(b"")
    text, bad = described(f"folder:{folder}")
    assert bad == 1 and rf"bad image train: {folder}/train/cat/caf\xe9.jpg: it is empty, 0 bytes" in text


def test_a_file_that_is_gone_is_a_bad_image(folder):
    config_source = open_source(f"folder:{folder}")
    (folder / "train/dog/001.jpg").unlink()
    out, data = io.StringIO(), read_recipe(load("digits.py")).data
    assert describe_data(config_source, data, image_size=16, check=None, console=console(file=out)) == 1
    assert f"{folder}/train/dog/001.jpg; No such file" in out.getvalue()


def test_labels_and_damage_of_record_files_are_found(tmp_path):
    train, *_ = write_records(tmp_path / "records", "train", [1])
    held_out, *_ = write_records(tmp_path / "records", "validation", [6])
    with tf.io.TFRecordWriter(str(train)) as writer:
        for label in (1, 1001, 7):
            writer.write(imagenet_example(0, label=label))
    content = bytearray(held_out.read_bytes())
    content[-100] ^= 1
    held_out.write_bytes(content)
    text, bad = described(f"tfrecord:{tmp_path}/records")
    assert bad == 2 and "read 1 record file, from the front 1 record file, from the front" in text
    assert f"train: {train}#1 (n0.JPEG): its label 1000 is outside 0..999" in text
    assert (
        f"{held_out}, record 5, byte " in text
        and "its checksum is wrong; what follows is not checked" in text
    )
    assert "checked 3 6" in text and "images a class 0, 0, 1; none of 998 0, 0, 1; none of 995" in text


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_the_sheet_shows_each_image_evaluated_and_then_augmented(folder, tmp_path, name):
    source = "digits" if name == "digits" else f"folder:{folder}"
    text, _ = described(source, image_size=16, sheet=str(tmp_path / "sheet.png"))
    assert f"sheet {tmp_path}/sheet.png: a row for each of 8 training images" in text
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (8 * 20 + 4, 8 * 20 + 4, 3)
    is_gap = np.zeros(sheet.shape[:2], bool)
    for start in range(0, 164, 20):
        is_gap[start : start + 4] = is_gap[:, start : start + 4] = True
    assert (sheet[is_gap] == 255).all()
    tiles = sheet[4:, 4:].reshape(8, 20, 8, 20, 3).swapaxes(1, 2)[:, :, :16, :16]
    assert len({tile.tobytes() for row in tiles for tile in row}) > 40

    train = open_source(source).train
    images = list(read_part(train, 0, train.num_examples).as_numpy_iterator())
    images = [images[-(-row * train.num_examples // 8)] for row in range(8)]
    preprocessing = Preprocessing(image_size=16, dtype="uint8")
    for row, example in zip(tiles, images, strict=True):
        image = tf.constant(example["image"])
        np.testing.assert_array_equal(row[0], eval_image(image, preprocessing))
    image, seed = tf.constant(images[5]["image"]), tf.constant([2, 5], tf.int64)
    np.testing.assert_array_equal(tiles[5, 3], train_image(image, seed, preprocessing))


def test_a_sheet_that_cannot_be_written_after_all_is_an_error(folder, tmp_path):
    with pytest.raises(RunError, match="nowhere/sheet.png' cannot be written: No such file"):
        described(f"folder:{folder}", sheet=str(tmp_path / "nowhere/sheet.png"))
    for file in folder.glob("train/*/*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="--sheet=.* would be empty: no image of the sample can be used"):
        described(f"folder:{folder}", sheet=str(tmp_path / "sheet.png"))


def test_damage_of_a_copy_is_a_bad_image(folder, tmp_path):
    data = read_recipe(load("digits.py")).data
    prepare(dataclasses.replace(data, name=f"folder:{folder}"), resize=24, output=str(tmp_path / "copy"))
    (shard,) = (tmp_path / "copy").glob("*-train.array_record-*")
    content = bytearray(shard.read_bytes())
    source = open_source(f"prepared:{tmp_path}/copy")
    content[100:-100] = bytes(len(content) - 200)
    shard.write_bytes(content)
    out = io.StringIO()
    bad = describe_data(source, data, image_size=16, check=None, console=console(file=out))
    text = " ".join(out.getvalue().split())
    assert bad >= 1 and "checked 14 2" in text
    assert f"bad image train: : record '{shard}#" in text and "cannot be read" in text


def test_neither_a_description_nor_a_plan_asks_for_weights_to_start_from(folder, capsys):
    recipe = ["--config=configs/finetune.py:lite0", f"--config.data.name=folder:{folder}"]
    assert main(["data", "describe", *recipe, "--check=2"]) == 0
    assert main(["plan", *recipe, "--config.cpu_replicas=8", "--config.global_batch=8"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "name them: --config.init.weights=PATH" in printed
    assert main(["train", *recipe, "--workdir=nowhere"]) == 2
    assert "are for weights that exist; name them: --config.init.weights=PATH" in capsys.readouterr().err
    assert not os.path.exists("nowhere")
