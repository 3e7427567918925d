"""What a checkpoint promises, with real files, real kills, a real full disk and two real processes."""

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from states import make_state

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.pod import inject
from efficientnet_pod.run.state import TrainState
from efficientnet_pod.workdir.checkpoints import folder as checkpoint_folder
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints, digest_of

HERE = Path(__file__).parents[1] / "support"


def bits(state):
    return jax.tree.map(lambda leaf: (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()), state)


def abstract(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


def save(folder, *steps, **options):
    with Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), metrics={"top1": step / 10, "loss": 1.0})


def newest(folder):
    """Returns step and state of the newest good checkpoint, and the warnings."""
    warnings = []
    with Checkpoints(folder, report=warnings.append) as checkpoints:
        found = checkpoints.restore_newest(abstract(make_state(0)))
        return found and found[0], found and found[1], warnings


def names(folder):
    return sorted(os.listdir(folder))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    save(folder, 1, 2, 3)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


@pytest.mark.parametrize("ema", [False, True])
def test_the_same_bits_come_back(tmp_path, ema):
    state = make_state(5, ema=ema)
    on_devices = jax.tree.map(jnp.asarray, state)
    record = {"position": {"epoch": 1}, "devices": 8}
    with Checkpoints(tmp_path / "new" / "checkpoints") as checkpoints:
        assert checkpoints.restore_newest(abstract(state)) is None and not os.listdir(tmp_path)
        checkpoints.save(5, on_devices, metrics={"top1": 0.5, "loss": 2.0}, record=record)
        checkpoints.wait()
        restored = checkpoints.restore(5, abstract(state))
        commit = checkpoints.commit(5)
    assert bits(restored) == bits(state)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored))
    assert commit["digest"] == digest_of(state) == digest_of(on_devices) == digest_of(restored)
    assert (commit["step"], commit["record"], commit["metrics"]["loss"]) == (5, record, 2.0)
    assert names(tmp_path / "new" / "checkpoints") == ["5"]
    kernel = commit["tensors"]["params/stem/kernel"]
    assert kernel == {
        "shape": [32, 64],
        "dtype": "float32",
        "sha256": hashlib.sha256(state.params["stem"]["kernel"].astype("<f4").tobytes()).hexdigest(),
    }
    folder = tmp_path / "new" / "checkpoints" / "5" / "state"
    sizes = {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    assert commit["files"] == sizes


def test_a_digest_is_of_bits_names_shapes_and_dtypes():
    zero = {"a": np.zeros(4, np.float32)}
    others = [
        {"a": np.array([0, 0, 0, -0.0], np.float32)},
        {"b": np.zeros(4, np.float32)},
        {"a": np.zeros((2, 2), np.float32)},
        {"a": np.zeros(4, np.int32)},
        {"a": np.zeros(4, np.float32), "b": np.zeros(0, np.float32)},
    ]
    assert len({digest_of(tree) for tree in [zero, *others]}) == 6
    quiet, payload = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert digest_of({"a": np.array(quiet)}) != digest_of({"a": np.array(payload)})
    fortran = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert digest_of({"a": fortran}) == digest_of({"a": np.ascontiguousarray(fortran)})


def test_the_newest_and_the_best_are_kept(tmp_path):
    top1 = {1: 0.3, 2: 0.9, 3: 0.4, 4: 0.9, 5: 0.5, 6: None, 7: 0.6}
    kept = []
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert (checkpoints.latest_step, checkpoints.best_step) == (None, None)
        for step, value in top1.items():
            metrics = {} if value is None else {"top1": value}
            checkpoints.save(step, make_state(step), metrics=metrics)
            checkpoints.wait()
            kept.append(checkpoints.steps)
        assert kept == [[1], [1, 2], [2, 3], [3, 4], [4, 5], [4, 5, 6], [4, 5, 6, 7]]
        assert (checkpoints.latest_step, checkpoints.best_step) == (7, 4)
        checkpoints.save(5, make_state(5), metrics={"top1": 0.1})  # after going back to an older one
        checkpoints.wait()
        assert checkpoints.steps == [4, 5, 6, 7]
    assert names(tmp_path) == ["4", "5", "6", "7"]


def test_a_step_saved_again_is_replaced_or_gets_its_metrics(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), metrics={}, record={"devices": 8})
        checkpoints.wait()
        before = (tmp_path / "1" / "commit.json").read_bytes()
        checkpoints.save(1, make_state(1), metrics={})
        checkpoints.wait()
        assert (tmp_path / "1" / "commit.json").read_bytes() == before
        checkpoints.save(1, make_state(1), metrics={"top1": 0.5})  # interrupted before its evaluation
        checkpoints.wait()
        commit = checkpoints.commit(1)
        assert (commit["metrics"], commit["record"]) == ({"top1": 0.5}, {"devices": 8})
        for other in (2, 3, 4):
            checkpoints.save(1, make_state(other), metrics={})
            checkpoints.wait()
            assert bits(checkpoints.restore(1, abstract(make_state(0)))) == bits(make_state(other))
            assert len(names(tmp_path / "1")) == 2 and names(tmp_path) == ["1"]


# Orbax closes its event loop at the first error of a read, with others still under way.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["flip", "truncate", "delete"])
def test_a_damaged_file_of_any_kind_is_found_or_does_no_harm(saved, tmp_path, kind):
    files = sorted(path.relative_to(saved / "3") for path in (saved / "3").rglob("*") if path.is_file())
    assert len(files) > 8
    found = set()
    for number, name in enumerate(files):
        folder = Path(shutil.copytree(saved, tmp_path / str(number)))
        damage(folder / "3" / name, kind)
        step, state, warnings = newest(folder)
        assert bits(state) == bits(make_state(step)), name
        if step == 3:
            continue
        found.add(str(name))
        assert step == 2 and len(warnings) == 1 and "checkpoint 3" in warnings[0] and "damaged" in warnings[0]
        (aside,) = [other for other in names(folder) if other.startswith("damaged-3-")]
        assert aside in warnings[0]
        left = {path.relative_to(folder / aside) for path in (folder / aside).rglob("*") if path.is_file()}
        assert left == set(files) - ({name} if kind == "delete" else set())  # nothing more is lost
        assert newest(folder)[0] == 2 and not newest(folder)[2]
    largest = max(files, key=lambda name: (saved / "3" / name).stat().st_size)
    assert {"commit.json", str(largest), "state/_METADATA", "state/manifest.ocdbt"} <= found or kind == "flip"
    assert {"commit.json", str(largest)} <= found


def damage(path, kind):
    raw = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
        return
    raw[len(raw) // 2] ^= 0x10
    path.write_bytes(raw if kind == "flip" else raw[: len(raw) // 2])


def test_no_byte_of_a_commit_can_change_unseen(copy):
    commit = copy / "3" / "commit.json"
    raw = commit.read_bytes()
    with Checkpoints(copy) as checkpoints:
        for place in range(0, len(raw), 97):
            commit.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
            with pytest.raises(
                UserError, match=r"checkpoint 3 in .* is damaged: commit\.json .*there are: 1, 2$"
            ):
                checkpoints.commit(3)
        commit.write_bytes(raw)
        assert checkpoints.commit(3)["step"] == 3


def test_empty_folders_and_foreign_commits_are_damage(copy):
    (copy / "7").mkdir()
    shutil.copytree(copy / "1", copy / "6")
    shutil.rmtree(copy / "3" / "state")
    (copy / "notes").mkdir()
    with Checkpoints(copy) as checkpoints:
        assert (checkpoints.steps, checkpoints.latest_step, checkpoints.best_step) == ([1, 2, 3, 6], 6, 3)
        for step in (3, 6, 7):
            with pytest.raises(UserError, match=f"checkpoint {step} in .* is damaged: "):
                checkpoints.restore(step, abstract(make_state(0)))
        with pytest.raises(UserError, match=r"no checkpoint of step 5 in .*; there are: 1, 2, 3, 6"):
            checkpoints.restore(5, abstract(make_state(0)))
    assert names(copy) == ["1", "2", "3", "6", "7", "notes"]  # reading changes nothing
    step, _, warnings = newest(copy)
    assert step == 2 and [line.split()[1] for line in warnings] == ["7", "6", "3"]
    assert [name.split("-")[:2] for name in names(copy)[2:5]] == [["damaged", s] for s in "367"]


def test_no_good_checkpoint_is_never_a_fresh_start(copy):
    for step in (1, 2, 3):
        damage(copy / str(step) / "commit.json", "truncate")
    for _ in range(2):
        with pytest.raises(UserError, match=r"no good checkpoint .*step 3: commit\.json.*--workdir"):
            newest(copy)
        assert names(copy) == ["1", "2", "3"]
    shutil.rmtree(copy / "1")
    shutil.rmtree(copy / "2")
    (copy / "3").rename(copy / "damaged-3-20261231T000000.000000Z")
    with pytest.raises(UserError, match="no good checkpoint .*damaged-3-2026"):
        newest(copy)


def test_a_checkpoint_of_another_network_is_refused_and_left_alone(copy):
    good = make_state(0)
    kernel = good.params["stem"]["kernel"]
    wanted = {
        r"params/stem/kernel: saved float32 \(32, 64\), wanted bfloat16": kernel.astype(ml_dtypes.bfloat16),
        r"params/stem/kernel: saved float32 \(32, 64\), wanted float32 \(64, 32\)": kernel.T,
    }
    with Checkpoints(copy) as checkpoints:
        for message, other in wanted.items():
            state = TrainState(good.step, {"stem": good.params["stem"] | {"kernel": other}}, *rest(good))
            with pytest.raises(
                UserError, match=f"of another network or optimizer: 1 tensors differ, first {message}"
            ):
                checkpoints.restore_newest(abstract(state))
            with pytest.raises(UserError, match=message):
                checkpoints.restore(3, abstract(state))
        with pytest.raises(UserError, match="first ema/.*: saved none, wanted "):
            checkpoints.restore_newest(abstract(make_state(0, ema=True)))
    assert names(copy) == ["1", "2", "3"]


def rest(state):
    return state.batch_stats, state.opt_state, state.ema


def test_a_state_that_is_not_finite_is_never_written(tmp_path):
    for value in (np.nan, np.inf):
        state = make_state(1)
        state.batch_stats["stem"]["mean"][4] = value
        with (
            Checkpoints(tmp_path / "checkpoints") as checkpoints,
            pytest.raises(
                RunError, match="step 1 is not saved: tensor batch_stats/stem/mean has values that are"
            ),
        ):
            checkpoints.save(1, state, metrics={})
    assert not os.listdir(tmp_path)


def fail_at(monkeypatch, point, error):
    def at(name, step=None):
        if name == point:
            raise error

    monkeypatch.setattr(inject, "at", at)


def test_a_failed_save_surfaces_once_and_leaves_nothing(copy, monkeypatch):
    message = (
        r"checkpoint 4 could not be written to .*: No space left .* \([\d,]+ bytes needed, [\d,]+ free\); "
    )
    fail_at(monkeypatch, "saving", OSError(errno.ENOSPC, "no words of ours"))
    after = {
        "raise_failure": lambda checkpoints: [checkpoints._join(), checkpoints.raise_failure()],
        "save": lambda checkpoints: checkpoints.save(5, make_state(5), metrics={}),
        "wait": lambda checkpoints: checkpoints.wait(),
    }
    with Checkpoints(copy) as checkpoints:
        for call in after.values():
            checkpoints.save(4, make_state(4), metrics={})
            with pytest.raises(RunError, match=message + "older ones are kept, the newest is step 3$"):
                call(checkpoints)
            checkpoints.raise_failure()
            assert names(copy) == ["1", "2", "3"]
    with pytest.raises(RunError, match=message), Checkpoints(copy) as checkpoints:
        checkpoints.save(4, make_state(4), metrics={})
    lines = []
    with pytest.raises(KeyError, match="mine"), Checkpoints(copy, report=lines.append) as checkpoints:
        checkpoints.save(4, make_state(4), metrics={})
        raise KeyError("mine")
    assert len(lines) == 1 and "checkpoint 4 could not be written" in lines[0]


def test_a_failed_replacement_leaves_the_old_one(copy, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(RunError, match="checkpoint 3 could not be written"):
        fail_at(patch, "saving", OSError(errno.EIO, ""))
        with Checkpoints(copy) as checkpoints:
            checkpoints.save(3, make_state(9), metrics={})
    assert names(copy / "3") == ["commit.json", "state"] and names(copy) == ["1", "2", "3"]
    step, state, warnings = newest(copy)
    assert (step, warnings) == (3, []) and bits(state) == bits(make_state(3))


def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(copy, monkeypatch):
    from efficientnet_pod.workdir.checkpoints import checkpoints as checkpoint

    class UnavailableError(Exception):
        pass

    for error in (OSError(errno.EMFILE, ""), ValueError("PERMISSION_DENIED: no"), UnavailableError("later")):
        monkeypatch.setattr(
            checkpoint, "_restore_arrays", lambda *_, error=error: (_ for _ in ()).throw(error)
        )
        with pytest.raises(RunError, match="checkpoint .* cannot be read: "):
            newest(copy)
    assert names(copy) == ["1", "2", "3"]


def test_a_save_waits_for_the_one_before_it_and_keeps_its_own_copy(tmp_path, monkeypatch):
    release, reached = threading.Event(), []

    def at(point, step=None):
        reached.append((point, step))
        if (point, step) == ("saving", 1):
            assert release.wait(10)

    monkeypatch.setattr(inject, "at", at)
    state = make_state(1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, metrics={})
        state.params["stem"]["kernel"][:] = 0  # as a donated buffer would be
        assert checkpoints.steps == []
        threading.Timer(0.3, release.set).start()
        checkpoints.save(2, make_state(2), metrics={})
        assert release.is_set() and checkpoints.steps[0] == 1
        checkpoints.wait()
        assert bits(checkpoints.restore(1, abstract(state))) == bits(make_state(1))
    assert reached == [("saving", 1), ("committed", 1), ("saving", 2), ("committed", 2)]


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
    committed += [int(name.split(".")[0]) for name, said in marks.items() if b"sha256" in said]
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
    save(folder, 1000, 1001, keep=2)
    assert names(folder)[:2] == ["1000", "1001"]


@pytest.mark.parametrize("point", ["repeated", "committed"])
def test_a_commit_lost_after_a_kill_is_made_up_for_by_the_mark(killed, tmp_path, point):
    folder = Path(shutil.copytree(killed / point, tmp_path / "checkpoints"))
    for step in (1, 2):
        shutil.rmtree(folder / str(step))
    (folder / "3" / "commit.json").unlink(missing_ok=True)
    step, state, warnings = newest(folder)
    assert (step, warnings, names(folder)) == (3, [], ["3"]) and bits(state) == bits(make_state(3))


@pytest.mark.parametrize("said", [b"", b"{", b"This checkpoint is being\n"])
def test_only_a_mark_that_says_so_costs_a_checkpoint(killed, tmp_path, said):
    folder = Path(shutil.copytree(killed / "committed", tmp_path / "checkpoints"))
    for step in (1, 2):
        shutil.rmtree(folder / str(step))
    (folder / "3" / "commit.json").unlink()
    (folder / "3.unfinished").write_bytes(said)
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
    assert len(warnings) == 1 and "checkpoint 3" in warnings[0] and "is whole; what a save" in warnings[0]


def test_a_commit_that_cannot_be_made_up_for_is_no_damage(killed, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(killed / "repeated", tmp_path / "checkpoints"))

    def full(file, contents):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(checkpoint_folder, "write_whole", full)
    with pytest.raises(RunError, match=r"3/commit.json' cannot be written: No space left .* bytes free; "):
        newest(folder)
    monkeypatch.undo()
    assert newest(folder)[0] == 3


def test_evaluated_steps_are_those_with_a_top1_that_can_be_read(copy):
    lines = []
    with Checkpoints(copy, report=lines.append) as checkpoints:
        checkpoints.save(4, make_state(4), metrics={})
        assert checkpoints.evaluated_steps == [1, 2, 3] and checkpoints.steps == [1, 2, 3, 4]
        checkpoints.save(4, make_state(4), metrics={"top1": 0.1})
        assert checkpoints.evaluated_steps == [2, 3, 4]  # which waits for the save
        damage(copy / "3" / "commit.json", "flip")
        (copy / "2" / "commit.json").unlink()
        (copy / "2" / "commit.json").mkdir()
        assert checkpoints.evaluated_steps == [4]
    assert [line.split()[1] for line in lines] == ["2", "3"]


def test_what_a_rewound_run_has_left_is_forgotten(copy):
    save(copy, 4, 5, 6, keep=9)
    damage(copy / "6" / "commit.json", "truncate")
    (copy / "5" / "commit.json").unlink()
    (copy / "damaged-9-20261231T000000.000000Z").mkdir()
    lines = []
    with Checkpoints(copy, keep=9, report=lines.append) as checkpoints:
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
        with Checkpoints(os.path.abspath(str(kill)), report=lambda line: None) as checkpoints:
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
    found = []
    for folder in sorted(tmp_path.iterdir(), key=lambda path: int(path.name)):
        step, state, warnings = newest(folder)
        assert bits(state) == bits(make_state(step))
        assert names(folder) == [str(each) for each in range(1, step + 1)]
        assert all("removed: its deletion had been cut short" in line for line in warnings)
        found.append(step)
    assert found == sorted(found, reverse=True) and set(found) == {1, 2, 3}
    assert found[4:] == [1] * len(found[4:]) and 10 < len(found) < 100


FULL = """
import json, sys
sys.path[:0] = [{here!r}, {root!r}]
import numpy as np, test_checkpoint
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.errors import RunError
with Checkpoints("{folder}") as checkpoints:
    checkpoints.save(1, states.make_state(1), metrics={{}})
    checkpoints.wait()
    {limit}
    checkpoints.save(2, states.make_state(2, width=32_000), metrics={{}})
    try:
        checkpoints.wait()
    except RunError as error:
        print(json.dumps([str(error), sorted(p.name for p in checkpoints._folder.path.iterdir())]))
    restored = checkpoints.restore_newest(test_checkpoint.abstract(states.make_state(1)))
    assert test_checkpoint.bits(restored[1]) == test_checkpoint.bits(states.make_state(1))
"""


def test_a_full_disk_is_named_and_freed(tmp_path):
    small = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=5m tmpfs '{tmp_path}'"
    may_mount = (
        shutil.which("unshare") and subprocess.run([*small, mount], capture_output=True).returncode == 0
    )
    # Where no file system can be mounted, none of the files may be large, which fails the same way.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000,) * 2)"
    program = FULL.format(
        here=str(HERE), root=str(HERE.parents[1]), folder=tmp_path / "c", limit="" if may_mount else limit
    )
    command = [sys.executable, "-c", program]
    if may_mount:
        command = [*small, f'{mount} && exec "$0" -c "$1"', sys.executable, program]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    message, left = json.loads(run.stdout)
    why = "No space left on device" if may_mount else "File too large"
    assert f"checkpoint 2 could not be written to '{tmp_path / 'c'}': {why} (8,192,0" in message
    assert "older ones are kept, the newest is step 1" in message
    assert left == ["1"] and "orbax" not in run.stderr


TWO = """
import sys
sys.path[:0] = [{here!r}, {root!r}]
import jax
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize("127.0.0.1:{port}", 2, int(sys.argv[1]), shutdown_timeout_seconds=30)
import numpy as np, test_checkpoint
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints, digest_of
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("replica",))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
place = lambda leaf: jax.make_array_from_process_local_data(sharding, leaf)
state = jax.tree.map(place, states.make_state(1))
assert not state.step.is_fully_addressable
if jax.process_index() == 0:
    for step in (1, 2):
        with Checkpoints("{folder}") as checkpoints:
            checkpoints.save(step, state, metrics={{}})
    with Checkpoints("{folder}") as checkpoints:
        found = checkpoints.restore_newest(test_checkpoint.abstract(state))
    print(found[0], digest_of(found[1]) == digest_of(state) == digest_of(states.make_state(1)))
"""


def test_host_0_saves_and_restores_while_the_other_takes_no_part(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = TWO.format(
        here=str(HERE), root=str(HERE.parents[1]), port=port, folder=tmp_path / "checkpoints"
    )
    hosts = [
        subprocess.Popen([sys.executable, "-c", program, host], stdout=subprocess.PIPE, text=True)
        for host in "01"
    ]
    try:
        printed = [host.communicate(timeout=60)[0] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert printed == ["2 True\n", ""] and [host.returncode for host in hosts] == [0, 0]
