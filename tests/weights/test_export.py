"""Exported weights: the same bits on the way back, the same logits elsewhere, a card that says what it is."""

import dataclasses
import errno
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from given_weights import random_weights, with_statistics
from same_logits import assert_same_logits
from same_tensors import same
from tiny import build_tiny_networks
from whole_runs import fine_tuning_config as config

from efficientnet_pod.cli.main import main
from efficientnet_pod.errors import UserError
from efficientnet_pod.train.train import train_and_evaluate
from efficientnet_pod.weights import convert
from efficientnet_pod.weights.export import FORMATS, export
from efficientnet_pod.weights.formats.stablehlo import exported
from efficientnet_pod.weights.open import open_weights
from efficientnet_pod.weights.trained import Trained

SIZE = 64


@pytest.fixture(scope="module")
def weights() -> Trained:
    given = with_statistics(random_weights("b0", 5, kernel_noise=0.0), SIZE)
    classes = ("a", "Bär", "猫", "d", "e")
    return Trained("b0", given.variables, classes, SIZE, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(2).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def logits(weights, images):
    return np.asarray(
        jax.jit(lambda x: weights.model.apply(weights.variables, weights.normalise(x), train=False))(images)
    )


def test_there_and_back_is_exact_and_again_the_same_bytes(weights, tmp_path):
    for name in ("once", "twice"):
        export(weights, tmp_path / name, ["safetensors"])
    found = open_weights(str(tmp_path / "once"))
    assert same(found.tensors, weights.tensors)
    assert (found.class_names, found.mean_rgb) == (weights.class_names, weights.mean_rgb)
    export(found, tmp_path / "back", ["safetensors"])
    for file in ("model.safetensors", "config.json"):
        contents = {(tmp_path / name / file).read_bytes() for name in ("once", "twice", "back")}
        assert len(contents) == 1, file


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_keras_computes_the_same(weights, images, logits, tmp_path):
    keras = pytest.importorskip("keras")
    export(weights, tmp_path / "w", ["keras"])
    options = {"weights": None, "classes": 5, "classifier_activation": None, "input_shape": (SIZE, SIZE, 3)}
    model = keras.applications.EfficientNetB0(**options)
    model.load_weights(tmp_path / "w" / "model.weights.h5")
    assert_same_logits(model(images.astype(np.float32), training=False), logits)
    assert same(open_weights(str(tmp_path / "w" / "model.weights.h5")).tensors, weights.tensors)


def test_the_program_takes_any_batch_on_any_platform(weights, images, logits, tmp_path):
    export(weights, tmp_path / "w", ["stablehlo"])
    program = jax.export.deserialize(bytearray((tmp_path / "w" / "model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "tpu", "cuda")
    assert_same_logits(program.call(images), logits, of_largest=1e-5)
    np.testing.assert_allclose(program.call(images[:1]), logits[:1], atol=1e-5 * np.abs(logits).max())


def test_the_program_of_a_residual_network_too():
    program = exported(random_weights("resnet50", 3))
    assert str(program.in_avals[0].shape[0]) == "batch" and program.out_avals[0].shape[1] == 3


def test_a_program_names_no_files_of_this_machine(weights, logits):
    program = bytes(exported(weights).serialize())  # the same layers were compiled before, for the logits
    assert program == bytes(exported(weights).serialize())
    assert b"efficientnet_pod/" not in program and b"site-packages" not in program


def card_of(folder: Path) -> tuple[dict, str]:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


@pytest.fixture(scope="module")
def run_of_digits(tmp_path_factory):
    """Returns the workdir of a tiny run, and its summary."""
    path = tmp_path_factory.mktemp("runs") / "clinic" / "run"
    with pytest.MonkeyPatch.context() as patch:
        build_tiny_networks(patch)
        return path, train_and_evaluate(config(), path)


@pytest.fixture
def tiny(monkeypatch):
    build_tiny_networks(monkeypatch)
    convert._shapes.cache_clear()
    yield
    convert._shapes.cache_clear()


def test_a_card_of_a_run_says_what_it_was(run_of_digits, tiny, tmp_path, capsys):
    run, summary = run_of_digits
    assert main(["export", str(run), f"--out={tmp_path / 'Ziffern'}"]) == 0
    out = capsys.readouterr().out
    assert "model.safetensors" in out and "README.md" in out
    about, text = card_of(tmp_path / "Ziffern")
    [result] = about["model-index"][0]["results"]
    assert about["model-index"][0]["name"] == "Ziffern" and about["datasets"] == ["digits"]
    assert about["license"] == "unknown" and "base_model" not in about
    assert result["metrics"][0]["value"] == pytest.approx(100 * summary["best"]["top1"], abs=1e-3)
    for said in (
        "8 × cpu",
        "Device-hours",
        "Price",
        "0.485, 0.456, 0.406",
        '"optimizer.name": "lars"',
        "step 6",
    ):
        assert said in text, said
    assert "\n\n\n" not in text
    settings = json.loads((tmp_path / "Ziffern" / "config.json").read_text())
    assert settings["label_names"] == list("0123456789")
    assert settings["pretrained_cfg"]["crop_mode"] == "squash"


def test_private_paths_do_not_leave_the_machine(run_of_digits, tiny, tmp_path):
    run = tmp_path / "clinic" / "run"
    shutil.copytree(run_of_digits[0], run)
    for file, change in {
        "config.json": {
            "data": {"name": f"folder:{tmp_path}/patients/scans", "data_dir": f"{tmp_path}/secret"},
            "init": {"weights": f"{tmp_path}/clinic/old/weights"},
        },
        "data.json": {"name": f"folder:{tmp_path}/patients/scans"},
        "initial.json": {"source": "hf:me/base", "base_model": "me/base"},
    }.items():
        table = json.loads((run / file).read_text()) if (run / file).exists() else {}
        changed = {k: table[k] | v if isinstance(v, dict) else v for k, v in change.items()}
        (run / file).write_text(json.dumps(table | changed))
    given = ["--license=mit", "--dataset-name=me/insects"]
    assert main(["export", str(run), f"--out={tmp_path / 'out'}", "--to=stablehlo", *given]) == 0
    assert main(["export", str(run), f"--out={tmp_path / 'plain'}", "--base-model=x/y"]) == 0
    (tmp_path / "secret").mkdir()
    shutil.copy(tmp_path / "out" / "model.safetensors", tmp_path / "secret" / "loose.safetensors")
    assert main(["import", f"{tmp_path}/secret/loose.safetensors", f"--out={tmp_path / 'in'}"]) == 0
    for folder in ("out", "plain", "in"):
        for file in (tmp_path / folder).iterdir():
            for private in (str(tmp_path), "patients", "scans", "clinic", "secret"):
                assert private.encode() not in file.read_bytes(), (file, private)
    about, text = card_of(tmp_path / "out")
    assert (about["license"], about["datasets"], about["base_model"]) == ("mit", ["me/insects"], "me/base")
    assert about["model-index"][0]["results"][0]["dataset"] == {"name": "me/insects", "type": "me/insects"}
    assert '"data.name": "me/insects"' in text and 'ep.load("out")' in text
    about, text = card_of(tmp_path / "plain")
    assert about["license"] == "unknown" and "datasets" not in about and about["base_model"] == "x/y"
    assert about["model-index"][0]["results"][0]["dataset"] == {
        "name": "a folder of images",
        "type": "imagefolder",
    }
    assert '"init.weights": "weights"' in text and "on a folder of images" in text
    origin = json.loads((tmp_path / "in" / "config.json").read_text())["efficientnet_pod"]["origin"]
    assert origin["source"] == "loose.safetensors"


def test_weights_of_the_hub_keep_their_name_and_licence(weights, tmp_path):
    origin = {"source": "hf:timm/b0@main", "base_model": "timm/b0", "license": "apache-2.0"}
    export(dataclasses.replace(weights, origin=origin), tmp_path / "once", ["safetensors"])
    export(open_weights(str(tmp_path / "once")), tmp_path / "twice", ["safetensors"])
    about, text = card_of(tmp_path / "twice")
    assert (about["license"], about["base_model"]) == ("apache-2.0", "timm/b0") and "hf:timm/b0@main" in text


def test_a_card_of_foreign_weights_says_where_they_are_from(weights, tmp_path):
    export(weights, tmp_path / "w", ["safetensors", "keras", "stablehlo"])
    about, text = card_of(tmp_path / "w")
    assert "model-index" not in about and "## Recipe" not in text
    for said in ("timm.create_model", "load_weights", "export.deserialize", "0.4, 0.5, 0.6", "label_names"):
        assert said in text, said


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["w", "--to=keras,savedmodel"], "--to=savedmodel is unknown; known: keras, onnx"),
        (["w", "--to=kerras"], "--to=kerras is unknown; did you mean 'keras'?"),
        ([], "export needs one workdir, folder or file of weights"),
        (["nowhere"], "'nowhere' does not exist"),
    ],
)
def test_mistakes_are_one_line(arguments, said, tmp_path, capsys):
    assert main(["export", *arguments, f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_a_folder_on_another_machine_is_refused(capsys):
    assert main(["export", "w", "--out=gs://bucket/w"]) == 2
    assert "--out=gs://bucket/w is not on this machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    "network, said", [("resnet50", "has no ResNet-50"), ("lite0", "has no EfficientNet-Lite0")]
)
def test_what_cannot_be_written_leaves_nothing_behind(network, said, tmp_path):
    with pytest.raises(UserError, match=said):
        export(random_weights(network), tmp_path / "out", ["safetensors", "keras"])
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_earlier_weights_stays_beside_the_new_ones(weights, tmp_path):
    export(weights, tmp_path, ["keras"])
    (tmp_path / "mine.txt").write_text("kept")
    export(weights, tmp_path, ["safetensors"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "mine.txt"}


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_workdir_and_the_folders_of_others_are_not_written_over(weights, file, tmp_path):
    (tmp_path / "config.json").write_text("{}")  # a run's recipe, or another program's
    (tmp_path / file).write_text("{}")
    with pytest.raises(UserError, match="holds other files"):
        export(weights, tmp_path, ["safetensors"])
    assert (tmp_path / "config.json").read_text() == "{}"


def test_timm_is_named_only_where_it_computes_the_same(tmp_path):
    given = random_weights("resnet50", 3)
    export(dataclasses.replace(given, settings={"bn_epsilon": 1e-3}), tmp_path / "w", ["safetensors"])
    assert "architecture" not in json.loads((tmp_path / "w" / "config.json").read_text())
    assert "import timm" not in (tmp_path / "w" / "README.md").read_text()
    found = open_weights(str(tmp_path / "w"))
    assert (found.network, found.bn_epsilon) == ("resnet50", 1e-3)


def test_a_full_disk_is_one_line_and_leaves_the_old_export(weights, tmp_path, monkeypatch):
    export(weights, tmp_path / "w", ["safetensors"])
    before = (tmp_path / "w" / "model.safetensors").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("efficientnet_pod.weights.export.write_keras", full)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        export(weights, tmp_path / "w", ["keras"])
    assert (tmp_path / "w" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_other_files_are_not_written_over(weights, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        export(weights, tmp_path, ["safetensors"])
    assert (tmp_path / "README.md").read_text() == "mine"


def test_the_help_names_every_format(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert f"model.safetensors: {', '.join(FORMATS)}." in " ".join(capsys.readouterr().out.split())
