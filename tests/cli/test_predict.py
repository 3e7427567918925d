"""``predict`` and what is behind it: files in, class names out, what cannot be read reported and skipped."""

import json
import os

import jax
import numpy as np
import pytest
import tensorflow as tf
from given_weights import ANIMALS as NAMES
from given_weights import random_resnet9 as random_weights
from photos import encoded, noted, photo, write_folder
from PIL import Image, ImageOps

from efficientnet_pod.cli.main import main
from efficientnet_pod.data.image_files import decode_files, find_images
from efficientnet_pod.data.transforms.preprocess import eval_image
from efficientnet_pod.errors import UserError
from efficientnet_pod.evaluate.predictor import Predictor
from efficientnet_pod.models.inputs import normalise
from efficientnet_pod.recipe.preprocessing import Preprocessing
from efficientnet_pod.weights.folder import write_folder as write_weights
from efficientnet_pod.weights.trained import CENTRE, WHOLE


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "resnet9"
    trained = random_weights(view=CENTRE)
    write_weights(trained, folder)
    return str(folder), trained


@pytest.fixture
def photos(tmp_path):
    """Five photographs at several depths, one of them cut off, and what is no image."""
    root = write_folder(tmp_path / "photos", {"b": 2, "a/deep": 1})
    (root / "z.PNG").write_bytes(encoded(photo(9), "PNG"))
    (root / "a/cut.jpeg").write_bytes(encoded(photo(8), "JPEG")[:-400])
    (root / ".hidden.jpg").write_bytes(b"")
    (root / "notes.txt").write_text("no image")
    return root


def expected(trained, levels):
    logits = trained.model.apply(
        trained.variables, normalise(levels, trained.mean_rgb, trained.stddev_rgb), train=False
    )
    return np.asarray(jax.nn.softmax(logits))


def test_probabilities_are_those_of_the_network_whatever_the_batch(weights):
    _, trained = weights
    levels = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
    found = Predictor(trained, batch=3).probabilities(levels)
    assert found.dtype == np.float32 and found.shape == (7, 3)
    np.testing.assert_allclose(found, expected(trained, levels), atol=1e-5)
    assert Predictor(trained).probabilities(levels[:0]).shape == (0, 3)
    predictor = Predictor(trained, batch=4, flip=True)
    np.testing.assert_allclose(
        predictor.probabilities(levels), predictor.probabilities(levels[:, :, ::-1]), atol=1e-5
    )
    assert predictor._predict._cache_size() == 1  # the last batch is padded


def test_impossible_arrays_and_batches_are_refused(weights):
    _, trained = weights
    with pytest.raises(UserError, match=r"images of shape \(32, 32, 3\) cannot be predicted.*image\[None\]"):
        Predictor(trained).probabilities(np.zeros((32, 32, 3)))
    with pytest.raises(UserError, match="a batch of 0 images is none"):
        Predictor(trained, batch=0)


@pytest.mark.parametrize("view", [CENTRE, WHOLE])
def test_a_file_is_seen_as_in_evaluation(photos, view):
    trained = random_weights(view=view)
    file = photos / "b/001.jpg"
    augment = "inception_crop" if view == CENTRE else "shift"
    image = eval_image(tf.constant(file.read_bytes()), Preprocessing(image_size=32, augment=augment)).numpy()
    [(path, found)] = Predictor(trained, batch=1).of_files([str(file)])
    assert path == str(file)
    np.testing.assert_allclose(found, expected(trained, image[None])[0], atol=1e-6)


def test_images_are_found_at_any_depth_sorted_and_faults_have_reasons(photos):
    files, faults, others = find_images(
        [str(photos), str(photos / "notes.txt"), "not-there.jpg", str(photos / "b")]
    )
    names = [os.path.relpath(file, photos) for file in files]
    below = ["z.PNG", "a/cut.jpeg", "a/deep/000.jpg", "b/000.jpg", "b/001.jpg"]
    assert names == [*below, "notes.txt", "b/000.jpg", "b/001.jpg"]
    assert faults == [("not-there.jpg", "it does not exist")]
    assert others == [str(photos / "notes.txt")]
    results = list(decode_files([*files[1:3], files[5], "gone.jpg"], Preprocessing(image_size=32)))
    assert [path for path, _ in results] == [*files[1:3], files[5], "gone.jpg"]
    cut, good, text, gone = (result for _, result in results)
    assert cut.startswith("truncated JPEG") and text.startswith("neither JPEG, PNG, WebP")
    assert gone == "it cannot be read: No such file or directory"
    assert good.shape == (32, 32, 3) and good.dtype == np.float32


def test_whoever_stops_asking_does_not_wait_for_what_is_ahead(photos):
    images = decode_files([str(photos / "z.PNG")] * 300, Preprocessing(image_size=32))
    next(images)
    images.close()


def test_each_image_has_a_line_and_bad_ones_are_skipped(weights, photos, capsys):
    folder, trained = weights
    assert main(["predict", folder, str(photos), "--top=2", "--batch=2"]) == 1
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == [
        str(photos / name) for name in ("z.PNG", "a/deep/000.jpg", "b/000.jpg", "b/001.jpg")
    ]
    [(_, found)] = Predictor(trained).of_files([str(photos / "z.PNG")])
    first, second = np.argsort(-found)[:2]
    said = f"{NAMES[first]} {100 * found[first]:.1f} %, {NAMES[second]} {100 * found[second]:.1f} %"
    assert lines[0] == f"{photos / 'z.PNG'}  {said}"
    assert printed.err.splitlines() == [
        f"left out: 1 file without the suffix of an image, first: {photos / 'notes.txt'}",
        f"skipped '{photos / 'a/cut.jpeg'}': truncated JPEG, its end marker is missing",
    ]


def test_json_lines_and_the_sheet(weights, photos, tmp_path, capsys):
    folder, trained = weights
    sheet = tmp_path / "sheet.png"
    files = [str(photos / "b/000.jpg"), str(photos / "z.PNG")]
    assert main(["predict", folder, *files, "--json", f"--sheet={sheet}", "--flip"]) == 0
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [row["image"] for row in rows] == files and set(rows[0]) == {"image", "predictions"}
    assert len(rows[0]["predictions"]) == 3
    assert set(rows[0]["predictions"][0]) == {"label", "name", "probability"}
    assert sum(each["probability"] for each in rows[0]["predictions"]) == pytest.approx(1, abs=1e-5)
    for row, (_, found) in zip(rows, Predictor(trained, flip=True).of_files(files), strict=True):
        best = row["predictions"][0]
        assert best["name"] == NAMES[best["label"]]
        assert best["probability"] == pytest.approx(found.max(), abs=1e-5)
    assert sheet.read_bytes().startswith(b"\x89PNG") and f"{sheet} shows 2 of 2 images" in printed.err
    assert main(["predict", folder, files[0], "--sheet=/not/there.png"]) == 2
    assert "--sheet=/not/there.png is in a folder that does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("trained_exif", ["ignored", "respected"])
def test_photos_are_turned_as_in_training_or_as_asked(tmp_path, capsys, trained_exif):
    trained = random_weights(view=CENTRE, exif=trained_exif)
    write_weights(trained, tmp_path / "weights")
    photo_file = tmp_path / "lying.jpg"
    photo_file.write_bytes(noted(6))
    lying = Image.open(photo_file)
    levels = {"ignored": lying, "respected": ImageOps.exif_transpose(lying)}
    for asked in (None, "ignored", "respected"):
        flag = [f"--exif={asked}"] if asked else []
        assert main(["predict", str(tmp_path / "weights"), str(photo_file), "--json", *flag]) == 0
        printed = capsys.readouterr()
        seen = tf.constant(np.asarray(levels[asked or trained_exif]))
        found = expected(trained, eval_image(seen, Preprocessing(image_size=32)).numpy()[None])[0]
        best = json.loads(printed.out)["predictions"][0]
        assert best["probability"] == pytest.approx(found.max(), abs=1e-4)
        warning = "EXIF notes 1 of 1 photos as turned"
        assert (warning in printed.err) == (trained_exif == "ignored" and not asked)


def test_a_name_that_is_not_utf8_is_printed_and_json_gives_it_back(weights, photos, capsys):
    file = os.path.join(os.fsencode(photos), b"caf\xe9\n.jpg")
    os.rename(photos / "b/000.jpg", file)
    assert main(["predict", weights[0], os.fsdecode(file), "--json"]) == 0
    line = capsys.readouterr().out
    line.encode()
    assert os.fsencode(json.loads(line)["image"]) == file and line.count("\n") == 1
    assert main(["predict", weights[0], os.fsdecode(file)]) == 0
    assert capsys.readouterr().out.startswith(rf"{photos}/caf\xe9\x0a.jpg  ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict"], "predict needs weights and images, e.g."),
        (["predict", "W"], "predict needs images, files or folders of them"),
        (["predict", "W", "gone.jpg"], "no image to predict in 'gone.jpg'; name files or folders of them"),
        (["predict", "W", "EMPTY"], "no image to predict in "),
        (["predict", "nowhere", "IMAGE"], "'nowhere' does not exist"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(weights, photos, tmp_path, capsys, arguments, words):
    (tmp_path / "empty").mkdir()
    places = {"W": weights[0], "EMPTY": str(tmp_path / "empty"), "IMAGE": str(photos / "z.PNG")}
    assert main([places.get(word, word) for word in arguments]) == 2
    last = capsys.readouterr().err.rstrip().rpartition("\n")[2]
    assert last.startswith("efficientnet-pod: ") and words in last


def test_ctrl_c_ends_with_130(weights, photos, capsys, monkeypatch):
    def interrupted(self, paths):
        yield next(iter(of_files(self, paths)))
        raise KeyboardInterrupt

    of_files = Predictor.of_files
    monkeypatch.setattr(Predictor, "of_files", interrupted)
    assert main(["predict", weights[0], str(photos / "b")]) == 130
    printed = capsys.readouterr()
    assert (
        printed.out.count("\n") == 1 and printed.err == "efficientnet-pod: stopped; what is printed stands\n"
    )


def test_a_class_without_a_name_has_its_number_and_of_equal_ones_the_lower_comes_first():
    best = Predictor(random_weights()).most_probable(np.array([0.25, 0.5, 0.25], np.float32))
    assert best.labels == (1, 0, 2) and best.names[0] == "cow"
    unnamed = random_weights(names=NAMES)
    unnamed = type(unnamed)(**{**vars(unnamed), "class_names": ()})
    assert Predictor(unnamed).most_probable(np.array([0.25, 0.5, 0.25]), top=1).names == ("1",)
