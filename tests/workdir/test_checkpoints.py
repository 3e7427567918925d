"""Checkpoints that are written and read in peace, or whose saves fail."""

import errno
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from states import abstract, bits, damage, digest_of, make_state, names, newest

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.pod import inject
from efficientnet_pod.run.state import TrainState
from efficientnet_pod.workdir.checkpoints import checkpoints as module
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.workdir.files import remove
from efficientnet_pod.workdir.workdir import Workdir

HERE = Path(__file__).parents[1] / "support"


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


MISREAD = ["lr[0.1]", "[x]", "seed=[1,2]", "a\\b", "*", "**", "a?", "x.__lock", "ab/../up"]
HARMLESS = "-a {x} $HOME ~ %20 #é日 '\" !a,b=c;&|<>:@ "


@pytest.mark.parametrize("name", [*MISREAD, HARMLESS, "n" * 200, *map(str, range(3))])
def test_checkpoints_of_any_path_can_be_read(tmp_path, name):
    if name.isdecimal():  # drawn at random
        draw = random.Random(name)
        name = "/".join("".join(draw.choices(MISREAD + list(HARMLESS), k=6)) for _ in range(2))
    decoy = {"folder": tmp_path / "ab" / "1"}  # what "a?" and "*" match too
    decoy["folder"].mkdir(parents=True)
    with Checkpoints(Workdir(f"{tmp_path}/{name}").checkpoints) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), metrics={"top1": 0.5})
        assert checkpoints.evaluated_steps == [1, 2]
        assert bits(checkpoints.restore(2, abstract(make_state(2)))) == bits(make_state(2))
    assert os.listdir(decoy["folder"]) == []


def test_a_path_is_refused_if_no_link_to_it_can_be_made(tmp_path, monkeypatch):
    (tmp_path / "t[1]").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t[1]"))
    with pytest.raises(UserError, match=r"take for a pattern, and so has .* set TMPDIR to another one"):
        Checkpoints(tmp_path / "lr[0.1]")
    Checkpoints(tmp_path / "lr")


@pytest.mark.parametrize(
    ("lost", "why"),
    [
        ("manifest.ocdbt", r"what was written cannot be read: [^\n]+ \("),
        ("_METADATA", "what was written cannot be read: "),
        ("d", "what was written cannot be read: "),
        ("a leaf", "tensor params/stem/kernel has other bits than were saved"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of TensorStore's readers
def test_a_save_counts_once_it_has_been_found(copy, monkeypatch, lost, why):
    save = module._save_arrays

    def lossy(folder, state):
        if lost == "a leaf":
            state.params["stem"]["kernel"][3, 4] += 1
        save(folder, state)
        if (folder / lost).exists():
            remove(folder / lost)

    monkeypatch.setattr(module, "_save_arrays", lossy)
    with Checkpoints(copy) as checkpoints:
        checkpoints.save(4, make_state(4), metrics={})
        with pytest.raises(RunError, match=f"checkpoint 4 could not be written to .*: {why}") as caught:
            checkpoints.wait()
        assert checkpoints.steps == [1, 2, 3] == [int(name) for name in names(copy)]
    assert "the newest is step 3" in str(caught.value) and "\n" not in str(caught.value)


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
        for which in ("latest", "best"):
            with pytest.raises(UserError, match="no checkpoint in .* yet; train first"):
                checkpoints.named(which)
        checkpoints.save(0, make_state(0), metrics={})
        checkpoints.wait()
        with pytest.raises(UserError, match="was evaluated yet, .*; --checkpoint=latest takes step 0"):
            checkpoints.named("best")
        checkpoints.forget_after(-1)
        for step, value in top1.items():
            metrics = {} if value is None else {"top1": value}
            checkpoints.save(step, make_state(step), metrics=metrics)
            checkpoints.wait()
            kept.append(checkpoints.steps)
        assert kept == [[1], [1, 2], [2, 3], [3, 4], [4, 5], [4, 5, 6], [4, 5, 6, 7]]
        assert [checkpoints.named(which) for which in ("latest", "best", "12")] == [7, 4, 12]
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


def test_evaluated_steps_are_those_with_a_top1_that_can_be_read(copy):
    lines = []
    with Checkpoints(copy, warn=lines.append) as checkpoints:
        checkpoints.save(4, make_state(4), metrics={})
        assert checkpoints.evaluated_steps == [1, 2, 3] and checkpoints.steps == [1, 2, 3, 4]
        checkpoints.save(4, make_state(4), metrics={"top1": 0.1})
        assert checkpoints.evaluated_steps == [2, 3, 4]  # which waits for the save
        damage(copy / "3" / "commit.json", "flip")
        (copy / "2" / "commit.json").unlink()
        (copy / "2" / "commit.json").mkdir()
        assert checkpoints.evaluated_steps == [4]
    assert [line.split()[1] for line in lines] == ["2", "3"]


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
    with pytest.raises(KeyError, match="mine"), Checkpoints(copy, warn=lines.append) as checkpoints:
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


FULL = """
import json, sys
sys.path[:0] = [{here!r}, {root!r}]
import states
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
    restored = checkpoints.restore_newest(states.abstract(states.make_state(1)))
    assert states.bits(restored[1]) == states.bits(states.make_state(1))
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
import numpy as np, states
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
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
        newest = checkpoints.restore_newest(states.abstract(state))
    digests = [states.digest_of(tree) for tree in (newest[1], state, states.make_state(1))]
    print(newest[0], len(set(digests)) == 1)
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
