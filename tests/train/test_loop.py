"""What ends a run early, or sends it back: stops, steps that are not finite, the clock; in one process."""

import dataclasses
import json
from datetime import datetime

import jax
import numpy as np
import pytest
from recipes import load
from tiny import build_tiny_networks

from efficientnet_pod.errors import Preempted, RunError
from efficientnet_pod.pod import inject
from efficientnet_pod.train import loop, start, train
from efficientnet_pod.train.train import train_and_evaluate


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
    """Networks of one block; programs are traced and compiled for the first run that needs them."""
    patch, made, get_programs = pytest.MonkeyPatch(), {}, start.get_programs

    def get_once(run, workdir, *, start_step, **options):
        recipe = run.plan.recipe
        is_skipping = recipe.on_non_finite == "skip"
        same = {"on_non_finite": "skip" if is_skipping else "stop", "checkpoint_minutes": 0.0}
        recipe = repr(dataclasses.replace(recipe, **same))
        if recipe not in made:
            made[recipe] = get_programs(run, workdir, start_step=0, **options)
        return made[recipe] if start_step == 0 else dataclasses.replace(made[recipe], init=None)

    build_tiny_networks(patch)
    patch.setattr(start, "get_programs", get_once)
    yield
    patch.undo()


def config(**fields):
    """Twelve steps of 120 images, evaluated after every fourth."""
    short = {"global_batch": 120, "epochs": 1.0, "eval_epochs": 1 / 3, "log_steps": 3, "ema_decay": 0.5}
    config = load("digits.py") | short | fields
    config["schedule"]["warmup_epochs"] = 0.25
    config["model"]["bn_momentum"] = 0.5
    config["data"] |= {"image_size": 16, "link_dtype": "float32"}  # which has room for NaN
    return config


@pytest.fixture
def stop_at(monkeypatch):
    """Returns a function that has the run told to stop when it comes to a point."""

    def ask(point, step=None, reason="SIGTERM"):
        interrupts = []
        create, passed = train.Interrupt.__init__, inject.at

        def keep(self, **options):
            create(self, **options)
            interrupts.append(self)

        def at(where, number=None):
            passed(where, number)
            if where == point and number == step:
                interrupts[-1].request(reason)

        monkeypatch.setattr(train.Interrupt, "__init__", keep)
        monkeypatch.setattr(inject, "at", at)

    return ask


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train_and_evaluate(config(), str(tmp_path_factory.mktemp("uninterrupted")))


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def journal_of(workdir):
    return [json.loads(line) for line in (workdir / "journal.jsonl").read_text().splitlines()]


def events(workdir):
    return [(row["kind"], row["step"]) for row in journal_of(workdir)]


def require_each_step_once(workdir, steps=12):
    rows = rows_of(workdir)
    assert [row["step"] for row in rows if row["split"] == "eval"] == [4, 8, 12]
    assert sum(row["images"] for row in rows if row["split"] == "train") == steps * 120
    numbers = [row["step"] for row in rows if row["split"] == "train"]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("point", "step", "saved"),
    [
        ("step", 1, 0),  # nothing is done yet
        ("step", 6, 5),
        ("input", 8, None),  # the batches are ahead of the steps
        ("evaluating", 0, 4),
    ],
)
def test_a_run_told_to_stop_saves_and_goes_on_to_the_same_bits(
    tmp_path, stop_at, uninterrupted, monkeypatch, point, step, saved
):
    with monkeypatch.context():
        stop_at(point, step)
        with pytest.raises(
            Preempted, match=rf"stopped after step {saved if saved is not None else ''}"
        ) as told:
            train_and_evaluate(config(), str(tmp_path))
    assert "start the same command again" in str(told.value) and "\n" not in str(told.value)
    assert journal_of(tmp_path)[-1].items() >= {"kind": "stopped", "reason": "SIGTERM"}.items()
    assert not (tmp_path / "summary.json").exists()
    monkeypatch.undo()
    again = train_and_evaluate(config(), str(tmp_path))
    assert again["state_digest"] == uninterrupted["state_digest"]
    assert (again["final"]["top1"], again["best"]) == (
        uninterrupted["final"]["top1"],
        again["best"] | {k: uninterrupted["best"][k] for k in ("step", "top1", "top5", "loss", "images")},
    )
    require_each_step_once(tmp_path)


IN_PARTS = {"replicas": 24, "bn_group_size": 4}  # on eight devices: three micro-batches a step


def test_a_run_told_to_stop_inside_a_step_saves_the_state_before_it(tmp_path, monkeypatch, with_fault):
    whole = train_and_evaluate(config(**IN_PARTS), str(tmp_path / "whole"))
    require_each_step_once(tmp_path / "whole")
    given, next_batch = [], loop.Training._next_batch

    def stop_in_the_sixth_step(self, feed, phase):
        batch = next_batch(self, feed, phase)
        given.append(batch["image"].shape[0])
        if len(given) == 5 * 3 + 2:
            self._interrupt.request("SIGTERM")
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_next_batch", stop_in_the_sixth_step)
        with pytest.raises(Preempted, match="stopped after step 5 of 12"):
            train_and_evaluate(config(**IN_PARTS), str(tmp_path / "cut"))
    assert given == [40] * (5 * 3 + 2)
    again = train_and_evaluate(config(**IN_PARTS), str(tmp_path / "cut"))
    assert again["state_digest"] == whole["state_digest"]
    require_each_step_once(tmp_path / "cut")
    with_fault("nan@step:7")
    summary = train_and_evaluate(config(on_non_finite="rewind", **IN_PARTS), str(tmp_path / "rewound"))
    assert summary["final"]["step"] == 12
    assert ("rewound", 7) in events(tmp_path / "rewound")


def test_ctrl_c_saves_too(tmp_path, stop_at):
    stop_at("step", 6, reason="SIGINT")
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(config(), str(tmp_path))
    assert (tmp_path / "checkpoints" / "5" / "commit.json").exists()


def test_a_step_that_is_not_finite_stops_and_leaves_the_state_before_it(tmp_path, with_fault, uninterrupted):
    with_fault("nan@step:7")
    with pytest.raises(
        RunError, match=r"step 7 is not finite.*saved as step 6.*on_non_finite=skip"
    ) as stopped:
        train_and_evaluate(config(), str(tmp_path))
    assert "\n" not in str(stopped.value)
    record = json.loads((tmp_path / "checkpoints" / "6" / "commit.json").read_text())
    assert "top1" not in json.dumps(record["metrics"] if "metrics" in record else record)
    # Mended, and started again: nothing of the bad step is left.
    summary = train_and_evaluate(config(), str(tmp_path))
    assert summary["state_digest"] == uninterrupted["state_digest"]
    require_each_step_once(tmp_path)


def test_a_step_that_is_not_finite_can_be_skipped(tmp_path, with_fault, uninterrupted):
    with_fault("nan@step:7")
    summary = train_and_evaluate(config(on_non_finite="skip"), str(tmp_path))
    assert summary["skipped_steps"] == 1
    assert summary["state_digest"] != uninterrupted["state_digest"]
    require_each_step_once(tmp_path, steps=11)
    assert [row["skipped_steps"] for row in rows_of(tmp_path) if "skipped_steps" in row] == [1]
    assert ("skipped_step", 7) in events(tmp_path)


def test_not_all_steps_can_be_skipped(tmp_path, with_fault):
    with_fault(";".join(f"nan@step:{step}" for step in range(1, 13)))
    with pytest.raises(RunError, match=r"steps 1 to 11 were not finite, more than the 10 in a row"):
        train_and_evaluate(config(on_non_finite="skip"), str(tmp_path))


def seen_by(monkeypatch):
    """Returns the first labels of the batches that the steps get, in order."""
    seen, step = [], loop.Training._next_batch

    def keep(self, feed, phase):
        batch = step(self, feed, phase)
        seen.append(tuple(np.asarray(jax.device_get(batch["label"]))[:40]))
        return batch

    monkeypatch.setattr(loop.Training, "_next_batch", keep)
    return seen


def test_a_run_rewinds_to_the_evaluation_before_and_goes_on_with_other_images(
    tmp_path, with_fault, monkeypatch, capsys
):
    seen = seen_by(monkeypatch)
    with_fault("nan@step:7")
    summary = train_and_evaluate(config(on_non_finite="rewind"), str(tmp_path))
    # Steps 1 to 8 (8 was dispatched before 7 was read), then 5 to 12 on the images of 8 to 15.
    assert len(seen) == 8 + 8
    assert seen[8] == seen[7] and seen[8] != seen[4]
    assert summary["final"]["step"] == 12
    require_each_step_once(tmp_path)
    assert "step 7 is not finite: back to step 4" in capsys.readouterr().out
    commit = json.loads((tmp_path / "checkpoints" / "12" / "commit.json").read_text())
    assert '"image_offset": 360' in json.dumps(commit)


def test_a_run_that_is_stopped_after_it_has_rewound_goes_on_with_the_same_images(
    tmp_path, with_fault, monkeypatch, stop_at
):
    with_fault("nan@step:7")
    whole = train_and_evaluate(config(on_non_finite="rewind"), str(tmp_path / "whole"))
    with_fault("nan@step:7")
    with monkeypatch.context():
        stop_at("evaluating", 1)
        with pytest.raises(Preempted):
            train_and_evaluate(config(on_non_finite="rewind"), str(tmp_path / "cut"))
    monkeypatch.undo()
    with_fault("nan@step:7")
    again = train_and_evaluate(config(on_non_finite="rewind"), str(tmp_path / "cut"))
    assert again["state_digest"] == whole["state_digest"]


def test_a_run_does_not_rewind_for_ever_nor_from_nothing(tmp_path, with_fault, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(inject, "poisons", lambda step: step == 6)
        with pytest.raises(RunError, match=r"step 6 is not finite.*after 3 rewinds to step 4"):
            train_and_evaluate(config(on_non_finite="rewind"), str(tmp_path / "a"))
    with_fault("nan@step:2")
    with pytest.raises(RunError, match=r"step 2 is not finite.*before any evaluation"):
        train_and_evaluate(config(on_non_finite="rewind"), str(tmp_path / "b"))


def test_checkpoints_by_the_clock_change_nothing(tmp_path, monkeypatch, uninterrupted):
    saved = []
    save = loop.Saves.save

    def keep(self, state, position, metrics=None):
        saved.append(position.step)
        save(self, state, position, metrics)

    monkeypatch.setattr(loop.Saves, "save", keep)
    summary = train_and_evaluate(config(checkpoint_minutes=1e-9), str(tmp_path))
    assert saved == list(range(1, 13))
    assert summary["state_digest"] == uninterrupted["state_digest"]
    require_each_step_once(tmp_path)
    # The evaluated ones are those that are kept.
    left = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal()}
    assert left == {8, 11, 12}  # keep_checkpoints=2 evaluated ones; 12 is the best, too


def test_what_happened_is_written_down_over_starts_rewinds_and_skipped_steps(
    tmp_path, with_fault, monkeypatch
):
    collected = []
    monkeypatch.setattr(loop, "Confusions", lambda n, f=loop.Confusions: collected.append(n) or f(n))
    with_fault("nan@step:7;raise@step:10")
    with pytest.raises(RuntimeError, match="fault on purpose"):
        train_and_evaluate(config(on_non_finite="rewind"), str(tmp_path))
    assert not collected and not (tmp_path / "predictions.json").exists()
    with_fault("nan@step:11")
    summary = train_and_evaluate(config(on_non_finite="skip"), str(tmp_path))
    first = [("start", 0), ("compiled", 0), ("evaluated", 4), ("saved", 4)]
    first += [("rewound", 7), ("saved", 4), ("evaluated", 8), ("saved", 8), ("failed", 8)]
    second = [("start", 8), ("compiled", 8), ("skipped_step", 11), ("evaluated", 12), ("saved", 12)]
    assert events(tmp_path) == [*first, *second, ("end", 12)]
    rows = journal_of(tmp_path)
    assert [row["resumed"] for row in rows if row["kind"] == "start"] == [False, True]
    assert rows[0]["hosts"] == 1 and rows[0]["devices"] == {"count": 8, "kind": "cpu"}
    assert [row["to"] for row in rows if row["kind"] == "rewound"] == [4]
    assert "fault on purpose" in next(row["error"] for row in rows if row["kind"] == "failed")

    times = [datetime.fromisoformat(row["time"]).timestamp() for row in rows]
    wall = times[len(first) - 1] - times[0] + times[-1] - times[len(first)]
    seconds_of = summary["seconds_of"]
    assert all(seconds > 0 for seconds in seconds_of.values())
    assert 0.7 * wall < sum(seconds_of.values()) < wall + 0.1

    header, *ratios = map(json.loads, (tmp_path / "trust_ratios.jsonl").read_text().splitlines())
    assert [row["step"] for row in ratios] == [3, 6, 9, 12]
    assert all(len(row["ratios"]) == len(header["tensors"]) for row in ratios)
    assert "classifier/kernel" in header["tensors"] and "classifier/bias" not in header["tensors"]

    assert collected == [10]
    found = json.loads((tmp_path / "predictions.json").read_text())
    hits = sum(correct for *_, correct in found["per_class"])
    assert sum(images for _, images, _ in found["per_class"]) == 360
    assert (found["step"], hits / 360) == (12, summary["final"]["top1"])
    assert sum(count for *_, count in found["confusions"]) == 360 - hits
    assert len(found["samples"]) == len(list((tmp_path / "samples").iterdir())) == 24
    assert json.loads((tmp_path / "mesh.json").read_text())["bn_group_size"] == 4
