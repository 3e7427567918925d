"""What a workdir holds in every state: complete, in progress, crashed, torn, damaged, of another version."""

import json

import numpy as np
import pytest
from report_runs import (
    event,
    eventful_journal,
    metrics,
    plan,
    predictions,
    trust_lines,
    write_lines,
    write_run,
    write_samples,
)

from efficientnet_pod.errors import UserError
from efficientnet_pod.report.records import read_run_records
from efficientnet_pod.report.state import state_of
from efficientnet_pod.workdir.owner import Owner
from efficientnet_pod.workdir.owner_record import holder_of
from efficientnet_pod.workdir.trust_ratios import read_trust_ratios


def test_a_torn_last_line_is_no_damage_and_a_damaged_one_is_named(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", metrics(), torn='{"step": 101, "ep')
    torn = read_run_records(tmp_path)
    assert len(torn.train) == len(torn.evals) == 4 and torn.notes == ()
    lines = (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")
    lines[2] = b"\x00\xff{"
    lines[4] = b'"a text"'
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    damaged = read_run_records(tmp_path)
    assert len(damaged.train) + len(damaged.evals) == 6
    assert damaged.notes == ("metrics.jsonl has 2 damaged lines, left out; the first is line 3.",)


@pytest.mark.parametrize(
    "name", ["config.json", "plan.json", "summary.json", "predictions.json", "mesh.json"]
)
@pytest.mark.parametrize("contents", ["", '{"half": ', "[1, 2]", "[" * 100_000])
def test_a_half_written_file_is_a_note(tmp_path, name, contents):
    (write_run(tmp_path) / name).write_text(contents)
    assert read_run_records(tmp_path).notes == (
        f"{name} is damaged, it is not a table in JSON, and left out.",
    )


def test_what_is_missing_is_said(tmp_path):
    notes = read_run_records(write_run(tmp_path / "a", metrics=None, summary=None)).notes
    assert notes == ("There is no metrics.jsonl: the run has not recorded a step.",)
    assert read_run_records(write_run(tmp_path / "b", metrics=[])).notes == (
        "metrics.jsonl has no rows yet.",
    )
    only_metrics = write_run(tmp_path / "c", config=None, plan=None, summary=None)
    assert len(read_run_records(only_metrics).evals) == 4


def test_rows_and_tables_of_another_version_are_said_to_be(tmp_path):
    rows = [{"step": 1, "phase": "train"}, {"step": 2, "split": "test", "epoch": 1.0}, *metrics()]
    older = plan()
    del older["total_steps"], older["num_eval"]
    records = read_run_records(write_run(tmp_path, metrics=rows, plan=older))
    assert records.notes == (
        "plan.json is of another version: it has no total_steps, num_eval.",
        "metrics.jsonl has 1 damaged line, left out; the first is line 1.",
        "metrics.jsonl is of another version: 1 row without epoch or split left out.",
    )


def test_folders_without_a_run_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, words in (("nothing", "is not there"), ("file", "is a file"), ("empty", "no run in")):
        with pytest.raises(UserError, match=words) as raised:
            read_run_records(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value) and "--workdir" in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (write_run(tmp_path, config=None) / "config.json").mkdir()
    with pytest.raises(UserError, match="config.json' cannot be read: Is a directory; correct that"):
        read_run_records(tmp_path)


def state(folder, **options):
    found = state_of(read_run_records(folder), **options)
    return found.kind, found.text


def test_states_of_runs_that_have_ended(tmp_path):
    assert state(write_run(tmp_path / "a")) == ("complete", "Complete after 100 steps.")
    silent = state(write_run(tmp_path / "b", summary=None, metrics=metrics()[:4]))
    text = "Not running, and not complete: it ended at step 50 of 100 (50 %); why is not recorded."
    assert silent == ("stopped", text)
    journal = eventful_journal()
    for length, kind, words in (
        (15, "complete", "Complete after 100 steps."),
        (12, "stopped", "Stopped at step 100 of 100 (100 %): SIGTERM. The same command goes on from there."),
        (10, "crashed", "Crashed at step 100 of 100 (100 %): loss is nan."),
        (6, "crashed", "Crashed at step 100 of 100 (100 %): its process ended without a word."),
    ):
        folder = write_run(tmp_path / str(length), summary=None, journal=journal[:length])
        found = state(folder)
        assert found[0] == kind and found[1].startswith(words)


def test_a_run_in_progress_says_since_when_and_how_long_it_takes(tmp_path):
    write_run(tmp_path, summary=None, metrics=metrics()[:4], journal=[event(0, "start", 0)])
    with Owner(tmp_path):
        # Five epochs of 1,000 images are left, at 25 a second.
        text = "In progress since 2026-11-25 01:00:00 UTC, at step 50 of 100 (50 %), about 3 min 20 s left."
        assert state(tmp_path) == ("in progress", text)
    assert holder_of(tmp_path) is None and state(tmp_path)[0] == "crashed"


def test_a_dead_owner_and_one_on_another_machine(tmp_path):
    write_run(tmp_path, summary=None, metrics=metrics()[:4])
    with Owner(tmp_path):
        written = json.loads((tmp_path / "owner.json").read_text())
    (tmp_path / "owner.json").write_text(json.dumps(written | {"process_start": 1}))
    holder = holder_of(tmp_path)
    assert holder and holder.lives is False and state(tmp_path)[0] == "crashed"
    (tmp_path / "owner.json").write_text(json.dumps(written | {"host": "elsewhere"}))
    kind, text = state(tmp_path)
    assert kind == "in progress" and "another machine" in text and written["since"] in text
    assert state(tmp_path, assume_alive=False)[0] == "crashed"
    (tmp_path / "owner.json").write_text("")
    assert state(tmp_path)[0] == "in progress"


def test_trust_ratios_of_a_step_made_again_count_as_they_were_last():
    lines = [
        {"tensors": ["stem/conv/kernel", "block10a/conv/kernel", "block2a/conv/kernel", "head/conv/kernel"]},
        {"step": 10, "ratios": [1.0, 2.0, 3.0, 4.0]},
        {"step": 20, "ratios": [9.0, 9.0, 9.0, 9.0]},
        {"step": 30, "ratios": [9.0, 9.0, 9.0, 9.0]},
        {"step": 20, "ratios": [1.0, 2.0, None, 4.0]},
        {"step": 30, "ratios": [1.0]},
    ]
    found = read_trust_ratios(lines)
    assert found and found.steps == (10, 20)
    assert found.quantiles()[0] == pytest.approx([1.3, 2.5, 3.7])
    names, values = found.by_part()
    assert names == ["stem", "block2a", "block10a", "head"]
    np.testing.assert_array_equal(values[:, 1], [1.0, np.nan, 2.0, 4.0])
    assert found.by_part(stages=True)[0] == ["stem", "stage 2", "stage 10", "head"]
    assert read_trust_ratios(trust_lines(["a"], [1])) != found
    for nothing in ([], lines[:1], lines[1:3]):
        assert read_trust_ratios(nothing) is None


def test_pictures_stay_in_the_workdir_and_are_pictures(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\n secret")
    table = predictions(4)
    outside = ("../secret.png", str(tmp_path / "secret.png"), "samples/link.png")
    for sample, name in zip(table["samples"], outside, strict=False):
        sample["image"] = name
    folder = write_run(tmp_path / "run", predictions=table)
    write_samples(folder, 4)
    (folder / "samples/link.png").symlink_to(tmp_path / "secret.png")
    found = read_run_records(folder).predictions
    assert found and [bool(each.image) for each in found.samples] == [False, False, False, True]
    assert found.samples[3].data_uri.startswith("data:image/png;base64,")
    (folder / "samples/003.png").write_text("<svg onload=alert(1)>")
    found = read_run_records(folder).predictions
    assert found and not found.samples[3].image


def test_predictions_of_any_shape_are_taken_calmly(tmp_path):
    table = {
        "step": "last",
        "classes": ["a", 3, None],
        "confusions": [[0, 1, 5], [0], "no", [0, 2, 9], [0, -1, 3]],
        "per_class": [[0, 10, 9], [1, 0, 0], 7],
        "samples": [{"label": 0, "predicted": [[0, "x"], [7, 0.5], 3]}, {"image": 3}, 4],
    }
    found = read_run_records(write_run(tmp_path, predictions=table)).predictions
    assert found and found.confusions == ((0, 2, 9), (0, 1, 5)) and found.per_class == ((0, 10, 9),)
    (sample,) = found.samples
    assert sample.predicted == ((7, 0.5),) and not sample.is_hit
    assert [found.name(label) for label in (0, 1, 2, 7)] == ["a", "class 1", "class 2", "class 7"]
