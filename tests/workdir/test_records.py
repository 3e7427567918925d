"""A workdir's files through kills, full disks and damage, and what a second start may change."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from etils import epath
from recipes import load

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.recipe.plan import resolve
from efficientnet_pod.recipe.recipe import read_recipe
from efficientnet_pod.train import same_run
from efficientnet_pod.workdir import files
from efficientnet_pod.workdir import workdir as records
from efficientnet_pod.workdir.workdir import MetricsLog, Workdir

ROOT = Path(__file__).parents[2]


def row(step, split="train", **fields):
    return {"step": step, "split": split, "loss": 1.0 / step, "top1": 0.5} | fields


def steps(workdir):
    return [each["step"] for each in workdir.metrics()]


def stored(workdir):
    return (workdir.path / "metrics.jsonl").read_bytes()


@pytest.fixture
def log_of_six(tmp_path):
    """A workdir with rows of steps 1 to 6."""
    workdir = Workdir(tmp_path)
    with MetricsLog(workdir, resumed_step=0) as log:
        for step in range(1, 7):
            log.write(row(step))
    assert steps(workdir) == [1, 2, 3, 4, 5, 6]
    return workdir


# metrics.jsonl


@pytest.mark.parametrize("resumed", [0, 1, 4, 6, 9])
def test_steps_that_are_made_again_are_there_once(log_of_six, resumed):
    kept = [step for step in range(1, 7) if step <= resumed]
    with MetricsLog(log_of_six, resumed_step=resumed) as log:
        assert [each["step"] for each in log.rows] == kept
        log.write(row(10))
    assert steps(log_of_six) == [*kept, 10]
    assert log_of_six.metrics() == log.rows


def test_a_line_torn_anywhere_is_repaired(log_of_six):
    whole = stored(log_of_six)
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole) + 1):
        (log_of_six.path / "metrics.jsonl").write_bytes(whole[:cut])
        report = []
        MetricsLog(log_of_six, resumed_step=6, report=report.append).close()
        # All of the last line, without its end, is a whole row.
        assert stored(log_of_six) == (whole if cut >= len(whole) - 1 else whole[:last]), cut
        assert report == []
    assert not list(log_of_six.path.glob("*damaged*"))


@pytest.mark.parametrize(
    "damage",
    [b'{"step": 3, "lo', b"", b"\xff\xfe", b"3", b'{"split": "train"}', b'{"step": "3", "split": "x"}'],
)
def test_a_damaged_line_is_left_out_and_the_file_kept_aside(log_of_six, damage):
    lines = stored(log_of_six).splitlines()
    lines[2] = damage
    damaged = b"\n".join(lines) + b"\n"
    (log_of_six.path / "metrics.jsonl").write_bytes(damaged)
    assert steps(log_of_six) == [1, 2, 4, 5, 6]
    report = []
    with MetricsLog(log_of_six, resumed_step=5, report=report.append) as log:
        log.write(row(6))
    assert steps(log_of_six) == [1, 2, 4, 5, 6]
    (aside,) = log_of_six.path.glob("metrics.jsonl.damaged-*")
    assert aside.read_bytes() == damaged
    assert len(report) == 1 and "1 cannot be read, first line 3;" in report[0] and aside.name in report[0]
    MetricsLog(log_of_six, resumed_step=6, report=pytest.fail).close()  # and that was it


def test_a_row_is_on_disk_before_write_returns(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def recorded(opened):
        fsync(opened)
        synced.append(os.fstat(opened).st_size)

    with MetricsLog(Workdir(tmp_path), resumed_step=0) as log:
        monkeypatch.setattr(os, "fsync", recorded)
        log.write(row(1))
        assert synced == [(tmp_path / "metrics.jsonl").stat().st_size] and synced[0] > 0


def test_nothing_to_drop_rewrites_nothing(log_of_six, monkeypatch):
    monkeypatch.setattr(records, "write_whole", pytest.fail)
    MetricsLog(log_of_six, resumed_step=6).close()


def test_the_file_is_whole_whenever_a_rewriting_is_cut_short(log_of_six, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    before = stored(log_of_six)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, name, killed)
            with pytest.raises(KeyboardInterrupt):
                MetricsLog(log_of_six, resumed_step=3)
        assert stored(log_of_six) == before
    MetricsLog(log_of_six, resumed_step=3).close()
    assert steps(log_of_six) == [1, 2, 3]


def test_rows_of_a_rewound_run_are_dropped(log_of_six):
    with MetricsLog(log_of_six, resumed_step=6) as log:
        rows = log.rows
        log.drop_after(2)
        log.write(row(3, loss=7.0))
        assert rows is log.rows
    assert [(each["step"], each["loss"]) for each in log_of_six.metrics()] == [(1, 1.0), (2, 0.5), (3, 7.0)]


def test_a_closed_log_takes_no_rows(tmp_path):
    log = MetricsLog(Workdir(tmp_path), resumed_step=0)
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.write(row(1))


WRITER = """
import sys
from efficientnet_pod.workdir import workdir as records
from efficientnet_pod.workdir.workdir import MetricsLog, Workdir
from types import SimpleNamespace
quiet = SimpleNamespace(write=lambda *_: None, close=lambda: None)
records.TensorBoardEvents = lambda *_, **__: quiet  # which take seconds to import
workdir = Workdir(sys.argv[1])
done = max([row["step"] for row in workdir.metrics()], default=0)
resumed = done // 5 * 5  # a checkpoint at each fifth step
with MetricsLog(workdir, resumed_step=resumed) as log:
    print(resumed, flush=True)
    for step in range(resumed + 1, 100_000):
        log.write({"step": step, "split": "train", "loss": step / 7, "filler": "x" * 3000})
"""


def test_kills_at_any_time_leave_each_step_once(tmp_path):
    """Eight starts of a run that writes as fast as it can, each killed in the midst of it."""
    workdir, found = Workdir(tmp_path), []
    for kill in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(0.02 + 0.007 * kill)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        found = steps(workdir)
        assert found == list(range(1, len(found) + 1))
    assert found


def test_a_full_disk_is_named_and_takes_back_the_torn_row(tmp_path):
    workdir = Workdir(tmp_path)
    with MetricsLog(workdir, resumed_step=0) as log:
        log.write(row(1))
        size = (tmp_path / "metrics.jsonl").stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))  # ten bytes of room
        try:
            with pytest.raises(
                RunError, match=r"metrics.jsonl' cannot be written: .*, [\d,]+ bytes free; make"
            ):
                log.write(row(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, kept)
        assert (tmp_path / "metrics.jsonl").stat().st_size == size
        log.write(row(2))
    assert steps(workdir) == [1, 2] and len(log.rows) == 2


def refuse(monkeypatch, number, *, names=("open", "replace")):
    """Lets the system refuse to open or replace any file, as to a user without rights or on a full disk."""

    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    for name in names:
        monkeypatch.setattr(os, name, refused)


def test_a_log_that_may_not_be_written_or_read_is_named(log_of_six, monkeypatch):
    file = r"metrics.jsonl' cannot be"
    with monkeypatch.context() as patch:
        refuse(patch, errno.EACCES)
        with pytest.raises(
            RunError, match=file + r" written: Permission denied, [\d,]+ bytes free; mend that"
        ):
            MetricsLog(log_of_six, resumed_step=6)
    (log_of_six.path / "metrics.jsonl").unlink()
    (log_of_six.path / "metrics.jsonl").mkdir()
    for read in (lambda: MetricsLog(log_of_six, resumed_step=6), log_of_six.metrics):
        with pytest.raises(RunError, match=file + " read: Is a directory; mend that and start again"):
            read()


def test_a_row_that_an_object_store_refuses_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "is_remote", lambda path: True)
    with MetricsLog(Workdir(tmp_path), resumed_step=0) as log:
        log.write(row(1))
        refuse(monkeypatch, errno.ENOSPC)
        with pytest.raises(
            RunError, match=r"metrics.jsonl' cannot be written: No space left.*free; make room"
        ):
            log.write(row(2))
        monkeypatch.undo()
        assert len(log.rows) == 1
    assert steps(Workdir(tmp_path)) == [1]


# Other files


def test_a_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    workdir = Workdir(tmp_path)
    workdir.write_text("parameters.txt", "old\n")
    with (
        monkeypatch.context() as patch,
        pytest.raises(RunError, match=r"parameters.txt' cannot.*bytes free; "),
    ):
        refuse(patch, errno.ENOSPC)
        workdir.write_text("parameters.txt", "new\n")
    assert (tmp_path / "parameters.txt").read_text() == "old\n" and os.listdir(tmp_path) == ["parameters.txt"]
    with pytest.raises(
        RunError, match=r"gone/a.txt' cannot be written: No such file or directory; mend that"
    ):
        Workdir(tmp_path / "gone").write_text("a.txt", "")  # no folder, no free bytes to tell


def test_a_damaged_summary_is_none(tmp_path):
    workdir = Workdir(tmp_path)
    assert workdir.summary() is None
    workdir.write("summary.json", {"final": {"top1": 0.5}})
    assert workdir.summary() == {"final": {"top1": 0.5}}
    whole = (tmp_path / "summary.json").read_bytes()
    for damage in (b"", whole[:-9], b"[]", b"\xff"):
        (tmp_path / "summary.json").write_bytes(damage)
        assert workdir.summary() is None


def test_a_workdir_on_a_full_disk_is_refused_with_the_room_there_is(tmp_path, monkeypatch):
    def full(self, text):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_text", full)
    message = (
        r"workdir '.*/run' cannot be written: No space left on device, [\d,]+ bytes free; make room there"
    )
    with pytest.raises(UserError, match=message):
        Workdir(tmp_path / "run").claim({})


@pytest.mark.parametrize(
    ("error", "damage"),
    [
        (ValueError("RESOURCE_EXHAUSTED: Error reading gs://b/x: HTTP response code: 429"), False),
        (ValueError("INTERNAL: HTTP response code: 500"), False),
        (ValueError("Error reading manifest: UNKNOWN: something"), False),
        (type("ResourceExhaustedError", (Exception,), {})("quota"), False),
        (type("TooManyRequests", (Exception,), {})("429 GET"), False),
        (ConnectionResetError("by peer"), False),
        (OSError(errno.EACCES, ""), False),
        (MemoryError(), False),
        (OSError(errno.ENOENT, ""), True),
        (OSError(errno.EIO, ""), True),
        (ValueError("DATA_LOSS: CRC-32C checksum verification failed"), True),
        (ValueError("NOT_FOUND: key"), True),
        (ValueError("OUT_OF_RANGE: requested byte range"), True),
        (ValueError("FAILED_PRECONDITION: Error opening"), True),
        (ValueError("Unknown codec 'zstx'"), True),
        (KeyError("internal_shape"), True),
    ],
)
def test_what_speaks_against_a_file_and_what_against_the_way_to_it(error, damage):
    assert files.is_damage(error) is damage


# TensorBoard


def test_tensorboard_shows_each_step_once_after_a_resume(log_of_six):
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    with MetricsLog(log_of_six, resumed_step=4) as log:
        log.write(row(5, loss=50.0))
        log.write(row(6, loss=60.0))
    events = EventAccumulator(str(log_of_six.path / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    found = {each.step: float(make_ndarray(each.tensor_proto)) for each in events.Tensors("train/loss")}
    assert [each.step for each in events.Tensors("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert found[4] == 0.25 and (found[5], found[6]) == (50.0, 60.0)


def test_a_run_goes_on_without_events_that_cannot_be_written(tmp_path):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    report = []
    with MetricsLog(Workdir(tmp_path), resumed_step=0, report=report.append) as log:
        log.write(row(1))
        log.write(row(2))
    assert steps(Workdir(tmp_path)) == [1, 2]
    assert len(report) == 1 and "TensorBoard events are no longer written" in report[0]


# The config


def changed(config, field, value):
    *tables, name = field.split(".")
    copy = json.loads(json.dumps(config))
    table = copy
    for each in tables:
        table = table[each]
    table[name] = value
    return copy


@pytest.fixture
def claimed(tmp_path):
    """A workdir of the digits."""
    workdir = Workdir(tmp_path / "run")
    workdir.claim(load("digits.py"))
    return workdir


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("global_batch", 512, "config.global_batch was 128, is 512"),
        ("seed", False, "config.seed was 0, is False"),  # equal in Python
        ("eval_raw", 0, "config.eval_raw was False, is 0"),
        ("seed", "0", "config.seed was 0, is '0'"),
        ("data.policy", None, "config.data.policy was 'none', is None"),
        ("optimizer.lars.momentum", 0.8, "config.optimizer.lars.momentum was 0.9, is 0.8"),
        ("phases", {"a": {"from_epoch": 0.0}}, r"config.phases.a.from_epoch was absent, is 0.0"),
    ],
)
def test_a_field_that_differs_is_refused(claimed, field, value, shown):
    before = (claimed.path / "config.json").read_bytes()
    with pytest.raises(UserError, match=f"belongs to another config: {shown}; choose another --workdir or"):
        claimed.claim(changed(load("digits.py"), field, value))
    assert (claimed.path / "config.json").read_bytes() == before


def test_five_fields_are_shown_and_the_others_counted(claimed):
    config = load("digits.py")
    for field in (
        "seed",
        "global_batch",
        "epochs",
        "ema_decay",
        "eval_epochs",
        "label_smoothing",
        "eval_raw",
    ):
        config = changed(config, field, 99)
    with pytest.raises(UserError, match=r"(config\.\w+ was [\w.]+, is 99(, | )){5}and 2 more; ") as caught:
        claimed.claim(config)
    assert "\n" not in str(caught.value)


def test_a_field_that_is_gone_or_new_is_refused(claimed):
    config = load("digits.py")
    del config["ema_decay"]
    with pytest.raises(UserError, match=r"config\.ema_decay was 0\.9, is absent"):
        claimed.claim(config)
    with pytest.raises(UserError, match=r"made by another version, whose recipes have no config\.new_field"):
        claimed.claim(load("digits.py") | {"new_field": 1})


def test_one_and_one_point_zero_are_the_same_number(claimed):
    claimed.claim(changed(load("digits.py"), "epochs", 28))
    claimed.claim(changed(load("digits.py"), "seed", 0.0))


def test_a_config_is_written_when_it_is_new_or_has_changed(claimed):
    file = claimed.path / "config.json"
    os.utime(file, ns=(1, 1))
    claimed.claim(load("digits.py"))
    claimed.accept(*start(load("digits.py")))
    assert os.stat(file).st_mtime_ns == 1
    claimed.claim(changed(load("digits.py"), "log_steps", 3))
    assert os.stat(file).st_mtime_ns == 1  # the start may still be refused
    claimed.accept(*start(load("digits.py")))
    assert json.loads(file.read_text())["log_steps"] == 3


@pytest.mark.parametrize("field", sorted(same_run.FREE_FIELDS | same_run.RESOLVED_FIELDS))
def test_fields_that_may_change_are_fields_of_a_config(claimed, field):
    value = load("digits.py")
    for name in field.split("."):
        value = value[name]
    claimed.claim(changed(load("digits.py"), field, "other"))


@pytest.mark.parametrize("contents", ["", '{"seed": 0', "[]", "\xff"])
def test_a_config_that_cannot_be_read_is_refused_and_kept(claimed, contents):
    (claimed.path / "config.json").write_bytes(contents.encode("latin-1"))
    with pytest.raises(UserError, match=r"^config.json in '.*' is damaged: .*; restore it or choose another"):
        claimed.claim(load("digits.py"))
    assert (claimed.path / "config.json").read_bytes() == contents.encode("latin-1")


@pytest.mark.parametrize("name", ["config.json", "plan.json", "data.json"])
def test_checkpoints_of_who_knows_what_are_refused(claimed, name):
    claimed.accept(*start(load("digits.py")))
    (claimed.checkpoints / "12").mkdir(parents=True)
    (claimed.path / name).unlink()
    with pytest.raises(UserError, match=rf"has checkpoints and no {name}, .*restore it or choose another"):
        claimed.claim(load("digits.py"))
        claimed.accept(*start(load("digits.py")))
    assert not (claimed.path / name).exists()


def test_a_workdir_on_gs_without_the_package_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)  # as if it were not installed
    with pytest.raises(
        UserError, match=r"'gs://bucket/run' is in Google Cloud .*pip install 'efficientnet-pod\[gcs"
    ):
        Workdir("gs://bucket/run").claim({})


# Plan and images


def start(config, replicas=8, *, hosts=1, dtype="float32", kind="cpu", **data):
    """Returns the plan and the data of a start."""
    data = {"num_train": 1437, "num_eval": 360, "class_names": tuple("0123456789"), "fingerprint": ""} | data
    plan = resolve(
        read_recipe(config),
        num_train=data["num_train"],
        num_eval=data["num_eval"],
        num_classes=len(data["class_names"]),
        num_replicas=replicas,
        num_hosts=hosts,
        default_dtype=dtype,
    )
    return plan.as_dict() | {"device_kind": kind}, {"name": config["data"]["name"], **data}


@pytest.fixture
def begun(claimed):
    """A workdir of the digits, on eight replicas, four of which normalise together: BN batch 64."""
    assert claimed.accept(*start(load("digits.py"))) == []
    return claimed


def test_the_same_start_again_is_accepted(begun):
    plan, data = start(load("digits.py"))
    assert begun.accept(plan, data) == []
    assert json.loads((begun.path / "data.json").read_text())["class_names"] == list("0123456789")
    assert json.loads((begun.path / "plan.json").read_text())["bn_batch"] == 64


@pytest.mark.parametrize(
    ("replicas", "group", "remedy"),
    [
        (4, 4, r"\(4 replicas of 32\) on 4 replicas; set --config.bn_group_size=2"),
        (16, 4, r"\(4 replicas of 8\) on 16 replicas; set --config.bn_group_size=8"),
        (2, 2, r"\(2 replicas of 64\) on 2 replicas; set --config.bn_group_size=1"),
        (
            1,
            1,
            r"\(1 replica of 128\) on 1 replica; start on 8 replicas as before, or another multiple of 2",
        ),
    ],
)
def test_another_bn_batch_is_refused_with_the_group_size_that_keeps_it(begun, replicas, group, remedy):
    with pytest.raises(
        UserError, match=r"BN batch of .* was 64 images \(4 replicas of 16\), would be .*" + remedy
    ):
        begun.accept(*start(changed(load("digits.py"), "bn_group_size", group), replicas))
    assert json.loads((begun.path / "plan.json").read_text())["num_replicas"] == 8


@pytest.mark.parametrize(("replicas", "group"), [(2, 1), (4, 2), (16, 8)])
def test_the_same_bn_batch_goes_on_with_other_replicas(begun, replicas, group):
    config = changed(load("digits.py"), "bn_group_size", group)
    begun.claim(config)
    (warning,) = begun.accept(*start(config, replicas))
    assert (
        f"the start before was on 8 replicas, this one is on {replicas} replicas: its dropout and stochastic"
        in warning
    )
    assert json.loads((begun.path / "plan.json").read_text())["num_replicas"] == replicas
    assert json.loads((begun.path / "config.json").read_text())["bn_group_size"] == group


def test_the_bn_batch_of_each_phase_is_compared(claimed):
    from recipes import phased_digits

    plan, data = start(phased_digits())
    assert len(plan["phases"]) == 2
    claimed.accept(plan, data)
    plan["phases"][1]["bn_batch"] *= 2
    with pytest.raises(UserError, match="BN batch of the run"):
        claimed.accept(plan, data)


def test_other_hosts_and_devices_are_warned_of(begun):
    hosts, device = begun.accept(*start(load("digits.py"), hosts=2, kind="TPU v3"))
    assert (
        "the start before was on 1 host, this one is on 2 hosts" in hosts
        and "may repeat or miss some" in hosts
    )
    assert "the start before was on cpu, this one is on TPU v3: sums run in another order" in device


def test_another_dtype_is_refused_with_the_field_that_keeps_it(begun):
    with pytest.raises(
        UserError, match="compute_dtype .* was float32, would be bfloat16 here; set --config.model.dt"
    ):
        begun.accept(*start(load("digits.py"), dtype="bfloat16"))
    kept = changed(load("digits.py"), "model.dtype", "float32")
    begun.claim(kept)
    begun.accept(*start(kept, dtype="bfloat16"))
    other = changed(kept, "data.link_dtype", "uint8")
    begun.claim(other)
    with pytest.raises(
        UserError, match="link_dtype .* was float32, would be uint8 here; set --config.data.link_d"
    ):
        begun.accept(*start(other, dtype="bfloat16"))


def test_every_field_of_a_plan_is_compared_or_known_to_be_of_the_machine(begun):
    plan, data = start(load("digits.py"))
    free = set()
    for name in plan.keys() - {"phases"}:
        try:
            same_run.require_same_plan(plan, plan | {name: 3.5}, begun.path)
            free.add(name)
        except UserError:
            continue
    assert free == same_run._OF_THE_MACHINE
    shifted = [plan["phases"][0] | {"first_image": 7}]
    with pytest.raises(
        UserError, match=r"had phases.all.first_image=0, would have 7; go on with the version"
    ):
        begun.accept(plan | {"phases": shifted}, data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"class_names": tuple("0123456798")}, "class 8 was '8', is '9'; give it the data it began with"),
        ({"class_names": tuple("012345678")}, "10 classes, now 9"),
        ({"class_names": tuple("a0123456789")}, "10 classes, now 11 and class 0 was '0', is 'a'"),
        ({"num_train": 1436}, "1,437 training images, now 1,436"),
        ({"num_eval": 361}, "360 evaluation images, now 361"),
        ({"name": "other"}, "config.data.name was 'digits', is 'other'"),
    ],
)
def test_other_images_are_refused(begun, data, message):
    plan, same = start(load("digits.py"))
    with pytest.raises(UserError, match=f"the images are not those of the run in '.*': {message}"):
        begun.accept(plan, same | data)
    assert json.loads((begun.path / "data.json").read_text())["num_train"] == 1437


def test_data_may_move_as_long_as_its_fingerprint_stays(claimed):
    config = changed(load("digits.py"), "data.name", "folder:/old")
    claimed.claim(load("digits.py"))
    claimed.accept(*start(config, fingerprint="ab"))
    moved = changed(config, "data.name", "folder:/new")
    claimed.claim(moved)
    assert claimed.accept(*start(moved, fingerprint="ab")) == []
    with pytest.raises(UserError, match="the names of the files or the numbers of their records differ"):
        claimed.accept(*start(moved, fingerprint="cd"))
    with pytest.raises(UserError, match="config.data.name was 'folder:/new', is 'folder:/old'"):
        claimed.accept(*start(config, fingerprint=""))


def test_a_plan_of_another_version_is_refused(begun):
    (begun.path / "data.json").write_text('{"name": "digits"}')
    with pytest.raises(UserError, match="data.json in '.*' was written by another version; choose another"):
        begun.accept(*start(load("digits.py")))
