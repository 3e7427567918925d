"""Whole runs of a tiny network on the digits: records, resume, best checkpoint, and how a run fails."""

import dataclasses
import io
import json
import re
import time

import jax
import numpy as np
import pytest
from photos import encoded, photo
from recipes import load
from rich.console import Console
from states import digest_of
from tiny import build_tiny_networks
from whole_runs import final_state

from efficientnet_pod.cli.main import main
from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.evaluate.weights import evaluate_checkpoint
from efficientnet_pod.pod import hosts, terminal
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.metrics import Rates
from efficientnet_pod.run.run import open_run
from efficientnet_pod.train import loop
from efficientnet_pod.train.display import Display
from efficientnet_pod.train.log import TrainingLog
from efficientnet_pod.train.train import train_and_evaluate
from efficientnet_pod.workdir.journal import Journal
from efficientnet_pod.workdir.metrics_log import read_metrics
from efficientnet_pod.workdir.workdir import Workdir

ROW = set("step epoch split loss top1 top5 images learning_rate images_per_second seconds".split())


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    build_tiny_networks(monkeypatch)


def config(**fields):
    """Two epochs of 12 steps with an evaluation in the middle of each; fast enough to learn something."""
    short = {"global_batch": 120, "epochs": 2.0, "eval_epochs": 0.5, "log_steps": 5, "ema_decay": 0.5}
    config = load("digits.py") | short | fields
    config["schedule"]["warmup_epochs"] = 0.25
    config["model"]["bn_momentum"] = 0.5
    return config


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """One finished run, shared by the tests that only read it."""
    patch = pytest.MonkeyPatch()
    build_tiny_networks(patch)
    folder = tmp_path_factory.mktemp("runs")
    patch.chdir(folder)
    workdir = folder / "digits"
    # A relative path, as people type it; one of the fields has no effect with LARS.
    summary = train_and_evaluate(config(), "digits", overrides=["optimizer.rmsprop.decay"])
    patch.undo()
    return workdir, summary


def test_a_run_that_waits_for_its_input_says_so_on_a_terminal_too(tmp_path, monkeypatch):
    def slow(run, **start):
        for batch in batches(run, **start):
            time.sleep(0.4)
            yield batch

    batches = loop.train_batches
    monkeypatch.setattr(loop, "train_batches", slow)
    out = io.StringIO()
    on_terminal = Console(file=out, force_terminal=True, width=200, soft_wrap=True, highlight=False)
    monkeypatch.setattr(terminal, "console", lambda **_: on_terminal)
    summary = train_and_evaluate(config(epochs=0.5), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    waits = [row["input_wait"] for row in rows if row["split"] == "train"]
    assert all(0 <= wait <= 1 for wait in waits)
    assert 0 < summary["input_wait"] <= 1  # the first batch is always waited for
    lines = [line for line in out.getvalue().splitlines() if "  train  loss " in line]
    assert len(lines) == len(waits) and f"input wait {waits[0]:.0%}" in lines[0]
    assert re.search(r"compiling \d+ s", out.getvalue()) and "evaluating" in out.getvalue()


@pytest.mark.parametrize("host, place", [(1, 0), (0, 1), (1, 1)])
def test_the_process_id_decides_who_writes_and_not_the_place_of_the_devices(
    host, place, tmp_path, monkeypatch
):
    run = open_run(read_recipe(config()))
    run = dataclasses.replace(run, runtime=dataclasses.replace(run.runtime, place=place))
    monkeypatch.setattr(hosts, "index", lambda: host)
    with Display(total_steps=24, silent=True) as display:
        journal = Journal(None, warn=display.warn)
        log = TrainingLog(run, Workdir(tmp_path), display, journal, resumed_step=0)
        log.evaluation(6, Rates(loss=1.5, top1=0.5, top5=0.75, images=360), seconds=2.0)
        if host == 0:
            assert log.summary(compile_seconds=1.0, total_seconds=2.0)["final"]["step"] == 6
        log.close()
    assert any(tmp_path.iterdir()) == (host == 0)


def test_workdir_holds_what_it_promises(uninterrupted):
    workdir, summary = uninterrupted
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all(set(row) == ROW | ({"input_wait"} if row["split"] == "train" else set()) for row in rows)
    evals = [row for row in rows if row["split"] == "eval"]
    trained = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in evals] == [6, 12, 18, 24]
    assert {row["images"] for row in evals} == {360}
    assert sum(row["images"] for row in trained) == 24 * 120  # each step in exactly one row
    assert trained[-1]["epoch"] == pytest.approx(24 * 120 / 1437)
    assert json.loads((workdir / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert summary["final"]["top1"] == evals[-1]["top1"]
    assert summary["best"]["top1"] == max(row["top1"] for row in evals)
    assert summary["best"]["top1"] > 0.2  # it has learnt something: the tests below compare more than chance
    assert summary["devices"]["count"] == 8 and summary["versions"]["jax"] == jax.__version__
    plan = json.loads((workdir / "plan.json").read_text())
    assert plan["total_steps"] == 24 and "config.optimizer.rmsprop.decay" in plan["warnings"][-1]
    assert "classifier/kernel" in (workdir / "parameters.txt").read_text()
    assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))
    assert "Complete after 24 steps." in (workdir / "report.html").read_text()


def test_tensorboard_has_the_same_numbers(uninterrupted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    workdir, summary = uninterrupted
    events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    last = events.Tensors("eval/top1")[-1]
    assert last.step == summary["final"]["step"]
    assert float(make_ndarray(last.tensor_proto)) == pytest.approx(summary["final"]["top1"])


@pytest.mark.parametrize("crash", [8, pytest.param(13, marks=pytest.mark.long)])
def test_a_run_that_crashed_resumes_to_the_same_bits(tmp_path, with_fault, uninterrupted, crash):
    with_fault(f"raise@step:{crash}")
    with pytest.raises(RuntimeError, match="fault on purpose at step"):
        train_and_evaluate(config(), str(tmp_path))
    assert not list(tmp_path.glob("owner*"))
    summary = train_and_evaluate(config(), str(tmp_path))  # the fault has happened

    step, state = final_state(config(), tmp_path)
    same_step, same = final_state(config(), uninterrupted[0])
    assert step == same_step == 24
    jax.tree.map(np.testing.assert_array_equal, state, same)
    assert summary["state_digest"] == uninterrupted[1]["state_digest"] == digest_of(state)
    rows = read_metrics(Workdir(tmp_path))
    assert [row["step"] for row in rows if row["split"] == "eval"] == [6, 12, 18, 24]
    assert sum(row["images"] for row in rows if row["split"] == "train") == 24 * 120


def test_finished_run_is_left_alone(uninterrupted):
    workdir, summary = uninterrupted
    again = train_and_evaluate(config(), str(workdir))
    assert again["final"] == summary["final"] and again["best"] == summary["best"]


def test_best_and_any_checkpoint_evaluate_as_in_training(uninterrupted):
    workdir, summary = uninterrupted
    run = open_run(read_recipe(config()))
    step, result = evaluate_checkpoint(run, Workdir(workdir), "best", raw=False)
    assert (step, result.top1) == (summary["best"]["step"], summary["best"]["top1"])
    with pytest.raises(UserError, match=r"no checkpoint of step 5 .*there are: .*24"):
        evaluate_checkpoint(run, Workdir(workdir), "5", raw=False)
    with pytest.raises(UserError, match="must be 'best', 'latest' or a step"):
        evaluate_checkpoint(run, Workdir(workdir), "newest", raw=False)


def test_the_command_evaluates_a_run_on_its_own_images_and_on_others(uninterrupted, tmp_path, capsys):
    workdir, summary = uninterrupted
    best, file = summary["best"], tmp_path / "all.json"
    said = f"step {best['step']}, the best checkpoint: top-1 {best['top1']:.2%}"
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    assert capsys.readouterr().out.startswith(said)
    assert main(["evaluate", f"--workdir={workdir}", "--checkpoint=latest"]) == 0
    assert capsys.readouterr().out.startswith("step 24, the latest checkpoint: ")
    assert main(["evaluate", str(workdir), "--batch=96", f"--json={file}"]) == 0  # the best one is meant
    assert capsys.readouterr().out.startswith(said)
    found = json.loads(file.read_text())
    assert (found["top1"], found["images"]) == (best["top1"], 360)
    assert (found["weights"]["origin"]["step"], found["settings"]["batch"]) == (best["step"], 96)
    assert main(["evaluate", f"{workdir}/checkpoints/24"]) == 0
    assert capsys.readouterr().out.startswith("step 24: ")
    pixels = photo(0, 8, 8)
    for digit in range(10):
        (tmp_path / "images" / str(digit)).mkdir(parents=True)
        (tmp_path / "images" / str(digit) / "0.png").write_bytes(encoded(pixels, "PNG"))
    data = f"--data=folder:{tmp_path}/images"
    assert main(["evaluate", str(workdir), data, "--split=all", "--image-size=40", "--flip"]) == 0
    printed = capsys.readouterr().out
    assert "top-1 10.00%" in printed and "of 10 images" in printed
    assert "whole images of 40 px, each and its mirror image" in printed
    (tmp_path / "images" / "9").rename(tmp_path / "images" / "nine")
    assert main(["evaluate", str(workdir), data, "--split=all"]) == 0
    said = f"class 9 is '9' in '{workdir}' and 'nine' in 'folder:{tmp_path}/images'; 1 of 10 names differ"
    assert f"warning: {said}" in capsys.readouterr().err


def test_workdir_of_another_config_is_refused(uninterrupted):
    workdir, _ = uninterrupted
    with pytest.raises(UserError, match=r"config\.global_batch was 120, is 240"):
        train_and_evaluate(config(global_batch=240), str(workdir))
    assert train_and_evaluate(config(log_steps=7), str(workdir))["final"]["step"] == 24


def test_non_finite_loss_stops_the_run(tmp_path):
    cfg = config(epochs=1.0, eval_epochs=0.25)
    cfg["optimizer"]["name"] = "sgd"
    cfg["optimizer"]["sgd"]["lr_per_256"] = 1e30
    cfg["schedule"]["warmup_epochs"] = 0.4  # the first steps are at nearly zero
    with pytest.raises(RunError, match=r"step \d is not finite.*the state before it is untouched and saved"):
        train_and_evaluate(cfg, str(tmp_path))
    assert not (tmp_path / "summary.json").exists()
