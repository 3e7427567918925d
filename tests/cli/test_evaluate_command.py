"""``evaluate`` of weights that come without a recipe: what it prints, writes and refuses."""

import json
import re

import numpy as np
import pytest
from given_weights import ANIMALS as NAMES
from given_weights import random_resnet9 as random_weights
from photos import write_folder

from efficientnet_pod.cli.main import main
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.errors import UserError
from efficientnet_pod.evaluate import overrides
from efficientnet_pod.evaluate.overrides import Overrides, config_for, labels_by_name
from efficientnet_pod.evaluate.predictor import Predictor
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.weights.classes import imagenet_names
from efficientnet_pod.weights.folder import write_folder as write_weights
from efficientnet_pod.weights.trained import CENTRE, WHOLE


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "resnet9"
    trained = random_weights(
        mean_rgb=(0.4, 0.5, 0.6), stddev_rgb=(0.3, 0.2, 0.1), origin={"source": "a test"}
    )
    write_weights(trained, folder)
    return folder, trained


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("photos"), {"cat": 12, "cow": 7, "dog": 4})


@pytest.fixture(autouse=True)
def _as_many_replicas_as_the_tests_have(monkeypatch):
    monkeypatch.setattr(overrides, "CPU_REPLICAS", 8)


def test_a_folder_without_splits_is_evaluated_whole_and_as_predict_sees_it(weights, photos, tmp_path, capsys):
    folder, trained = weights
    file = tmp_path / "all.json"
    assert main(["evaluate", str(folder), f"--data=folder:{photos}", "--split=all", f"--json={file}"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("top-1 ") and "of 23 images" in printed.out and printed.err == ""
    assert all(word in printed.out for word in ("ResNet-9", "least accurate classes", "most confused"))
    found = json.loads(file.read_text())
    assert [each["images"] for each in found["per_class"]] == [12, 7, 4]
    assert found["weights"]["origin"] == {"source": "a test"} and found["settings"]["replicas"] == 8
    files = sorted(photos.rglob("*.jpg"))
    predictions = dict(Predictor(trained, batch=5).of_files(list(map(str, files))))
    hits = [
        np.argmax(p) == NAMES.index(path.parent.name)
        for path, p in zip(files, predictions.values(), strict=True)
    ]
    assert found["top1"] == pytest.approx(np.mean(hits))
    of_label = [p[NAMES.index(path.parent.name)] for path, p in zip(files, predictions.values(), strict=True)]
    assert found["loss"] == pytest.approx(-np.mean(np.log(of_label)), rel=1e-5)
    confidence = np.mean([max(p) for p in predictions.values()])
    binned = sum(each["images"] * each["confidence"] for each in found["calibration"] if each["images"])
    assert binned / 23 == pytest.approx(confidence, rel=1e-5)


def test_without_a_split_a_tenth_is_evaluated_and_that_is_said(weights, photos, capsys):
    assert main(["evaluate", str(weights[0]), f"--data=folder:{photos}", "--flip"]) == 0
    printed = capsys.readouterr()
    assert "of 3 images" in printed.out and "each and its mirror image" in printed.out
    assert "a fixed tenth of each class is evaluated, 3 images; --split=all takes all of them" in printed.err


def test_one_split_folder_is_enough(tmp_path):
    root = write_folder(tmp_path, {"val/cat": 2, "val/dog": 1})
    source = open_source(f"folder:{root}", train_split="val", eval_split="val")
    assert (source.num_train, source.num_eval) == (3, 3)
    whole = open_source(f"folder:{root}/val", train_split="all", eval_split="all")
    assert (whole.num_train, whole.num_eval, whole.class_names) == (3, 3, ("cat", "dog"))
    with pytest.raises(UserError, match="val' has no images.*if 'val' is a split, name it as one"):
        open_source(f"folder:{root}", train_split="validation", eval_split="validation")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "evaluate needs the path of weights, or --workdir=RUN"),
        (["W", "X"], "not 2 of them: "),
        (["W"], "comes without a recipe that names images; add --data, e.g. --data=folder:/photos"),
        (["W", "--data=digits"], "tells 3 classes apart and 'digits' has 10"),
        (
            ["W", "--data=digits", "--split=train"],
            "digits evaluates its 360 held-out images; leave out --split",
        ),
        (["W", "--data=folder:P", "--batch=12"], "--batch=12 is not a multiple of the 8 replicas"),
        (["W", "--data=digits", "--image-size=7"], "image-size=7 is too small for ResNet-9"),
        (["W", "--data=digits", "--image-size=0"], "--image_size=0: it must be a whole number, at least 1"),
        (["W", "--data=digits", "--batch=nan"], "--batch=nan: it must be a whole number, at least 1"),
        (["not-there", "--data=digits"], "'not-there' does not exist"),
        (["W", "--json=/not/there/x.json"], "--json=/not/there/x.json is in a folder that does not exist"),
    ],
)
def test_mistakes_are_one_line(weights, photos, capsys, arguments, words):
    places = {"W": str(weights[0]), "--data=folder:P": f"--data=folder:{photos}"}
    assert main(["evaluate", *(places.get(word, word) for word in arguments)]) == 2
    error = capsys.readouterr().err
    last = error.rstrip().rpartition("\n")[2]
    assert last.startswith("efficientnet-pod: ") and words in last
    assert "Traceback" not in error


NUMBERED = ("n01440764", "n01443537", "n01484850")  # ImageNet's first, by WordNet's numbers


@pytest.mark.parametrize(
    ("names", "image_names", "labels"),
    [
        (NAMES, NAMES, (0, 1, 2)),
        (NAMES, ("cat", "dog"), (0, 2)),
        (NAMES, ("dog",), (2,)),
        (NAMES, ("cat", "dog", "cow"), (0, 2, 1)),
        (("a", "A", "Straße"), ("A", "Straße", "a"), (1, 2, 0)),
        (("tea", "caf\xe9", "milk"), ("cafe\u0301", "milk"), (1, 2)),
        (imagenet_names()[:3], NUMBERED[1:], (1, 2)),
        (NUMBERED, NUMBERED[::-1], (2, 1, 0)),
        (("a", "tench", "z"), ("a", "n01440764"), (0, 1)),
        (("0", "1", "2"), ("1", "2"), (1, 2)),
        (("a", "crane", "crane"), ("a", "crane", "crane"), (0, 1, 2)),
        ((), NAMES, None),
    ],
)
def test_classes_are_matched_by_name_where_both_sides_name_them(names, image_names, labels):
    assert labels_by_name(3, names, image_names, weights="w", data="d") == (labels, None)


def test_mere_numbers_are_compared_by_number_and_that_is_said():
    found = labels_by_name(3, ("0", "1", "2"), NAMES, weights="w", data="d")
    said = "class 0 is '0' in 'w' and 'cat' in 'd'; 3 of 3 names differ; labels are compared by number"
    assert found == (None, said)
    assert labels_by_name(3, NAMES, ("1", "2", "3"), weights="w", data="d")[0] is None


@pytest.mark.parametrize(
    ("names", "image_names", "words"),
    [
        (NAMES, ("cat", "cow", "hound"), "class 'hound' of 'd' is none of the 3 classes of 'w'; name images"),
        (NAMES, ("cat", "dog", "emu", "gnu"), "class 'emu' of 'd' is none of the 3 classes"),
        (NAMES, ("Cat", "dog"), "class 'Cat' of 'd' is none of the 3 classes of 'w', which has 'cat'"),
        (("Straße", "b", "c"), ("strasse", "b"), "class 'strasse' of 'd'"),
        (("0", "1", "plus"), ("0", "1", "minus"), "class 'minus' of 'd'"),
        ((), ("cat", "dog"), "'w' tells 3 classes apart and 'd' has 2"),
        (NAMES, ("1", "2"), "'w' tells 3 classes apart and 'd' has 2"),
    ],
)
def test_a_class_that_the_weights_do_not_know_is_refused(names, image_names, words):
    with pytest.raises(UserError, match=re.escape(words)):
        labels_by_name(3, names, image_names, weights="w", data="d")


def test_a_part_of_the_classes_is_evaluated_among_all_of_them(weights, tmp_path, capsys):
    folder, trained = weights
    photos = write_folder(tmp_path / "photos", {"cow": 5, "dog": 6})
    file = tmp_path / "all.json"
    assert main(["evaluate", str(folder), f"--data=folder:{photos}", "--split=all", f"--json={file}"]) == 0
    printed = capsys.readouterr()
    assert "2 of the weights' 3, matched by name; all 3 compete" in printed.out and printed.err == ""
    found = json.loads(file.read_text())
    assert [(row["name"], row["images"]) for row in found["per_class"]] == [
        ("cat", 0),
        ("cow", 5),
        ("dog", 6),
    ]
    assert (found["settings"]["matched_by"], found["settings"]["image_classes"]) == ("name", 2)
    files = sorted(photos.rglob("*.jpg"))
    of_files = Predictor(trained).of_files(list(map(str, files)))
    hits = [
        np.argmax(p) == NAMES.index(path.parent.name) for path, (_, p) in zip(files, of_files, strict=True)
    ]
    assert found["top1"] == pytest.approx(np.mean(hits))
    strange = write_folder(tmp_path / "strange", {"cow": 2, "emu": 2})
    assert main(["evaluate", str(folder), f"--data=folder:{strange}", "--split=all"]) == 2
    error = capsys.readouterr().err
    assert (
        f"class 'emu' of 'folder:{strange}' is none of the 3 classes of" in error and error.count("\n") == 1
    )


def test_a_recipe_of_weights_has_their_network_size_view_and_constants():
    trained = random_weights(
        view=CENTRE, resize="fast", settings={"bn_epsilon": 1e-5}, mean_rgb=(0.1, 0.2, 0.3)
    )
    chosen = Overrides(data="folder:/x", split="test", batch=64, flip=True)
    recipe = read_recipe(chosen.applied(config_for(trained)))
    assert (recipe.model.name, recipe.model.bn_epsilon, recipe.eval_flip) == ("resnet9", 1e-5, True)
    data = recipe.data
    assert (data.augment, data.resize, data.image_size) == ("inception_crop", "fast", 32)
    assert (data.mean_rgb, data.train_split, data.eval_split) == ((0.1, 0.2, 0.3), "test", "test")
    assert recipe.global_batch == 64
    whole = read_recipe(Overrides(image_size=48).applied(config_for(random_weights(view=WHOLE))))
    assert (whole.data.augment, whole.data.image_size) == ("pad_crop_flip", 48)
