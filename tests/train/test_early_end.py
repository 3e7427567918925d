"""Runs that end before their last epoch: where, what they leave, and that a kill changes nothing."""

import json
import shutil

import pytest
from recipes import load
from tiny import build_tiny_networks

from efficientnet_pod.cli.main import main
from efficientnet_pod.recipe.plan import resolve
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.metrics import Rates
from efficientnet_pod.train import loop
from efficientnet_pod.train.early_end import ended_by
from efficientnet_pod.train.saves import Position
from efficientnet_pod.train.train import train_and_evaluate
from efficientnet_pod.workdir.metrics_log import read_metrics
from efficientnet_pod.workdir.trackers import Trackers
from efficientnet_pod.workdir.workdir import Workdir


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    build_tiny_networks(monkeypatch)


def config(epochs=2.0, **stop):
    """Twelve steps an epoch, with an evaluation in the middle of each and at its end."""
    short = {"global_batch": 120, "epochs": epochs, "eval_epochs": 0.5, "log_steps": 6, "ema_decay": 0.5}
    config = load("digits.py") | short
    config["schedule"]["warmup_epochs"] = 0.25
    config["model"]["bn_momentum"] = 0.5
    config["stop"] |= stop
    return config


def plan_of(**stop):
    numbers = {"num_train": 1200, "num_eval": 360, "num_classes": 10}  # ten steps an epoch
    recipe = read_recipe(config(**stop))
    return resolve(recipe, **numbers, num_devices=8, num_hosts=1, default_dtype="float32")


@pytest.mark.parametrize(
    ("stop", "step", "best_top1", "best_step", "end"),
    [
        ({}, 5, 0.9, 5, None),
        ({"at_top1": 0.9}, 5, 0.9, 5, "at_top1"),
        ({"at_top1": 0.9}, 5, 0.8999, 5, None),
        ({"at_top1": 0.9}, 20, 0.95, 20, "at_top1"),  # at the last step too: it was reached
        ({"at_top1": 1e-6}, 0, 0.0, 0, None),  # nothing has been evaluated
        ({"at_top1": 0.9}, 7, 0.9, 5, None),  # between two evaluations
        ({"patience_epochs": 1.0}, 15, 0.5, 5, "patience_epochs"),
        ({"patience_epochs": 1.0}, 15, 0.5, 10, None),
        ({"patience_epochs": 1.5}, 15, 0.5, 5, None),
        ({"patience_epochs": 0.1}, 20, 0.5, 5, "epochs"),  # it would have ended here anyway
        ({"patience_epochs": 0.1, "at_top1": 0.6}, 10, 0.5, 5, "patience_epochs"),
    ],
)
def test_the_end_follows_from_the_evaluations_so_far(stop, step, best_top1, best_step, end):
    assert ended_by(plan_of(**stop), Position(step, 0, 0, best_top1, best_step)) == end


def test_the_first_of_equal_evaluations_is_the_best():
    position = Position(5, rewinds=2).evaluated(0.0)
    assert (position.best_top1, position.best_step, position.rewinds) == (0.0, 5, 0)
    for step, top1, best in ((10, 0.5, 10), (15, 0.5, 10), (20, 0.4, 10), (25, 0.6, 25)):
        position = Position(step, 0, 0, position.best_top1, position.best_step).evaluated(top1)
        assert position.best_step == best


def journal_of(workdir):
    return [json.loads(line) for line in (workdir / "journal.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run of two epochs that is good enough after half of one: a constant answer is right for a tenth."""
    patch = pytest.MonkeyPatch()
    build_tiny_networks(patch)
    workdir = tmp_path_factory.mktemp("early") / "run"
    summary = train_and_evaluate(config(at_top1=0.05), str(workdir))
    patch.undo()
    return workdir, summary


def test_a_run_that_is_good_enough_ends_and_says_why(ended):
    workdir, summary = ended
    assert (summary["ended_by"], summary["final"]["step"]) == ("at_top1", 6)
    assert summary["final"]["top1"] >= 0.05
    assert max(row["step"] for row in read_metrics(Workdir(workdir))) == 6
    last = journal_of(workdir)[-1]
    assert (last["kind"], last["by"], last["step"]) == ("end", "at_top1", 6)
    page = (workdir / "report.html").read_text()
    assert "Complete after 6 of 24 steps: the top-1 of config.stop.at_top1 was reached." in page
    assert json.loads((workdir / "predictions.json").read_text())["step"] == 6  # with accuracy by class


def test_started_again_it_says_so_and_trains_nothing(ended, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(ended[0], workdir)
    before = {file: file.read_bytes() for file in workdir.rglob("*.json*")}
    assert main(["train", f"--workdir={workdir}"]) == 0
    printed = capsys.readouterr().out
    assert (
        "ended at epoch 0.50, " in printed and ": the top-1 of config.stop.at_top1 was reached\n" in printed
    )
    assert "train  loss" not in printed
    for file, contents in before.items():
        assert file.read_bytes() == contents, file


def test_killed_after_the_decision_it_ends_the_same(ended, tmp_path, with_fault, monkeypatch):
    told = []  # what trackers are told of the end of each start
    monkeypatch.setattr(Trackers, "close", lambda self, *, ended_well=False: told.append(ended_well))
    with_fault("raise@committed:6")
    with pytest.raises(RuntimeError, match="fault on purpose"):
        train_and_evaluate(config(at_top1=0.05), str(tmp_path))
    assert not (tmp_path / "summary.json").exists()
    summary = train_and_evaluate(config(at_top1=0.05), str(tmp_path))  # the fault has happened
    assert summary["state_digest"] == ended[1]["state_digest"]
    assert (summary["ended_by"], summary["final"]["step"]) == ("at_top1", 6)
    assert journal_of(tmp_path)[-1]["by"] == "at_top1"
    assert told == [False, True]
    assert [row["step"] for row in read_metrics(Workdir(tmp_path))] == [6, 6]  # one of each split


@pytest.mark.long
def test_without_the_target_it_goes_on_to_the_bits_of_a_run_that_never_had_one(ended, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(ended[0], workdir)
    summary = train_and_evaluate(config(at_top1=0.0), str(workdir))
    never = train_and_evaluate(config(), str(tmp_path / "never"))
    assert (summary["ended_by"], summary["final"]["step"]) == ("epochs", 24)
    assert summary["state_digest"] == never["state_digest"]


def test_patience_outlives_a_crash(tmp_path, with_fault, monkeypatch):
    """Of evaluations every half epoch the second is the best: one epoch later the run ends."""
    top1_at = {6: 0.5, 12: 0.6, 18: 0.6, 24: 0.55}

    def evaluate(run, eval_step, variables, **how):
        step = training[-1]._position.step
        return Rates(loss=1.0, top1=top1_at[step], top5=0.9, images=360)

    training, init = [], loop.Training.__init__

    def kept(self, *parts):
        init(self, *parts)
        training.append(self)

    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.setattr(loop.Training, "__init__", kept)
    monkeypatch.setattr("efficientnet_pod.train.report_files.ReportFiles.predictions", lambda *_: None)
    with_fault("raise@step:20")
    cfg = config(epochs=4.0, patience_epochs=1.0)
    with pytest.raises(RuntimeError, match="fault on purpose at step"):
        train_and_evaluate(cfg, str(tmp_path))
    summary = train_and_evaluate(cfg, str(tmp_path))
    assert (summary["ended_by"], summary["final"]["step"], summary["best"]["step"]) == (
        "patience_epochs",
        24,
        18,  # the latest of equals, as the checkpoints choose it
    )


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("stop.at_top1=76.3", "config.stop.at_top1=76.3 must be 0, or at least 1e-06 and at most 1; set --"),
        ("stop.at_top1=101", "config.stop.at_top1=101.0 must be 0, or at least 1e-06 and at most 1"),
        ("stop.at_top1=nan", "config.stop.at_top1=nan must be"),
        ("stop.at_top1=-0.5", "config.stop.at_top1=-0.5 must be"),
        ("stop.patience_epochs=-1", "config.stop.patience_epochs=-1.0 must be at least 0"),
    ],
)
def test_impossible_targets_are_one_line(tmp_path, capsys, flag, words):
    assert main(["train", "--config=digits", f"--workdir={tmp_path / 'run'}", f"--config.{flag}"]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
