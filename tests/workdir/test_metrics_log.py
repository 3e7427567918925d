"""The metrics of a run through kills, full disks and damage: each step is there once."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from efficientnet_pod.errors import RunError
from efficientnet_pod.workdir import files, metrics_log
from efficientnet_pod.workdir.metrics_log import MetricsLog, read_metrics
from efficientnet_pod.workdir.workdir import Workdir

ROOT = Path(__file__).parents[2]


def row(step, split="train", **fields):
    return {"step": step, "split": split, "loss": 1.0 / step, "top1": 0.5} | fields


def steps(workdir):
    return [row["step"] for row in read_metrics(workdir)]


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


@pytest.mark.parametrize("resumed", [0, 1, 4, 6, 9])
def test_steps_that_are_made_again_are_there_once(log_of_six, resumed):
    kept = [step for step in range(1, 7) if step <= resumed]
    with MetricsLog(log_of_six, resumed_step=resumed) as log:
        assert [row["step"] for row in log.rows] == kept
        log.write(row(10))
    assert steps(log_of_six) == [*kept, 10]
    assert read_metrics(log_of_six) == log.rows


def test_a_line_torn_anywhere_is_repaired(log_of_six):
    whole = stored(log_of_six)
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole) + 1):
        (log_of_six.path / "metrics.jsonl").write_bytes(whole[:cut])
        warnings = []
        MetricsLog(log_of_six, resumed_step=6, warn=warnings.append).close()
        # All of the last line, without its end, is a whole row.
        assert stored(log_of_six) == (whole if cut >= len(whole) - 1 else whole[:last]), cut
        assert warnings == []
    assert not list(log_of_six.path.glob("*damaged*"))


@pytest.mark.parametrize(
    "damage",
    [b'{"step": 3, "lo', b"", b"\xff\xfe", b"3", b'{"split": "train"}', b'{"step": "3", "split": "x"}'],
)
def test_a_damaged_line_is_left_out_and_kept_aside(log_of_six, damage):
    lines = stored(log_of_six).splitlines()
    lines[2] = damage
    damaged = b"\n".join(lines) + b"\n"
    (log_of_six.path / "metrics.jsonl").write_bytes(damaged)
    assert steps(log_of_six) == [1, 2, 4, 5, 6]
    warnings = []
    with MetricsLog(log_of_six, resumed_step=5, warn=warnings.append) as log:
        log.write(row(6))
    assert steps(log_of_six) == [1, 2, 4, 5, 6]
    (copy,) = log_of_six.path.glob("metrics.jsonl.damaged-*")
    assert copy.read_bytes() == damaged
    assert (
        len(warnings) == 1 and "1 cannot be read, first line 3;" in warnings[0] and copy.name in warnings[0]
    )
    MetricsLog(log_of_six, resumed_step=6, warn=pytest.fail).close()  # and that was it


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
    monkeypatch.setattr(metrics_log, "write_whole", pytest.fail)
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
    assert [(each["step"], each["loss"]) for each in read_metrics(log_of_six)] == [
        (1, 1.0),
        (2, 0.5),
        (3, 7.0),
    ]


def test_a_closed_log_takes_no_rows(tmp_path):
    log = MetricsLog(Workdir(tmp_path), resumed_step=0)
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.write(row(1))


WRITER = """
import sys
from efficientnet_pod.workdir import metrics_log
from efficientnet_pod.workdir.metrics_log import MetricsLog, read_metrics
from efficientnet_pod.workdir.workdir import Workdir
from types import SimpleNamespace
quiet = SimpleNamespace(write=lambda *_: None, close=lambda: None)
metrics_log.TensorBoardEvents = lambda *_, **__: quiet  # which take seconds to import
workdir = Workdir(sys.argv[1])
done = max([row["step"] for row in read_metrics(workdir)], default=0)
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
            RunError, match=file + r" written: Permission denied, [\d,]+ bytes free; correct that"
        ):
            MetricsLog(log_of_six, resumed_step=6)
    (log_of_six.path / "metrics.jsonl").unlink()
    (log_of_six.path / "metrics.jsonl").mkdir()
    for read in (lambda: MetricsLog(log_of_six, resumed_step=6), lambda: read_metrics(log_of_six)):
        with pytest.raises(RunError, match=file + " read: Is a directory; correct that and start again"):
            read()


def test_a_row_that_an_object_store_refuses_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_log, "is_remote", lambda path: True)
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
    warnings = []
    with MetricsLog(Workdir(tmp_path), resumed_step=0, warn=warnings.append) as log:
        log.write(row(1))
        log.write(row(2))
    assert steps(Workdir(tmp_path)) == [1, 2]
    assert len(warnings) == 1 and "TensorBoard events are no longer written" in warnings[0]
