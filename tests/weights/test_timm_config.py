"""timm's ``config.json``: what it states comes back as it was, and what is not kept is said."""

import json

import pytest
from given_weights import random_resnet9

from efficientnet_pod.cli.main import main
from efficientnet_pod.errors import UserError
from efficientnet_pod.evaluate.overrides import config_for
from efficientnet_pod.evaluate.predictor import Predictor
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.weights.folder import write_folder
from efficientnet_pod.weights.open import open_weights


@pytest.fixture
def folder(tmp_path):
    """A folder as another program writes it, and a function that changes what it states."""
    write_folder(random_resnet9(), tmp_path / "foreign")
    file = tmp_path / "foreign" / "config.json"
    about = json.loads(file.read_text())
    del about["efficientnet_pod"], about["label_names"]

    def change(pretrained=(), **fields):
        changed = about | fields | {"pretrained_cfg": about["pretrained_cfg"] | dict(pretrained)}
        file.write_text(json.dumps(changed))
        return str(tmp_path / "foreign")

    return change


CENTRAL = {"crop_mode": "center"}


@pytest.mark.parametrize(
    ("stated", "seen"),
    [
        ({"crop_pct": 0.922, "interpolation": "bicubic"}, ("centre", 0.922, "reference")),
        ({"crop_pct": 1.0, "interpolation": "bilinear"}, ("centre", 1.0, "fast")),
        ({"crop_pct": 1.0, "crop_mode": "squash"}, ("whole", 1.0, "reference")),
        ({"crop_pct": 0.9, "crop_mode": "squash"}, ("stretched", 0.9, "reference")),
        ({"crop_pct": 1}, ("centre", 1.0, "reference")),
    ],
)
def test_the_view_is_carried_from_import_to_evaluation_and_back(stated, seen, folder, tmp_path, capsys):
    source = folder(CENTRAL | stated)
    assert main(["import", source, f"--out={tmp_path / 'w'}"]) == 0
    printed = capsys.readouterr()
    sides = {"centre": "the shorter side", "stretched": "both sides, stretched"}
    shown = "the whole image"
    if seen[0] in sides:
        shown = f"the central {100 * seen[1]:.4g} % of {sides[seen[0]]}"
    assert f"sees 32 × 32 pixels of {shown}" in printed.out and printed.err == ""
    trained = open_weights(str(tmp_path / "w"))
    assert (trained.view, trained.eval_crop_share, trained.resize) == seen
    data = read_recipe(config_for(trained)).data
    predicted = Predictor(trained).preprocessing
    for how in (data, predicted):
        assert (how.eval_crop_share, how.resize) == seen[1:]
        assert how.eval_crop == ("stretched" if seen[0] == "stretched" else "square")
        assert (how.augment == "inception_crop") == (seen[0] != "whole")
    assert main(["export", str(tmp_path / "w"), f"--out={tmp_path / 'back'}"]) == 0
    written = json.loads((tmp_path / "back" / "config.json").read_text())["pretrained_cfg"]
    assert {name: written[name] for name in stated} == stated
    assert f"32 × 32 pixels of {shown}" in (tmp_path / "back" / "README.md").read_text()


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        (
            {"interpolation": "lanczos"},
            "states interpolation='lanczos', which is not kept: images are resized",
        ),
        (
            {"crop_mode": "border"},
            "states crop_mode='border', which is not kept: images are cropped centrally",
        ),
        (
            {"input_size": [3, 48, 32]},
            "input_size=[3, 48, 32], which is not kept: images are square here, of 32",
        ),
        ({"test_input_size": [3, 64, 64]}, "test_input_size=[3, 64, 64], which is not kept"),
        ({"test_crop_pct": 0.95}, "test_crop_pct=0.95, which is not kept"),
    ],
)
def test_what_is_not_kept_is_said_in_one_line(stated, said, folder, tmp_path, capsys):
    assert main(["import", folder(CENTRAL | stated), f"--out={tmp_path / 'w'}"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("warning: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"crop_pct": 0}, "states crop_pct=0; it must be above 0 and at most 1; mend it"),
        ({"crop_pct": "0.9"}, "states crop_pct='0.9'"),
        ({"crop_pct": float("nan")}, "states crop_pct=nan"),
        ({"mean": [0.5, 0.5]}, "states mean=.0.5, 0.5.; it must be three numbers"),
        ({"std": [0.5, 0.5, 0]}, "standard deviations are above 0"),
        ({"input_size": [3, 32.5, 32.5]}, "pixels are whole numbers"),
    ],
)
def test_impossible_numbers_are_refused(stated, said, folder):
    with pytest.raises(UserError, match=said):
        open_weights(folder(stated))


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["cat", "cow", "dog"], ("cat", "cow", "dog")),
        ({"0": "cat", "1": "cow", "2": "dog"}, ("cat", "cow", "dog")),
        ({"cow": 1, "dog": 2, "cat": 0}, ("cat", "cow", "dog")),
        (["cat", "cow"], "there are 2 for 3 classes"),
        (["cat", "cow", "cat"], "classes 0 and 2, 'cat' and 'cat', have the same name"),
        (["caf\xe9", "cafe\u0301", "dog"], "one name in two spellings of Unicode"),
        (["cat", None, "dog"], "they are no list of names"),
        ("cat", "they are no list of names"),
        (["cat", "caf\udce9", "dog"], "is not UTF-8"),
    ],
)
def test_class_names_are_kept_or_it_is_said_why_not(names, kept, folder, tmp_path, capsys):
    source = folder(label_names=names)
    assert main(["import", source, f"--out={tmp_path / 'w'}"]) == 0
    error = capsys.readouterr().err
    if isinstance(kept, tuple):
        assert open_weights(str(tmp_path / "w")).class_names == kept and error == ""
        return
    assert (
        f"the class names of '{source}' are not kept: " in error and kept in error and error.count("\n") == 1
    )
    assert open_weights(str(tmp_path / "w")).class_names == ()
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    assert main(["import", source, f"--class-names={tmp_path / 'names.txt'}", f"--out={tmp_path / 'w'}"]) == 0
    assert open_weights(str(tmp_path / "w")).class_names == ("a", "b", "c") and capsys.readouterr().err == ""


def test_arguments_of_timms_network_are_followed_or_said(folder):
    trained = open_weights(folder(model_args={"bn_eps": 1e-5, "act_layer": "relu"}))
    assert trained.bn_epsilon == 1e-5
    assert len(trained.warnings) == 1 and "act_layer='relu', which is not followed" in trained.warnings[0]


def test_one_table_of_timms_first_versions_is_read(folder, tmp_path):
    source = folder({"crop_pct": 0.9} | CENTRAL)
    file = tmp_path / "foreign" / "config.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about.pop("pretrained_cfg") | {"labels": ["a", "b", "c"]}))
    trained = open_weights(source)
    assert (trained.eval_crop_share, trained.class_names) == (0.9, ("a", "b", "c"))
