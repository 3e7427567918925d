"""Who holds a workdir: one run at a time, found alive or dead with real processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from etils import epath

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir import owner
from efficientnet_pod.workdir.owner import Owner
from efficientnet_pod.workdir.owner_record import process_start, this_process

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from etils import epath
from efficientnet_pod.errors import UserError
from efficientnet_pod.workdir import owner
from efficientnet_pod.workdir.owner import Owner
read = owner.read_owner
def slowly(file):  # so that starts at once are in each other's way
    record = read(file)
    time.sleep(0.1)
    return record
owner.read_owner = slowly
start = float(sys.argv[2])
time.sleep(max(0, start - time.time()))
try:
    with Owner(epath.Path(sys.argv[1]), interval=0.2):
        print("held", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


def start(folder, at=0.0):
    """Returns a process that takes the workdir, says so, and holds it until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(at)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def line_of(process):
    assert process.stdout is not None
    return process.stdout.readline().strip()


def stop(process, sent=None):
    if sent is not None:
        os.kill(process.pid, sent)
    process.communicate(timeout=20)


def record(folder):
    return json.loads((folder / "owner.json").read_text())


def write(folder, **fields):
    """Leaves the file of a run that is not there: of this process, but for the fields."""
    fields = {"run_id": "other", "beat": 4, **this_process(), **fields}
    (folder / "owner.json").write_text(json.dumps(fields))


def quick(folder, lines=None):
    warn = (lambda line: None) if lines is None else lines.append
    return Owner(epath.Path(folder), interval=0.05, warn=warn)


def test_a_run_holds_its_workdir_and_gives_it_back(tmp_path):
    with quick(tmp_path / "new") as held:
        fields = record(tmp_path / "new")
        assert (fields["run_id"], fields["pid"]) == (held.run_id, os.getpid())
        with pytest.raises(
            UserError, match=rf"in use by the run of process {os.getpid()} on host .*since 20"
        ):
            quick(tmp_path / "new").__enter__()
        held.raise_if_lost()
    assert not (tmp_path / "new" / "owner.json").exists()
    held.release()  # again
    with quick(tmp_path / "new"):
        pass


def test_the_file_beats(tmp_path):
    with quick(tmp_path):
        first, until = record(tmp_path)["beat"], time.monotonic() + 5
        while record(tmp_path)["beat"] < first + 3:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_of_several_starts_at_once_one_wins(tmp_path):
    at = time.time() + 3.0  # all have imported what they need
    processes = [start(tmp_path, at) for _ in range(5)]
    lines = [line_of(process) for process in processes]
    winner = processes[lines.index("held")]
    assert lines.count("held") == 1
    others = [line for line in lines if line != "held"]
    assert all(f"in use by the run of process {winner.pid} " in line for line in others), lines
    for process in processes:
        stop(process)
    assert not (tmp_path / "owner.json").exists()


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_run_does_not_hinder_the_next_one(tmp_path, reaped):
    process = start(tmp_path)
    assert line_of(process) == "held"
    os.kill(process.pid, signal.SIGKILL)
    if reaped:
        process.wait()
    else:  # nobody has asked how it ended: it is still in the list of processes
        until = time.monotonic() + 5
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < until
            time.sleep(0.01)
    assert record(tmp_path)["pid"] == process.pid
    lines, began = [], time.monotonic()
    with Owner(epath.Path(tmp_path), warn=lines.append) as held:
        assert record(tmp_path)["run_id"] == held.run_id
    assert time.monotonic() - began < 2  # without a wait for its beats
    assert lines == [
        line for line in lines if f"took the workdir over from the run of process {process.pid}" in line
    ]
    assert len(lines) == 1
    process.communicate()


def test_of_several_starts_after_a_kill_one_wins(tmp_path):
    process = start(tmp_path)
    assert line_of(process) == "held"
    stop(process, signal.SIGKILL)
    at = time.time() + 3.0
    processes = [start(tmp_path, at) for _ in range(4)]
    lines = [[line_of(process)] for process in processes]
    for process, printed in zip(processes, lines, strict=True):
        if printed[0].startswith("took the workdir over"):
            printed.append(line_of(process))
    assert sorted(printed[-1] == "held" for printed in lines) == [False, False, False, True], lines
    for process in processes:
        stop(process)


def test_a_stopped_run_still_holds_its_workdir(tmp_path):
    process = start(tmp_path)
    assert line_of(process) == "held"
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(UserError, match=f"process {process.pid} on host"):
            quick(tmp_path).__enter__()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    stop(process)


def test_a_later_process_of_the_same_number_is_not_the_run(tmp_path):
    write(tmp_path, process_start=process_start(os.getpid()) - 1)
    with quick(tmp_path):
        pass


@pytest.mark.parametrize(
    "elsewhere",
    [{"host": "other"}, {"boot_id": "other"}, {"pid_namespace": "pid:[1]"}, {"process_start": None}],
)
def test_a_run_elsewhere_that_does_not_beat_is_taken_over(tmp_path, elsewhere):
    write(tmp_path, **elsewhere)
    lines, began = [], time.monotonic()
    with quick(tmp_path, lines) as held:
        assert time.monotonic() - began >= 2.5 * 0.05
        assert record(tmp_path)["run_id"] == held.run_id
    assert "waiting 0 s to see whether the run of process" in lines[0]
    assert "took the workdir over from the run of process" in lines[1] and len(lines) == 2


def test_a_run_elsewhere_that_beats_is_left_alone(tmp_path):
    write(tmp_path, host="pod-7", pid=41)
    threading.Timer(0.1, lambda: write(tmp_path, host="pod-7", pid=41, beat=5)).start()
    with pytest.raises(
        UserError, match=r"in use by the run of process 41 on host pod-7, since .*stop that run"
    ):
        Owner(epath.Path(tmp_path), interval=0.2, warn=lambda line: None).__enter__()
    assert record(tmp_path)["beat"] == 5


def test_a_run_elsewhere_that_ends_meanwhile_is_followed_at_once(tmp_path):
    write(tmp_path, host="pod-7")
    threading.Timer(0.1, (tmp_path / "owner.json").unlink).start()
    began = time.monotonic()
    with Owner(epath.Path(tmp_path), interval=4.0, warn=lambda line: None):
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("contents", ["", "{", "[]", '{"beat": 1}'])
def test_a_file_that_is_not_readable_is_a_run_elsewhere(tmp_path, contents):
    (tmp_path / "owner.json").write_text(contents)
    lines = []
    with quick(tmp_path, lines):
        pass
    assert "waiting" in lines[0]


def test_a_run_hears_that_another_has_its_workdir(tmp_path):
    with quick(tmp_path) as held:
        write(tmp_path, host="pod-7", pid=41)
        until = time.monotonic() + 5
        while not held._lost.is_set():
            assert time.monotonic() < until
            time.sleep(0.02)
        with pytest.raises(RunError, match="has been taken over by the run of process 41 on host pod-7"):
            held.raise_if_lost()
    assert record(tmp_path)["pid"] == 41  # which is not ours to remove


def test_a_file_that_cannot_be_refreshed_is_reported_once(tmp_path, monkeypatch):
    lines = []
    with quick(tmp_path, lines) as held:

        def full():
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(held, "_write", full)
        until = time.monotonic() + 5
        while not lines:
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.2)
    assert len(lines) == 1 and "cannot be refreshed: [Errno 28] No space left on device" in lines[0]


def test_release_does_not_wait_for_a_file_system_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "_RELEASE_SECONDS", 0.2)
    freed = threading.Event()
    with quick(tmp_path) as held:
        monkeypatch.setattr(owner, "read_owner", lambda file: freed.wait(20) and None)
        began = time.monotonic()
        held.release()
        assert time.monotonic() - began < 2
        freed.set()


def test_without_locks_the_last_writer_wins(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "_locked", lambda file: None)
    monkeypatch.setattr(owner, "_SETTLE_SECONDS", 0.3)
    threading.Timer(0.1, lambda: write(tmp_path, host="pod-7")).start()
    with pytest.raises(UserError, match="in use by .* on host pod-7"):
        quick(tmp_path).__enter__()
    (tmp_path / "owner.json").unlink()
    with quick(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match="workdir '.*file/run' cannot be written: Not a directory; choose another"
    ):
        quick(tmp_path / "file" / "run").__enter__()


def test_an_owner_file_that_cannot_be_written_is_named_with_the_room_there_is(tmp_path, monkeypatch):
    def full():
        raise OSError(28, "")

    held = quick(tmp_path)
    monkeypatch.setattr(held, "_write", full)
    message = r"owner.json' cannot be written: No space left on device, [\d,]+ bytes free; make room there"
    with pytest.raises(RunError, match=message):
        held.__enter__()
