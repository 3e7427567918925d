"""What can go wrong, rehearsed: for each fault one line with a next step, and nothing is left running."""

import json
import os
import socket
import sys

import grpc
import pytest
from launch_jobs import launch, repository, wait_until, workers_of

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.owner_record import this_process
from launch.backends.fake.backend import client_on
from launch.backends.fake.faults import FAULTS, Fault, fault_now
from launch.backends.fake.service import FakeTpu
from launch.backends.queued_resources import QueuedResources
from launch.job import remembered as jobs
from launch.job.job import Job
from launch.watch import Pace, Watch
from launch.workdir.storage import Folder
from launch.workdir.watcher import WatcherMark

# In place of the trainer: writes to the workdir until that is refused, or ends with $ENDS_WITH.
TRAINER = """
import os, sys, time
workdir = next(word for word in sys.argv if word.startswith("--workdir=")).removeprefix("--workdir=")
if os.environ["ENDS_WITH"] != "wait":
    time.sleep(1)
    sys.exit(int(os.environ["ENDS_WITH"]))
while True:
    try:
        with open(f"{workdir}/notes.txt", "a") as file:
            file.write("step\\n")
    except OSError as error:
        print(f"efficientnet-pod: '{workdir}' cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    time.sleep(0.05)
"""


@pytest.fixture
def submitted(tmp_path, monkeypatch, capsys, service):
    """Returns a function that submits a job of two workers with the trainer above, and its answer."""
    monkeypatch.chdir(repository(tmp_path / "repository"))
    (tmp_path / "trainer.py").write_text(TRAINER)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\nexec {sys.executable} -S {tmp_path}/trainer.py "$@"\n')
    python.chmod(0o755)

    def submit(code="wait", *more):
        monkeypatch.setenv("ENDS_WITH", code)
        words = [
            "--backend=fake",
            "--tpu=v4-16",
            f"--workdir={tmp_path / 'run1'}",
            f"--python={python}",
            *more,
        ]
        return launch(capsys, "submit", *words, "--", "--config=configs/digits.py")

    return submit


def watched(capsys, *more):
    """Returns the exit code of a watch, and its lines without the job's name."""
    words = ["--poll-seconds=0.1", "--backoff-seconds=0.1", *more]
    code, output, errors = launch(capsys, "watch", "run1", *words)
    print(output, errors)  # for who runs it with -rP
    return code, [line.removeprefix("run1 ") for line in output.splitlines()]


class Seen(FakeTpu):
    """A service that counts the looks at its clock."""

    looks = 0

    def _advance(self, name, resource):
        super()._advance(name, resource)
        self.looks += 1


def test_no_capacity_for_the_first_hour(tmp_path, monkeypatch):
    monkeypatch.setenv(jobs.FOLDER_VARIABLE, str(tmp_path / "jobs"))
    job = Job("run1", "qr", "v4-16", str(tmp_path / "run1"), project="p", zone="z")
    now, lines = 0.0, []

    def fault():
        return Fault("capacity", at=float("inf")) if now < 3600 else Fault()

    def sleep(seconds):
        nonlocal now
        now, before = now + seconds, service.looks
        wait_until(lambda: service.looks > before + 1, 10)  # it has seen this time
        if now > 4000:
            for worker in range(job.hosts):
                Folder().write(f"{job.folder}/ended/a001-w{worker:04}", b"0\n")

    with Seen(offered=("v4-16",), state_seconds=0, fault=fault, clock=lambda: now) as service:
        backend = QueuedResources(lambda: client_on(grpc.insecure_channel(f"127.0.0.1:{service.port}")))
        backend.submit(job)
        watch = Watch(
            job, backend, Folder(), pace=Pace(poll=60.0), write_line=lines.append, sleep=sleep,
            clock=lambda: now,
        )  # fmt: skip
        code = watch.run()
        assert not service.resources
    print("\n".join(lines))
    assert code == 0
    waits = [line for line in lines if "WAITING_FOR_RESOURCES for" in line]
    assert len(waits) == 4 and waits[0].endswith(
        "no v4-16 is free in z, and it goes on waiting; or give up: efficientnet-pod launch cancel run1, "
        "then submit it with another --zone or --tpu"
    )
    assert lines.index("run1 (attempt 1): ACTIVE") > lines.index(waits[-1])
    states = [state for _, state in service.history]
    assert states.count("WAITING_FOR_RESOURCES") == 1 and states[-1] == "GONE"


def test_a_quota_is_told_and_nothing_is_made(submitted, capsys, service):
    code, output, _ = launch(capsys, "fault", "quota")
    assert (code, output) == (0, f"quota: {FAULTS['quota']}\n")
    code, output, errors = submitted()
    print(errors)
    assert code == 2 and errors.count("\n") == 1
    assert errors.startswith("launch: the quota of project fake-project for v4-16 in fake-zone does not")
    assert errors.endswith("choose a smaller --tpu or another --zone, or ask for more quota\n")
    assert launch(capsys, "status")[1] == "no job was submitted from here\n"
    assert launch(capsys, "fault") == (0, "nothing goes wrong any more\n", "") and fault_now().name == ""
    code, _, errors = launch(capsys, "fault", "clocks")
    assert code == 2 and errors == "launch: no fault 'clocks'; did you mean 'clock'?\n"


@pytest.mark.parametrize("fault, worker", [("host", 1), pytest.param("start", 0, marks=pytest.mark.long)])
def test_a_worker_that_does_not_come_is_named_and_its_machines_are_given_back(
    submitted, capsys, service, fault, worker
):
    assert launch(capsys, "fault", fault)[0] == 0
    assert submitted("wait", "--max-restarts=0")[0] == 0
    code, lines = watched(capsys, "--start-minutes=0.15")
    assert code == 1 and lines[-3:] == [
        f"(attempt 1): worker {worker} of 2 has left no log within 9.0 s: the host is missing, its start-up "
        "script does not run, or it cannot write to the workdir; the machines are given back",
        "(attempt 1): the machines are gone before its first step; no work is lost",
        "(attempt 1): not started again: --max-restarts=0 are used up; submit it again to go on",
    ]
    assert not workers_of(service)


def test_a_clock_that_is_off_is_told_and_the_run_goes_on(submitted, capsys):
    assert launch(capsys, "fault", "clock", "--worker=1")[0] == 0
    assert submitted("0")[0] == 0
    code, lines = watched(capsys)
    told = (
        "(attempt 1): worker 1: its clock is about 3 s ahead of the metadata server's; let chrony or NTP set "
        "it: hosts' logs do not line up, and credentials may be refused"
    )
    assert code == 0 and told in lines
    assert not [line for line in lines if "worker 0" in line]


@pytest.mark.long
def test_a_workdir_that_refuses_writes_is_not_tried_for_ever(submitted, capsys, service, tmp_path):
    assert submitted("wait")[0] == 0
    wait_until(lambda: len(list((tmp_path / "run1/launch/logs").glob("*.log"))) == 2)
    assert launch(capsys, "fault", "bucket", "--minutes=0")[0] == 0
    code, lines = watched(capsys)
    assert code == 1 and lines[-1] == (
        f"(attempt 3): not started again: in 2 attempts no worker could write to {tmp_path}/run1/launch; let "
        "the workers write there (of a bucket: the role Storage Object User for their service account), and "
        "submit it again"
    )
    assert not workers_of(service)


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setenv(jobs.FOLDER_VARIABLE, str(tmp_path / "jobs"))
    return Job("run1", "fake", "v4-16", str(tmp_path / "run1"))


def test_a_second_watch_is_refused(job, capsys):
    jobs.remember(job)
    first = WatcherMark(job, Folder(), pytest.fail)
    first.take()
    code, output, errors = launch(capsys, "watch", "run1")
    assert (code, output) == (2, "") and errors.startswith(
        f"launch: 'run1' is watched already, by process {os.getpid()} on host {socket.gethostname()}, since "
    )
    assert "one watch is enough, follow it: efficientnet-pod launch status run1; if that process is" in errors
    first.release()
    WatcherMark(job, Folder(), pytest.fail).take()


def left_by(job, **fields):
    record = {"id": "other", "until": 1e12, **this_process()} | fields
    Folder().write(f"{job.folder}/watch.json", json.dumps(record).encode())


def test_a_watch_that_has_died_is_no_hindrance(job):
    left_by(job, process_start=1)  # of this machine: its number is another's now
    WatcherMark(job, Folder(), pytest.fail).take()
    left_by(job, host="elsewhere", until=1000.0)
    with pytest.raises(UserError, match=r"try again at 00:16:40 UTC$"):
        WatcherMark(job, Folder(), pytest.fail, clock=lambda: 999.0).take()
    WatcherMark(job, Folder(), pytest.fail, clock=lambda: 1001.0).take()


def test_of_two_watches_that_began_together_one_ends_and_the_job_goes_on(job):
    now = [0.0]
    mark = WatcherMark(job, Folder(), pytest.fail, clock=lambda: now[0])
    mark.take()
    left_by(job, host="elsewhere")
    mark.keep()
    now[0] = 61.0
    with pytest.raises(RunError, match="too; this watch ends, and the job goes on"):
        mark.keep()
    mark.release()
    assert json.loads(Folder().read(f"{job.folder}/watch.json"))["id"] == "other"


def test_a_mark_that_cannot_be_written_is_told_once(job):
    class Full(Folder):
        def write(self, path, contents):
            raise RunError(f"'{path}' cannot be written: 403")

    warnings, now = [], [0.0]
    mark = WatcherMark(job, Full(), warnings.append, clock=lambda: now[0])
    mark.take()
    now[0] = 100.0
    mark.keep()
    assert warnings == [
        f"'{job.folder}/watch.json' cannot be written: 403; the watch goes on, but other watches do not know "
        "of it"
    ]
