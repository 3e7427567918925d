"""Kills inside a save or a deletion: whole checkpoints are left, and the next start finishes it."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from states import abstract, bits, damage, make_state, names, newest, save_states

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.pod import inject
from efficientnet_pod.workdir.checkpoints import folder as checkpoint_folder
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints

HERE = Path(__file__).parents[1] / "support"


# One process imports everything and forks: each fork saves 1, 2, 3 ... and is killed inside the third.
KILLED = """
import os, pathlib, random, signal, sys, threading
sys.path[:0] = [{here!r}, {root!r}]
import orbax.checkpoint as ocp
from efficientnet_pod.pod import inject
from efficientnet_pod.workdir import files
from efficientnet_pod.workdir.checkpoints import checkpoints as checkpoint, folder as checkpoint_folder
import states

def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
def half(path):
    next(file for file in pathlib.Path(path, "state").rglob("*") if file.is_file()).unlink()
    die()
def after(function): return lambda *given: [function(*given), die()]
def arm(point):
    folder = checkpoint_folder.CheckpointFolder
    if point == "mark": folder.mark = after(folder.mark)
    if point == "arrays": ocp.PyTreeCheckpointHandler.finalize = die
    if point in ("commit", "repeated"):
        write = checkpoint_folder.write_whole
        def write_or_die(file, contents):
            if file.name == "3.unfinished" and b"sha256" in contents: files.os.replace = die
            write(file, contents)
        def repeat_or_die(file, contents): die() if file.name == "commit.json" else write(file, contents)
        checkpoint_folder.write_whole = write_or_die if point == "commit" else repeat_or_die
    if point in ("saving", "committed"): inject.at = lambda name, step: die() if name == point else None
    if point == "deleting": checkpoint_folder.remove = half

for name in os.listdir("."):
    if os.fork() == 0:
        with checkpoint.Checkpoints(os.path.abspath(name), keep=2) as checkpoints:
            if name.startswith("after"): threading.Timer(random.Random(name).uniform(0.1, 0.9), die).start()
            for step in range(1, 100):
                if step == 3: checkpoints.wait(); arm(name)
                checkpoints.save(step, states.make_state(step), metrics={{}})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL, name
"""
POINTS = {"mark": 2, "arrays": 2, "saving": 2, "commit": 2, "repeated": 2, "committed": 3, "deleting": 3}
TIMED = [f"after-{number}" for number in range(6)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    for name in [*POINTS, *TIMED]:
        (folder / name).mkdir()
    program = KILLED.format(here=str(HERE), root=str(HERE.parents[1]))
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.parametrize("point", [*POINTS, *TIMED])
def test_a_killed_save_costs_that_save_at_most(killed, tmp_path, point):
    folder = Path(shutil.copytree(killed / point, tmp_path / "checkpoints"))
    left = names(folder)
    with Checkpoints(folder) as checkpoints:
        committed = checkpoints.steps
    if point in POINTS:
        assert (committed[-1], "3.unfinished" in left) == (POINTS[point], point != "deleting")
        assert ("1.unfinished" in left) == (point == "deleting")
    # The mark repeats the commit before there is one: from there on the checkpoint is as good as committed.
    marks = {name: (folder / name).read_bytes() for name in left if name.endswith(".unfinished")}
    committed += [int(name.split(".")[0]) for name, mark in marks.items() if b"sha256" in mark]
    committed = sorted(set(committed))
    removed = {name for name in left if name.isdecimal()} - set(map(str, committed))
    step, state, warnings = newest(folder)
    assert step == max(committed, default=None)
    assert {line.split()[1] for line in warnings if "has been removed: its" in line} == removed
    assert len(warnings) <= 1 and (point != "repeated" or step == 3)
    assert step is None or bits(state) == bits(make_state(step))
    with Checkpoints(folder) as checkpoints:
        for good in committed:
            assert bits(checkpoints.restore(good, abstract(make_state(0)))) == bits(make_state(good))
    assert names(folder) == sorted(map(str, committed))  # what was cut short is gone
    assert newest(folder)[2] == []
    save_states(folder, 1000, 1001, keep=2)
    assert names(folder)[:2] == ["1000", "1001"]


@pytest.mark.parametrize("point", ["repeated", "committed"])
def test_a_commit_lost_after_a_kill_is_made_up_for_by_the_mark(killed, tmp_path, point):
    folder = Path(shutil.copytree(killed / point, tmp_path / "checkpoints"))
    for step in (1, 2):
        shutil.rmtree(folder / str(step))
    (folder / "3" / "commit.json").unlink(missing_ok=True)
    step, state, warnings = newest(folder)
    assert (step, warnings, names(folder)) == (3, [], ["3"]) and bits(state) == bits(make_state(3))


@pytest.mark.parametrize("mark", [b"", b"{", b"This checkpoint is being\n"])
def test_only_a_mark_that_says_so_costs_a_checkpoint(killed, tmp_path, mark):
    folder = Path(shutil.copytree(killed / "committed", tmp_path / "checkpoints"))
    for step in (1, 2):
        shutil.rmtree(folder / str(step))
    (folder / "3" / "commit.json").unlink()
    (folder / "3.unfinished").write_bytes(mark)
    with pytest.raises(UserError, match=r"no good checkpoint .*step 3: commit\.json is missing"):
        newest(folder)
    assert (folder / "3" / "state").exists()


def test_a_replacement_cut_short_whose_old_commit_is_lost_is_not_removed(copy, monkeypatch):
    def killed(name, step=None):
        raise SystemExit  # ends the thread of the save without its cleaning up, as a kill would

    monkeypatch.setattr(inject, "at", killed)
    with pytest.raises(SystemExit), Checkpoints(copy) as checkpoints:
        checkpoints.save(3, make_state(9), metrics={})
    assert names(copy / "3") == ["commit.json", "state", "state-again"] and "3.unfinished" in names(copy)
    (copy / "3" / "commit.json").unlink()
    step, state, warnings = newest(copy)
    assert step == 3 and bits(state) == bits(make_state(3)) and names(copy / "3") == ["commit.json", "state"]
    assert len(warnings) == 1 and "checkpoint 3" in warnings[0] and "is whole; files of a save" in warnings[0]


def test_a_commit_that_cannot_be_made_up_for_is_no_damage(killed, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(killed / "repeated", tmp_path / "checkpoints"))

    def full(file, contents):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(checkpoint_folder, "write_whole", full)
    with pytest.raises(RunError, match=r"3/commit.json' cannot be written: No space left .* bytes free; "):
        newest(folder)
    monkeypatch.undo()
    assert newest(folder)[0] == 3


def test_what_a_rewound_run_has_left_is_forgotten(copy):
    save_states(copy, 4, 5, 6, keep=9)
    damage(copy / "6" / "commit.json", "truncate")
    (copy / "5" / "commit.json").unlink()
    (copy / "damaged-9-20261231T000000.000000Z").mkdir()
    lines = []
    with Checkpoints(copy, keep=9, warn=lines.append) as checkpoints:
        checkpoints.save(7, make_state(7), metrics={})
        checkpoints.forget_after(2)
        checkpoints.forget_after(2)
    assert [line.split()[1] for line in lines[-5:]] == ["7", "6", "5", "4", "3"]
    assert all(line.endswith("is removed: the run went back to step 2") for line in lines[-5:])
    assert names(copy) == ["1", "2", "damaged-9-20261231T000000.000000Z"]
    assert newest(copy)[0] == 2


def test_a_run_that_cannot_forget_ends(copy, monkeypatch):
    def full(file, contents):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(checkpoint_folder, "write_whole", full)
    with (
        Checkpoints(copy) as checkpoints,
        pytest.raises(
            RunError, match=r"checkpoint '.*/3' cannot be removed: No space left .* step 1: remove"
        ),
    ):
        checkpoints.forget_after(1)
    assert newest(copy)[0] == 3


# Each fork forgets, and is killed before another change of a name.
FORGETTING = """
import itertools, os, shutil, signal, sys
sys.path[:0] = [{here!r}, {root!r}]
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints

for kill in range(100):
    shutil.copytree({saved!r}, str(kill))
    if os.fork() == 0:
        changes = itertools.count()
        def counted(change):
            def changed(*given, **options):
                if next(changes) == kill: os.kill(os.getpid(), signal.SIGKILL)
                return change(*given, **options)
            return changed
        for name in ("replace", "unlink", "remove", "rmdir"): setattr(os, name, counted(getattr(os, name)))
        with Checkpoints(os.path.abspath(str(kill)), warn=lambda line: None) as checkpoints:
            checkpoints.forget_after(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.wait()[1]) == 0: break
"""


def test_a_kill_while_forgetting_leaves_whole_checkpoints(saved, tmp_path):
    program = FORGETTING.format(here=str(HERE), root=str(HERE.parents[1]), saved=str(saved))
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    resumed = []
    for folder in sorted(tmp_path.iterdir(), key=lambda path: int(path.name)):
        step, state, warnings = newest(folder)
        assert bits(state) == bits(make_state(step))
        assert names(folder) == [str(kept) for kept in range(1, step + 1)]
        assert all("removed: its deletion had been cut short" in line for line in warnings)
        resumed.append(step)
    assert resumed == sorted(resumed, reverse=True) and set(resumed) == {1, 2, 3}
    assert resumed[4:] == [1] * len(resumed[4:]) and 10 < len(resumed) < 100
