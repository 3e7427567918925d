"""Runs that are killed, told to stop, fed nonsense or stuck, and end as if nothing had been.

A run meets one fault after another; all its checkpoints are compared with those of a run that was never
interrupted, hence a difference has its fault. Only the uninterrupted ones are fresh processes, started as a
user starts them; the others are forked (zygote.py), and must come to the same bits.
"""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pod_processes import (
    Training,
    differences,
    digests,
    journal,
    rehearse_pod,
    rows,
    run,
    summary,
    take_programs,
)

STEPS = 30  # an evaluation and a checkpoint at 6, 12, 18, 24, 30
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    codes, output = run(workdir, steps=STEPS, forked=False)
    assert codes == [0], output
    assert [row["step"] for row in rows(workdir, "eval")] == sorted(digests(workdir)) == [6, 12, 18, 24, 30]
    assert sum(row["images"] for row in rows(workdir, "train")) == STEPS * 60
    assert summary(workdir)["state_digest"] == digests(workdir)[STEPS]
    assert differences(workdir, workdir) == []
    return workdir


@pytest.fixture
def workdir(tmp_path, uninterrupted):
    take_programs(uninterrupted, tmp_path / "run")
    return tmp_path / "run"


def require_good(workdir, uninterrupted, fault):
    here, there = digests(workdir), digests(uninterrupted)
    assert all(digest == there[step] for step, digest in here.items() if step in there), fault


def test_killed_and_failed_anywhere(workdir, uninterrupted):
    before = 0
    for fault, code, words in (
        ("kill@step:1", KILLED, ""),
        ("nan@step:9", 1, "step 9 is not finite"),
        ("kill@saving:12", KILLED, ""),
        ("nospace@saving:12", 1, " free)"),
        ("kill@committed:18", KILLED, ""),
        (f"kill@step:{STEPS}", KILLED, ""),
    ):
        codes, output = run(workdir, steps=STEPS, fault=fault)
        assert codes == [code] and words in output, (fault, output)
        # The owner is known to be dead: nothing is waited for.
        assert (before == KILLED) == ("which no longer lives" in output), (fault, output)
        assert "to see whether" not in output
        before = code
        require_good(workdir, uninterrupted, fault)
    assert run(workdir, steps=STEPS)[0] == [0]
    assert differences(workdir, uninterrupted) == []


def test_told_to_stop_anywhere(workdir, uninterrupted):
    codes, output = run(workdir, steps=STEPS, fault="term@compiling")
    assert codes == [42] and "nothing to save yet" in output
    assert [row["kind"] for row in journal(workdir)] == ["start", "stopped"]
    for fault, earliest, latest in (("step:2", 1, 4), ("evaluating:3", 6, 6), ("saving:12", 12, 20)):
        # Slowly: a save goes on in the background, and the signal must not come after the last step.
        codes, output = run(workdir, steps=STEPS, fault=f"term@{fault}", step_seconds=0.2)
        assert codes == [42] and "SIGTERM: stopped after step" in output, (fault, output)
        assert earliest <= max(digests(workdir)) <= latest, fault
        require_good(workdir, uninterrupted, fault)
    with Training(workdir, steps=STEPS, fault="hang@input:26") as stalled:
        stalled.wait_for("input 26")
        codes, output = run(workdir, steps=STEPS)
        assert codes == [2] and output.count("\n") == 1, output
        assert f"in use by the run of process {stalled.processes[0].pid} on host " in output
        stalled.signal(signal.SIGTERM)
        assert stalled.end() == [42], stalled.output()
    assert max(digests(workdir)) in (24, 25)
    with Training(workdir, steps=STEPS, fault=f"hang@saving:{STEPS}") as twice:
        twice.wait_for(f"saving {STEPS}")
        twice.signal(signal.SIGTERM)
        twice.wait_until(lambda: "a second one ends at once" in twice.output())
        time.sleep(1.0)
        assert not twice.has_ended
        twice.signal(signal.SIGTERM)
        assert twice.end(seconds=20) == [143], twice.output()
    assert journal(workdir)[-1]["kind"] == "stopped"
    assert run(workdir, steps=STEPS)[0] == [0]
    assert differences(workdir, uninterrupted) == []


def test_a_run_goes_on_with_the_same_numbers_on_other_devices(tmp_path):
    recipe: dict[str, Any] = {"steps": 24, "replicas": 4, "bn_group_size": 2}
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    codes, output = run(whole, cpu_replicas=4, **recipe)
    assert codes == [0] and " on " not in output.split("replicas", 1)[1].partition("\n")[0], output
    for hosts, devices, fault, codes, words in (
        (1, 4, "term@step:8", [42], "4 × cpu, 1 host"),
        (2, 1, "term@step:14", [42, 42], "4 on 2 × cpu, 2 hosts: 2 micro-batches of 15 images a device"),
        (1, 1, "kill@step:20", [KILLED], "4 on 1 × cpu, 1 host: 2 micro-batches of 30 images a device"),
        (1, 2, "", [0], "start before was on 1 device, this one is on 2 devices: sums run in another order"),
    ):
        found, output = run(moved, hosts=hosts, cpu_replicas=devices, fault=fault, **recipe)
        assert found == codes and words in " ".join(output.split()), output
    assert [row["step"] for row in rows(moved, "eval")] == [6, 12, 18, 24]
    for there, here in zip(rows(whole, "eval"), rows(moved, "eval"), strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-4)
    assert sum(row["images"] for row in rows(moved, "train")) == 24 * 60


def test_output_that_is_lost_ends_no_run(workdir, uninterrupted):
    with Training(workdir, steps=STEPS, fault="term@step:8", out=Path("/dev/full")) as training:
        assert training.end() == [42]
    lost = [row for row in journal(workdir) if row["kind"] == "output_lost"]
    full = ("standard output", "No space left on device")
    assert (lost[0]["stream"], lost[0]["reason"]) == full and len(lost) <= 2  # and standard error
    assert journal(workdir)[-1]["kind"] == "stopped" and max(digests(workdir)) >= 7

    os.mkfifo(pipe := workdir.parent / "pipe")

    def read_three_lines():
        with pipe.open("rb") as head:
            lines.extend(head.readline() for _ in range(3))

    lines: list[bytes] = []
    (reader := threading.Thread(target=read_three_lines)).start()
    with Training(workdir, steps=STEPS, out=pipe, step_seconds=0.05) as training:
        assert training.end() == [0]
    reader.join()
    assert lines[0].startswith(b"model ")
    reasons = [row["reason"] for row in journal(workdir) if row["kind"] == "output_lost"][len(lost) :]
    assert reasons[0] == "Broken pipe" and journal(workdir)[-1]["kind"] == "end"
    assert differences(workdir, uninterrupted) == []
    assert "Lost standard output" in (workdir / "report.html").read_text()


@pytest.fixture(scope="module")
def uninterrupted_pair(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pair") / "run"
    code, output = rehearse_pod(workdir, steps=STEPS)
    assert code == 0, output
    assert "[0] records in " in output and "[1] records" not in output
    return workdir


@pytest.fixture
def pair(tmp_path, uninterrupted_pair):
    take_programs(uninterrupted_pair, tmp_path / "run")
    elsewhere = tmp_path / "not" / "there"
    yield {"workdir": tmp_path / "run", "steps": STEPS, "hosts": 2, "workdir_of_others": elsewhere}
    assert not elsewhere.parent.exists()


def test_hosts_whose_devices_are_numbered_the_other_way_round(pair, uninterrupted_pair):
    """Rows, checkpoints, summary and report come from process 0, wherever its devices are."""
    workdir = pair["workdir"]
    of_the_other = workdir / "programs" / "host1"  # each place has a program of its own
    for file in [*of_the_other.iterdir()]:
        shutil.copy(file, workdir / "programs")
    for file in [file for file in (workdir / "programs").iterdir() if file.is_file()]:
        shutil.copy(file, of_the_other)
    codes, output = run(**pair, fault="kill@committed:12,host=0", reversed_places=True)
    assert codes[0] == KILLED, output
    assert "process → place among the devices: 0 → 1, 1 → 0" in output
    codes, output = run(**pair, reversed_places=True)
    assert codes == [0, 0] and "resumed from step 12" in output, output
    assert differences(workdir, uninterrupted_pair) == []
    assert summary(workdir)["best"] and "<svg" in (workdir / "report.html").read_text()
    assert journal(workdir)[-1]["kind"] == "end"


def test_two_hosts_end_together_and_resume(pair, uninterrupted_pair):
    with Training(**pair, fault="hang@input:8,host=1") as stalled:  # it has no batch: all abandon the step
        stalled.wait_for("input 8", host=1)
        stalled.signal(signal.SIGTERM)
        assert stalled.end() == [42, 42], stalled.output() + stalled.output(1)
    last = journal(pair["workdir"])[-1]
    assert last["kind"] == "stopped" and last["step"] in digests(pair["workdir"])
    codes, output = run(**pair, fault="nan@step:13,host=1")
    assert codes == [1, 1] and output.count("step 13 is not finite") >= 2, output
    assert "step 13 is not finite" in journal(pair["workdir"])[-1]["error"]
    for fault, seconds in (
        ("kill@step:14,host=1", 30),
        ("raise@step:20,host=1", 10),
        (f"kill@committed:{STEPS},host=0", 30),
    ):
        with Training(**pair, fault=fault) as training:
            took = training.seconds_to_the_end_of_all()
            codes = training.end()
            assert all(code not in (0, 42) for code in codes), (codes, training.output())
            assert took < seconds, fault
        require_good(pair["workdir"], uninterrupted_pair, fault)
        if fault.startswith("raise"):
            assert journal(pair["workdir"])[-1]["error"].startswith("host 1: ")
    assert max(digests(pair["workdir"])) == STEPS and not (pair["workdir"] / "summary.json").exists()
    codes, output = run(**pair)
    assert codes == [0, 0], output
    assert differences(pair["workdir"], uninterrupted_pair) == []
    starts = [row["step"] for row in journal(pair["workdir"]) if row["kind"] == "start"]
    assert starts[0] == 0 and starts == sorted(starts) and starts[-1] == STEPS and len(starts) == 6
    assert journal(pair["workdir"])[-1]["kind"] == "end"


@pytest.mark.long
def test_two_hosts_told_to_stop_anywhere(pair, uninterrupted_pair):
    workdir = pair["workdir"]
    codes, output = run(**pair, fault="term@compiling,host=1")
    assert codes == [42, 42] and "nothing to save yet" in output, output
    codes, output = run(**pair, fault="term@evaluating:3,host=1")
    assert codes == [42, 42] and max(digests(workdir)) == 6, output
    with Training(**pair, fault="hang@input:14,host=1") as stalled:
        stalled.wait_for("input 14", host=1)
        stalled.signal(signal.SIGTERM)
        assert stalled.end() == [42, 42], stalled.output() + stalled.output(1)
    assert max(digests(workdir)) in (12, 13)
    codes, output = run(**pair, fault="term@saving:18,host=0", step_seconds=0.2)
    assert codes == [42, 42] and 18 <= max(digests(workdir)) < 24, output
    require_good(workdir, uninterrupted_pair, "saving")
    with Training(**pair, save_seconds=3.0) as last:
        last.wait_for(f"saving {STEPS}")
        time.sleep(1.0)
        assert not any(process.poll() is not None for process in last.processes), "left before all was saved"
        last.signal(signal.SIGTERM, host=1)
        assert last.end() in ([42, 42], [0, 0]), last.output() + last.output(1)
    codes, output = run(**pair)
    assert codes == [0, 0], output
    assert differences(workdir, uninterrupted_pair) == []


@pytest.mark.parametrize("policy", [pytest.param("skip", marks=pytest.mark.long), "rewind"])
def test_a_step_that_is_not_finite_on_one_of_two_hosts_is_gone_over(pair, uninterrupted_pair, policy):
    workdir = pair["workdir"]
    codes, output = run(**pair, fault="nan@step:9,host=1", on_non_finite=policy)
    assert codes == [0, 0] and "step 9 is not finite" in output, output
    assert summary(workdir)["state_digest"] != summary(uninterrupted_pair)["state_digest"]
    assert digests(workdir)[6] == digests(uninterrupted_pair)[6]
    kind = {"skip": "skipped_step", "rewind": "rewound"}[policy]
    assert [row["step"] for row in journal(workdir) if row["kind"] == kind] == [9]
    found = json.loads((workdir / "predictions.json").read_text())
    hits = sum(correct for *_, correct in found["per_class"])
    assert hits / 360 == summary(workdir)["final"]["top1"]  # of both hosts
    assert [row["step"] for row in rows(workdir, "eval")] == [6, 12, 18, 24, 30]


@pytest.mark.long
def test_a_run_goes_on_on_other_hosts(pair, uninterrupted):
    workdir = pair["workdir"]
    shutil.copytree(uninterrupted / "programs", workdir / "programs", dirs_exist_ok=True)
    codes, output = run(workdir, steps=STEPS, fault="term@step:8", step_seconds=0.2)
    assert codes == [42], output
    codes, output = run(**pair, bn_group_size=1)
    assert codes == [2, 2] and output.count("set --config.bn_group_size=2") == 2, output
    codes, output = run(**pair)
    assert codes == [0, 0] and "the start before was on 1 host, this one is on 2 hosts" in output, output
    steps = [row["step"] for row in rows(workdir, "train")]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS
    assert sum(row["images"] for row in rows(workdir, "train")) == STEPS * 60
    ours, theirs = rows(workdir, "eval"), rows(uninterrupted, "eval")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    # The same images and masks; sums run in another order.
    for name in ("loss", "top1"):
        assert [row[name] for row in ours] == pytest.approx([row[name] for row in theirs], rel=0.01)


@pytest.mark.long
def test_the_end_of_the_first_host_ends_the_other(pair):
    with Training(**pair, fault="kill@step:8,host=0") as training:
        assert training.seconds_to_the_end_of_all() < 30
        assert all(code not in (0, 42) for code in training.end())


def test_a_stuck_host_ends_the_run(pair):
    with Training(**pair, fault="stop@step:4,host=1", stuck_seconds=6.0) as training:
        training.wait_for("step 4", host=1)
        training.wait_until(lambda: training.processes[0].poll() is not None, seconds=30)
        assert training.processes[0].wait() not in (0, 42), training.output()
        assert training.processes[1].poll() is None
    with Training(**pair, fault="hang@step:8,host=1", stuck_seconds=6.0) as training:
        training.wait_for("step 8", host=1)
        codes = training.end(seconds=60)
        assert all(code not in (0, 42) for code in codes), (codes, training.output())
        # Whichever notices first ends the other one, perhaps before that has printed its stacks.
        stacks = {0: "loop.py", 1: "inject.py"}
        said = {host: training.output(host) for host in stacks}
        assert any("stuck: training for" in said[host] and stacks[host] in said[host] for host in said), said
