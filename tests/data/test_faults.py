"""Bad input: what is refused, what is accepted and looks as Pillow shows it, and the line the user reads."""

import dataclasses
import io
import itertools
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from photos import encoded, photo, prepare_numbered_photos, write_folder
from PIL import Image
from recipes import load
from tiny import build_tiny_networks

from efficientnet_pod.cli import main as cli
from efficientnet_pod.data import pipeline
from efficientnet_pod.data.bad_images import Skips, find_fault
from efficientnet_pod.data.sources.opening import Indexed, Source, open_source
from efficientnet_pod.data.transforms import preprocess
from efficientnet_pod.data.transforms.preprocess import Preprocessing, eval_image, train_image
from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.train import train

CROP = Preprocessing(image_size=16, augment="inception_crop")
WHOLE = Preprocessing(image_size=16, augment="shift")


def saved(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEG, PNG = encoded(photo(9), "JPEG"), encoded(photo(9), "PNG")
# Without subsampling: decoders interpolate colours over the edge of a crop that they do not decode.
PROGRESSIVE = saved(Image.fromarray(photo(9)), progressive=True, subsampling=0)
PREVIEW = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(JPEG)) + JPEG + JPEG[2:]  # in an APP1 segment


def png(width, height, depth, colour, rows):
    """Returns a PNG of raw rows, each with its filter byte; Pillow writes no 16-bit colours."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


SIZE = JPEG.index(b"\xff\xc0") + 5  # of height and width, two bytes each


def jpeg_claiming(width, height):
    return JPEG[:SIZE] + struct.pack(">HH", height, width) + JPEG[SIZE + 4 :]


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


REFUSED = {
    "tail missing": (JPEG[:-100], "truncated JPEG, its end marker is missing"),
    "end marker missing": (JPEG[:-2], "truncated JPEG, its end marker is missing"),
    "half missing": (JPEG[: len(JPEG) // 2], "truncated JPEG, its end marker is missing"),
    "header only": (JPEG[:30], "truncated JPEG, its end marker is missing"),
    "three bytes": (JPEG[:3], "truncated JPEG, its end marker is missing"),
    "progressive, half missing": (PROGRESSIVE[: len(PROGRESSIVE) // 2], "truncated JPEG"),
    "with a preview, half missing": (PREVIEW[: -len(JPEG) // 2], "truncated JPEG, its end marker is missing"),
    "JPEG with a damaged header": (JPEG[:SIZE] + bytes(4) + JPEG[SIZE + 4 :], "damaged JPEG, its header"),
    "JPEG without quantisation": (JPEG.replace(b"\xff\xdb", b"\xff\xfe"), "damaged JPEG"),
    "JPEG of 60,000 squared": (
        jpeg_claiming(60000, 60000),
        "60,000 by 60,000 pixels, more than the 89,478,485",
    ),
    "PNG of 60,000 squared": (png(60000, 60000, 8, 2, b""), "60,000 by 60,000 pixels, more than"),
    "PNG of 12,000 by 8,000, 12 kB": (png(12000, 8000, 1, 0, bytes(1501 * 8000)), "12,000 by 8,000 pixels"),
    "PNG of 2^31 squared": (png(2**31 - 1, 2**31 - 1, 8, 2, b""), "2,147,483,647 by 2,147,483,647 pixels"),
    "PNG with a flipped byte": (flipped(PNG, 60), "damaged PNG"),
    "PNG cut": (PNG[:-30], "truncated PNG, its end is missing"),
    "PNG header cut": (PNG[:20], "truncated PNG, its header is incomplete"),
    "empty": (b"", "it is empty, 0 bytes"),
    "GIF": (
        saved(Image.fromarray(photo(1)), "GIF"),
        r"neither a JPEG nor a PNG image, it begins with b'GIF87a",
    ),
    "WebP": (
        saved(Image.fromarray(photo(1)), "WEBP"),
        r"neither a JPEG nor a PNG image, it begins with b'RIFF",
    ),
    "BMP": (saved(Image.fromarray(photo(1)), "BMP"), "neither a JPEG nor a PNG image, it begins with b'BM"),
    "text": (b"<!DOCTYPE html>", "neither a JPEG nor a PNG image, it begins with b'<!DOCTYP'"),
    "one byte": (b"\xff", "neither a JPEG nor a PNG image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unusable_image_is_refused_wherever_the_crop_lies_and_the_reason_is_found(name):
    data, reason = REFUSED[name]
    assert reason in (find_fault({"image": data, "label": 1}, 2) or "")
    for how in (CROP, WHOLE):
        with pytest.raises(tf.errors.InvalidArgumentError):
            eval_image(tf.constant(data), how)
        for seed in range(3):
            with pytest.raises(tf.errors.InvalidArgumentError):
                train_image(tf.constant(data), tf.constant([seed, 0], tf.int64), how)


SIXTEEN = np.random.default_rng(0).integers(0, 2**16, (40, 40, 3), dtype=np.uint16)
GREY_ROWS = b"".join(b"\0" + row.astype(">u2").tobytes() for row in SIXTEEN[..., 0])
COLOUR_ROWS = b"".join(b"\0" + row.astype(">u2").tobytes() for row in SIXTEEN)
PALETTE = Image.fromarray(photo(3, 40, 40)).quantize(16)

ACCEPTED = {
    "JPEG": JPEG,
    "ten bytes behind the end": JPEG + b"\n" * 10,
    "5,000 bytes behind the end": JPEG + b"\xff\xda" + b"x" * 5000,
    "with a preview": PREVIEW,
    "progressive": PROGRESSIVE,
    "one pixel": encoded(photo(1, 1, 1), "JPEG"),
    "one pixel PNG": encoded(photo(1, 1, 1), "PNG"),
    "a column": encoded(photo(1, 50, 1), "JPEG"),
    "grey": saved(Image.fromarray(photo(2)).convert("L")),
    "CMYK": saved(Image.fromarray(photo(2)).convert("CMYK")),
    "palette": saved(PALETTE, "PNG"),
    "palette with a transparent colour": saved(PALETTE, "PNG", transparency=0),
    "black and white": saved(Image.fromarray(photo(2)).convert("1"), "PNG"),
    "16-bit colour": png(40, 40, 16, 2, COLOUR_ROWS),
    "PNG with bytes behind the end": PNG + b"\xff\xd9",
    "restart markers": saved(Image.fromarray(photo(2)), subsampling=0, restart_marker_blocks=2),
    "mid-grey": encoded(np.full((40, 40, 3), 128, np.uint8), "JPEG"),
}


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("how", [CROP, WHOLE], ids=["crop", "whole"])
def test_an_odd_but_usable_image_is_what_pillow_shows(name, how):
    data = ACCEPTED[name]
    assert find_fault({"image": data, "label": np.int32(0)}, 1) is None
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB"))
    # Pillow multiplies ink and paper with a rounding of its own; all else is the same to the bit.
    tolerance = 2.5 if name == "CMYK" else 1e-4
    ours, theirs = (eval_image(tf.constant(value), how) for value in (data, pixels))
    np.testing.assert_allclose(ours, theirs, atol=tolerance)
    key = tf.constant([7, 7], tf.int64)
    ours, theirs = (train_image(tf.constant(value), key, how) for value in (data, pixels))
    np.testing.assert_allclose(ours, theirs, atol=tolerance)


def test_of_sixteen_bits_the_upper_eight_are_kept():
    # Pillow shows 16-bit grey in 32 bits, and its convert("RGB") clips at 255 instead of scaling.
    image = eval_image(tf.constant(png(40, 40, 16, 0, GREY_ROWS)), WHOLE)
    with Image.open(io.BytesIO(png(40, 40, 16, 0, GREY_ROWS))) as stored:
        upper = (np.asarray(stored).astype(np.int64) // 256).astype(np.uint8)
    np.testing.assert_array_equal(image, eval_image(tf.constant(np.repeat(upper[..., None], 3, -1)), WHOLE))


@pytest.mark.parametrize("how", [CROP, WHOLE], ids=["crop", "whole"])
def test_the_orientation_in_exif_is_ignored(how):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter when shown
    turned = saved(Image.fromarray(photo(9)), quality=95, subsampling=0, exif=exif)
    assert Image.open(io.BytesIO(turned)).getexif()[274] == 6
    np.testing.assert_array_equal(eval_image(tf.constant(turned), how), eval_image(tf.constant(JPEG), how))


@pytest.mark.parametrize("data", [JPEG, PNG], ids=["JPEG", "PNG"])
@pytest.mark.parametrize("how", [CROP, WHOLE], ids=["crop", "whole"])
def test_the_limit_of_pixels_is_that_of_pillow_and_inclusive(data, how, monkeypatch):
    assert preprocess.MAX_PIXELS == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(preprocess, "MAX_PIXELS", 48 * 64)
    eval_image(tf.constant(data), how)
    monkeypatch.setattr(preprocess, "MAX_PIXELS", 48 * 64 - 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="an image of more than 3,071 pixels"):
        eval_image(tf.constant(data), how)


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 2}])
def test_a_jpeg_cut_and_ended_anew_is_found_though_every_decoder_takes_it(share, options):
    noise = np.random.default_rng(0).integers(0, 60, (90, 120, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(photo(9, 90, 120) // 2 + noise), **options)
    cut = whole[: int(len(whole) * share)] + b"\xff\xd9"
    with Image.open(io.BytesIO(cut)) as image:
        assert (np.asarray(image)[-1, -8:] == 128).all()
    assert find_fault({"image": cut, "label": 0}, 1) == "truncated JPEG, to which an end marker was added"
    assert find_fault({"image": whole, "label": 0}, 1) is None


def test_labels_and_arrays():
    image = np.zeros((4, 4, 3), np.uint8)
    assert find_fault({"image": image, "label": 1}, 2) is None
    for label in (-1, 2):
        assert find_fault({"image": image, "label": label}, 2) == f"its label {label} is outside 0..1"


# Streams


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path, {"train/cat": 6, "train/dog": 6, "val/cat": 3, "val/dog": 3})


def training(source, *, batches=6, skips=None, first_image=0, how=CROP, global_batch=4, **host):
    ours = pipeline.train_batches(
        source, how, global_batch=global_batch, first_image=first_image, seed=3, skips=skips, **host
    )
    return list(itertools.islice(ours.as_numpy_iterator(), batches))


def evaluation(source):
    return list(pipeline.eval_batches(source, CROP, global_batch=4).as_numpy_iterator())


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
            training(opened(folder), batches=3, host_index=host, host_count=2)
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
        UserError, match=r"val/dog/001\.jpg' \(number 4 of the evaluation split\) .*b'GIF89a'; repl"
    ):
        pipeline.aspect_ratios(opened(folder))


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
    mended = pipeline.Batches._mended
    monkeypatch.setattr(pipeline.Batches, "_mended", lambda *a: (file.write_bytes(intact), mended(*a))[1])
    with pytest.raises(
        RunError, match="could not be read: jpeg::Uncompress failed.*; a second look"
    ) as stopped:
        training(opened(folder))
    assert "\n" not in str(stopped.value)


# Skipping


def test_skipped_images_are_replaced_and_all_others_stay_in_their_places(folder):
    how = dataclasses.replace(CROP, policy="randaugment", dtype="uint8")
    epochs = {"global_batch": 12, "how": how}  # a batch is an epoch
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


class DamagedPhotos(tfds.core.GeneratorBasedBuilder):
    """12 images in each split, of which number 7 is cut."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=12)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples() for split in ("train", "validation")}

    def _generate_examples(self):
        for i in range(12):
            data = encoded(photo(i), "JPEG")
            yield i, {"image": io.BytesIO(data[:-100] if i == 7 else data), "label": i}


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
    file.write_bytes(flipped(data, len(data) // 2))
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
    together = train.get_programs
    monkeypatch.setattr(train, "get_programs", lambda *a, apart, **k: together(*a, apart=False, **k))
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
    rows = train.Workdir(f"{tmp_path}/run").metrics()
    assert rows[-2]["split"] == "train" and rows[-2]["skipped"] == 1
    assert all("skipped" not in row for row in rows if row["split"] == "eval")
