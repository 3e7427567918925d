"""The journal: nothing is lost to a kill, a full disk or another start, and it is read as it was written."""

import json
import os
import threading

import pytest

from efficientnet_pod.errors import Preempted, RunError
from efficientnet_pod.workdir import json_lines
from efficientnet_pod.workdir.journal import Journal, is_event, seconds_of_kind, starts
from efficientnet_pod.workdir.json_lines import OptionalLines, parse_lines
from efficientnet_pod.workdir.workdir import Workdir


def lines(workdir):
    return [json.loads(line) for line in (workdir / "journal.jsonl").read_text().splitlines()]


def test_a_line_has_time_kind_step_and_fields_and_is_kept_over_starts(tmp_path):
    first = Journal(Workdir(tmp_path), warn=pytest.fail)
    first.write("start", 0, resumed=False)
    first.step = 7
    first.write("skipped_step")
    Journal(Workdir(tmp_path), warn=pytest.fail).write("phase", 3, name="large", waited=1.23456)
    assert [(row["kind"], row["step"]) for row in lines(tmp_path)] == [
        ("start", 0),
        ("skipped_step", 7),
        ("phase", 3),
    ]
    assert lines(tmp_path)[2]["waited"] == 1.235
    for row in lines(tmp_path):
        assert row["time"][10] == "T" and row["time"].endswith("Z") and len(row["time"]) == 24


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_torn_line_does_not_harm_the_next(tmp_path, monkeypatch, is_remote):
    monkeypatch.setattr(json_lines, "is_remote", lambda path: is_remote)
    journal = Journal(Workdir(tmp_path), warn=pytest.fail)
    journal.write("start", 0)
    whole = (tmp_path / "journal.jsonl").read_bytes()
    for cut in range(1, len(whole)):
        (tmp_path / "journal.jsonl").write_bytes(whole + whole[:cut])
        Journal(Workdir(tmp_path), warn=pytest.fail).write("saved", 5, seconds=0.5)
        stored = (tmp_path / "journal.jsonl").read_bytes()
        assert stored.startswith(whole + whole[:cut])  # nothing is dropped
        last = json.loads(stored.splitlines()[-1])
        assert (last["kind"], last["step"], last["seconds"]) == ("saved", 5, 0.5)
        kinds = [
            row["kind"] for row in OptionalLines(Workdir(tmp_path).path / "journal.jsonl", pytest.fail).rows()
        ]
        # All but the end of the line is a whole line.
        assert kinds == (["start", "start", "saved"] if cut == len(whole) - 1 else ["start", "saved"])


def test_a_journal_that_cannot_be_written_is_one_warning(tmp_path):
    (tmp_path / "journal.jsonl").mkdir()
    warnings = []
    journal = Journal(Workdir(tmp_path), warn=warnings.append)
    for step in range(3):
        journal.write("saved", step, seconds=0.1)
    (warning,) = warnings
    assert warning.startswith("warning: ") and "journal.jsonl' is not written: Is a directory" in warning
    (tmp_path / "journal.jsonl").rmdir()
    journal.write("end", 3)  # and goes on where it can
    assert [row["kind"] for row in lines(tmp_path)] == ["end"]


def test_other_hosts_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, warn=pytest.fail)
    journal.write("start", 0)
    journal.quarantined()
    journal.end("end")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (Preempted("SIGTERM: stopped"), {"kind": "stopped", "reason": "SIGTERM"}),
        (KeyboardInterrupt(), {"kind": "stopped", "reason": "SIGTERM"}),
        (RunError("step 3 is not\nfinite"), {"kind": "failed", "error": "step 3 is not finite"}),
        (
            OSError(5, "token=hunter2hunter2"),
            {"kind": "failed", "error": "OSError: [Errno 5] token=[redacted]"},
        ),
        (ValueError(), {"kind": "failed", "error": "ValueError"}),
    ],
)
def test_the_last_line_says_how_a_start_ended_and_the_first_end_counts(tmp_path, error, last):
    journal = Journal(Workdir(tmp_path), warn=pytest.fail)
    journal.end_with(error, stopped_by="SIGTERM")
    journal.end("failed", error="because of that")
    (row,) = lines(tmp_path)
    assert row.items() >= last.items()


def test_a_file_set_aside_has_one_line_over_all_starts(tmp_path):
    (tmp_path / "checkpoints" / "damaged-8-2026").mkdir(parents=True)
    (tmp_path / "checkpoints" / "12").mkdir()
    (tmp_path / "metrics.jsonl.damaged-2026").write_text("")
    for _ in range(2):
        Journal(Workdir(tmp_path), warn=pytest.fail).quarantined()
    assert [row["what"] for row in lines(tmp_path)] == ["damaged-8-2026", "metrics.jsonl.damaged-2026"]


def test_threads_write_whole_lines(tmp_path):
    journal = Journal(Workdir(tmp_path), warn=pytest.fail)
    threads = [threading.Thread(target=journal.write, args=("saved", step)) for step in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row["step"] for row in lines(tmp_path)) == list(range(20))


def test_a_journal_is_read_as_it_was_written(tmp_path):
    first = Journal(Workdir(tmp_path), warn=pytest.fail)
    first.write("start", 0, resumed=False)
    first.write("saved", 4, seconds=0.25)
    first.write("saved", 8, seconds=0.5)
    first.end_with(RunError("a full disk"), stopped_by=None)
    second = Journal(Workdir(tmp_path), warn=pytest.fail)
    second.write("start", 8, resumed=True)
    second.end("end")
    events, damaged = parse_lines((tmp_path / "journal.jsonl").read_bytes(), is_event)
    assert len(events) == 6 and not damaged
    assert seconds_of_kind(events, "saved") == 0.75 and seconds_of_kind(events, "compiled") is None
    failed, complete = starts(events)
    assert (failed.resumed, failed.last["kind"], failed.last["error"]) == (False, "failed", "a full disk")
    assert (complete.resumed, complete.last["kind"]) == (True, "end")
    assert failed.began and failed.ended and complete.began and failed.seconds >= 0
    assert failed.began <= failed.ended <= complete.began
