"""Fine-tuning from Python: the run of the command, also after Ctrl-C; mistakes are one line."""

import json
import signal
from pathlib import Path

import pytest
from photos import write_folder
from tiny import build_tiny_networks

import efficientnet_pod as ep
from efficientnet_pod.cli.main import main
from efficientnet_pod.errors import UserError
from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.recipe import named
from efficientnet_pod.train.log import TrainingLog
from efficientnet_pod.weights.folder import write_folder as write_weights
from efficientnet_pod.weights.trained import Trained, untrained

FIELDS = {"epochs": 2, "global_batch": 8, "data.image_size": 32, "log_steps": 1}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """weights/b0, of one block and other pixels than ImageNet's, and photos/, in the current folder."""
    build_tiny_networks(monkeypatch)
    monkeypatch.chdir(tmp_path)
    variables = initial_variables(untrained("b0", 3), 32, seed=0)
    trained = Trained("b0", variables, ("cat", "dog", "horse"), 32, (0.5,) * 3, (0.5,) * 3)
    write_weights(trained, tmp_path / "weights/b0")
    write_folder(tmp_path / "photos", {"cat": 20, "dog": 20})


def read(path):
    return json.loads(path.read_text())


def test_it_is_the_run_of_the_command_also_after_ctrl_c(weights, tmp_path, monkeypatch, capsys):
    recipe = "--config=finetune:b0"
    words = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    words += [f"--config.data.{name}=(0.5, 0.5, 0.5)" for name in ("mean_rgb", "stddev_rgb")]
    words += ["--config.init.weights=weights/b0", "--config.data.name=folder:photos"]
    assert main(["train", recipe, "--workdir=runs/command", "--config.cpu_replicas=8", *words]) == 0
    capsys.readouterr()

    take, handler = TrainingLog.take, signal.getsignal(signal.SIGINT)

    def interrupted(log, step, outcome):
        take(log, step, outcome)
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "take", interrupted)
        with pytest.raises(KeyboardInterrupt, match="the same call goes on from what is saved"):
            ep.fine_tune("photos", weights="weights/b0", workdir=tmp_path / "runs/python", **FIELDS)
    assert signal.getsignal(signal.SIGINT) == handler
    said = capsys.readouterr()
    assert "SIGINT: saving a checkpoint after this step; a second one gives that up" in said.err
    assert "starts from weights/b0" in said.out

    tuned = ep.fine_tune("photos", weights="weights/b0", workdir=tmp_path / "runs/python", **FIELDS)
    by_command = read(tmp_path / "runs/command/summary.json")
    assert tuned.summary["state_digest"] == by_command["state_digest"]
    assert (tuned.top1, tuned.best_step) == (by_command["best"]["top1"], by_command["best"]["step"])
    assert read(tmp_path / "runs/python/config.json") == read(tmp_path / "runs/command/config.json")
    assert repr(tuned) == (
        f"FineTuned({tmp_path}/runs/python: top-1 {tuned.top1:.2%} of 4 images at step {tuned.best_step})"
    )
    again = ep.fine_tune("photos", weights="weights/b0", workdir=tmp_path / "runs/python", **FIELDS)
    assert again == tuned  # a finished run is left alone

    predictor = tuned.predictor()
    assert predictor.trained.class_names == ("cat", "dog")
    assert predictor.trained.origin["step"] == tuned.best_step
    evaluation = ep.evaluate(tuned.workdir)
    assert (evaluation.top1, evaluation.images) == (tuned.top1, 4)
    assert repr(evaluation).startswith(f"Evaluation(EfficientNet-B0, {tuned.workdir}: top-1 ")
    evaluation.print()
    assert f"top-1 {tuned.top1:.2%}" in capsys.readouterr().out


def test_a_run_on_other_cpu_devices_is_evaluated_on_those_that_there_are(weights, capsys):
    """In a notebook JAX runs already, with as many devices as its first use asked for."""
    tuned = ep.fine_tune("photos", weights="weights/b0", workdir="run", **FIELDS | {"epochs": 1})
    config = read(stored := Path("run/config.json"))
    stored.write_text(json.dumps(config | {"cpu_replicas": 2, "replicas": 0, "bn_group_size": 2}))
    evaluation = ep.evaluate("run")
    assert (evaluation.top1, evaluation.settings["replicas"]) == (tuned.top1, 8)


MISTAKES = {
    "unknown": ({"epoch": 5}, "config has no field 'epoch'; did you mean 'epochs'?"),
    "unknown below": ({"optimizer.sgd.lr": 0.1}, "config.optimizer.sgd has no field 'lr'; known: "),
    "range": ({"epochs": -1.0}, "config.epochs=-1.0 must be "),
    "type": ({"epochs": "five"}, "config.epochs='five' must be "),
    "table": ({"data": "folder:x"}, "config.data='folder:x' must be a table; set one of its fields"),
    "devices": ({"cpu_replicas": 3}, "3 CPU replicas were asked for, but JAX already runs with 8"),
}


@pytest.mark.parametrize("fields, message", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_as_the_commands(weights, fields, message):
    with pytest.raises(UserError) as error:
        ep.fine_tune("photos", weights="weights/b0", workdir="runs/x", **fields)
    assert str(error.value).startswith(message)


def test_missing_weights_and_photos_are_named(weights, tmp_path):
    with pytest.raises(UserError, match="'weights/b1' does not exist; weights are"):
        ep.fine_tune("photos", weights="weights/b1", workdir="runs/x")
    with pytest.raises(UserError, match="not/there"):
        ep.fine_tune("not/there", weights="weights/b0", workdir="runs/x")
    assert not (tmp_path / "runs").exists()


def test_a_network_without_a_recipe_is_named():
    with pytest.raises(UserError, match=r"finetune: the recipe has no ':b9'; .*known: b0"):
        named.config_of("finetune", "b9")
