"""``evaluate`` of weights that come without a recipe: what it prints, writes and refuses."""

import json

import numpy as np
import pytest
from given_weights import ANIMALS as NAMES
from given_weights import random_resnet9 as random_weights
from photos import write_folder

from efficientnet_pod.cli.main import main
from efficientnet_pod.data.sources.opening import open_source
from efficientnet_pod.errors import UserError
from efficientnet_pod.evaluate import overrides
from efficientnet_pod.evaluate.overrides import Overrides, compare_classes, config_for
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


def test_classes_must_be_the_same_ones_in_the_same_order():
    def compare(names, image_names):
        return compare_classes(3, names, image_names, weights="w", data="d")

    assert compare(NAMES, NAMES) is None and compare((), NAMES) is None
    with pytest.raises(
        UserError, match="class 1 is 'cow' in 'w' and 'dog' in 'd': the same classes in another"
    ):
        compare(NAMES, ("cat", "dog", "cow"))
    with pytest.raises(UserError, match="'w' tells 3 classes apart and 'd' has 2"):
        compare(NAMES, ("cat", "dog"))
    said = "class 2 is 'dog' in 'w' and 'hound' in 'd'; 1 of 3 names differ; labels are compared by number"
    assert compare(NAMES, ("cat", "cow", "hound")) == said
    tfds = (
        "n01440764",
        "n01443537",
        "n01484850",
    )  # ImageNet's first, by the numbers that WordNet has for them
    assert compare(imagenet_names()[:3], tfds) is None


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
