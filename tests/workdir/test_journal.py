"""The journal: what no kill, full disk or other start can do to it; and where the time of a run goes."""

import json
import os
import threading

import pytest

from efficientnet_pod.errors import Preempted, RunError
from efficientnet_pod.workdir import json_lines as soft_files
from efficientnet_pod.workdir.journal import Journal
from efficientnet_pod.workdir.json_lines import SoftLines
from efficientnet_pod.workdir.time_spent import KINDS, TimeSpent
from efficientnet_pod.workdir.workdir import Workdir


def lines(workdir):
    return [json.loads(line) for line in (workdir / "journal.jsonl").read_text().splitlines()]


def test_a_line_has_time_kind_step_and_fields_and_is_kept_over_starts(tmp_path):
    first = Journal(Workdir(tmp_path), report=pytest.fail)
    first.write("start", 0, resumed=False)
    first.step = 7
    first.write("skipped_step")
    Journal(Workdir(tmp_path), report=pytest.fail).write("phase", 3, name="large", waited=1.23456)
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
    monkeypatch.setattr(soft_files, "is_remote", lambda path: is_remote)
    journal = Journal(Workdir(tmp_path), report=pytest.fail)
    journal.write("start", 0)
    whole = (tmp_path / "journal.jsonl").read_bytes()
    for cut in range(1, len(whole)):
        (tmp_path / "journal.jsonl").write_bytes(whole + whole[:cut])
        Journal(Workdir(tmp_path), report=pytest.fail).write("saved", 5, seconds=0.5)
        stored = (tmp_path / "journal.jsonl").read_bytes()
        assert stored.startswith(whole + whole[:cut])  # nothing is dropped
        last = json.loads(stored.splitlines()[-1])
        assert (last["kind"], last["step"], last["seconds"]) == ("saved", 5, 0.5)
        kinds = [
            row["kind"] for row in SoftLines(Workdir(tmp_path).path / "journal.jsonl", pytest.fail).rows()
        ]
        # All but the end of the line is a whole line.
        assert kinds == (["start", "start", "saved"] if cut == len(whole) - 1 else ["start", "saved"])


def test_a_journal_that_cannot_be_written_is_one_warning(tmp_path):
    (tmp_path / "journal.jsonl").mkdir()
    report = []
    journal = Journal(Workdir(tmp_path), report=report.append)
    for step in range(3):
        journal.write("saved", step, seconds=0.1)
    (said,) = report
    assert said.startswith("warning: ") and "journal.jsonl' is not written: Is a directory" in said
    (tmp_path / "journal.jsonl").rmdir()
    journal.write("end", 3)  # and goes on where it can
    assert [row["kind"] for row in lines(tmp_path)] == ["end"]


def test_other_hosts_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, report=pytest.fail)
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
    journal = Journal(Workdir(tmp_path), report=pytest.fail)
    journal.end_with(error, stopped_by="SIGTERM")
    journal.end("failed", error="because of that")
    (row,) = lines(tmp_path)
    assert row.items() >= last.items()


def test_what_was_set_aside_is_told_once_over_all_starts(tmp_path):
    (tmp_path / "checkpoints" / "damaged-8-2026").mkdir(parents=True)
    (tmp_path / "checkpoints" / "12").mkdir()
    (tmp_path / "metrics.jsonl.damaged-2026").write_text("")
    for _ in range(2):
        Journal(Workdir(tmp_path), report=pytest.fail).quarantined()
    told = [row["what"] for row in lines(tmp_path)]
    assert told == ["damaged-8-2026", "metrics.jsonl.damaged-2026"]


def test_threads_write_whole_lines(tmp_path):
    journal = Journal(Workdir(tmp_path), report=pytest.fail)
    threads = [threading.Thread(target=journal.write, args=("saved", step)) for step in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row["step"] for row in lines(tmp_path)) == list(range(20))


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


def work(spent, clock):
    """Spends 31 seconds, of which one is not booked."""
    clock.spend(1)
    with spent.on("compiling"):
        clock.spend(2)
    with spent.on("training"):
        clock.spend(4)
        spent.input_wait.next(lambda: clock.spend(3))
        with spent.on("evaluating"):
            clock.spend(5)
            with spent.on("saving"):
                clock.spend(6)
        clock.spend(10)


def test_every_moment_is_booked_once():
    clock = Clock()
    spent = TimeSpent(clock)
    work(spent, clock)
    expected = {"compiling": 2, "evaluating": 5, "saving": 6, "waiting_for_input": 3, "training": 14}
    assert spent.so_far() == expected and tuple(expected) == KINDS
    clock.spend(50)
    with pytest.raises(RunError), spent.on("saving"):
        clock.spend(1)
        raise RunError("a full disk")
    clock.spend(50)
    assert spent.so_far() == expected | {"saving": 7}


def test_the_seconds_of_a_run_are_those_of_all_its_starts_but_what_a_kill_took(tmp_path):
    clock = Clock()
    for _ in range(2):
        journal = Journal(Workdir(tmp_path), report=pytest.fail)
        journal.spent = TimeSpent(clock)
        work(journal.spent, clock)
        journal.write("saved", 4)
        with journal.spent.on("training"):
            clock.spend(2.0004)
        journal.write("evaluated", 8)
        with journal.spent.on("training"):
            clock.spend(7)  # and then it is killed, with no line since
    assert [row["spent"] for row in lines(tmp_path)][1] == {"training": 2.0}
    with (tmp_path / "journal.jsonl").open("a") as opened:
        opened.write('{"kind": "saved", "step": 9, "spent": {"saving": 1')
    again = Journal(Workdir(tmp_path), report=pytest.fail)
    expected = {"compiling": 4, "evaluating": 10, "saving": 12, "waiting_for_input": 6, "training": 32}
    assert again.seconds_of() == pytest.approx(expected, abs=0.01)
