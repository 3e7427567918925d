"""The start-up script: clean under shellcheck, and run by bash beside a metadata server and a stub gcloud."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from launch.backends.fake.metadata import MetadataServer
from launch.backends.slurm import batch_script
from launch.job.job import Job
from launch.job.script import startup_script
from launch.workdir.progress import ask_to_stop, exit_codes, give_turn, next_attempt, notes
from launch.workdir.storage import Folder

JOB = Job(
    "run1",
    "qr",
    "v4-16",
    "gs://bucket/run1",
    ("--config=configs/digits.py", '--config.notes=it\'s "a" $HOME'),
    project="p",
    zone="z",
    env=(("FRUIT", "a pear"),),
)
# Files of gs:// are in $BUCKETS; other commands are written down.
GCLOUD = """#!/bin/bash
if [ "$1 $2" = "storage cp" ]; then
  from="${4/#gs:\\/\\//$BUCKETS/}" to="${5/#gs:\\/\\//$BUCKETS/}"
  mkdir -p "$(dirname "$to")" && exec cp "$from" "$to"
fi
echo "$@" >>"$BUCKETS/calls"
"""
# In place of an interpreter: says what it got, and ends with the next of $CODES.
PYTHON = """#!/bin/bash
trap 'echo checkpointed; exit 42' TERM
printf '<%s>' "$@"; echo " $FRUIT $JAX_COMPILATION_CACHE_DIR $EFFICIENTNET_POD_COMMIT"
starts=$(cat "$BUCKETS/starts.$W" 2>/dev/null || echo 0); echo $((starts + 1)) >"$BUCKETS/starts.$W"
codes=($CODES); code=${codes[$starts]}
if [ "$code" = wait ]; then while true; do sleep 0.05; done; fi
exit "$code"
"""


SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.skipif(SHELLCHECK is None, reason="needs shellcheck")
@pytest.mark.parametrize("make", [startup_script, batch_script])
def test_scripts_are_clean(make, tmp_path):
    job = JOB if make is startup_script else replace(JOB, tpu="cuda:h100x16", backend="slurm", queue="gpus")
    path = tmp_path / "script.sh"
    path.write_text(make(job))
    ended = subprocess.run([SHELLCHECK, path], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


@pytest.fixture
def machine(tmp_path):
    """Starts workers of a slice; returns their processes' command and environment makers."""
    buckets, tools = tmp_path / "buckets", tmp_path / "bin"
    tools.mkdir()
    for name, text in (("gcloud", GCLOUD), ("trainer", PYTHON)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    job = replace(JOB, python=str(tools / "trainer"), code="code.tar.gz", commit="abc")
    folder = buckets / "bucket" / "run1" / "launch"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "code.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("pyproject.toml"), io.BytesIO())
    server = MetadataServer("v4-16", 2)

    def start(worker, codes, *, metadata=None, trainer="/nowhere", **fields):
        variables = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "METADATA_URL": metadata or server.url(worker),
            "BUCKETS": str(buckets),
            "CODES": codes,
            "W": str(worker),
            "TRAINER": trainer,
            "LOG_SECONDS": "0.1",
            "RETRY_SECONDS": "0.1",
        }
        return subprocess.Popen(
            ["bash", "-c", startup_script(replace(job, **fields))],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
        )

    yield start, buckets
    server.close()


def test_machines_of_an_instance_group_are_told_where_they_are(machine):
    start, buckets = machine
    server = MetadataServer("v6e-8", 2, group=True)
    outputs = []
    for worker in (1, 0):
        process = start(worker, "0", backend="mig", tpu="v6e-16", metadata=server.url(worker))
        outputs.append(process.communicate(timeout=30)[0])
        assert process.returncode == 0, outputs
    server.close()
    assert "launch: worker 1: of 4, attempt 1" in outputs[0]
    assert "<--coordinator=127.0.0.1:8482><--processes=4><--process=1>" in outputs[0]
    assert calls(buckets) == "compute instance-groups managed delete run1 --project=p --zone=z --quiet\n"


@pytest.mark.parametrize("ahead", [3.0, -3.0, 0.0])
def test_a_clock_that_is_off_is_noted(machine, ahead):
    start, buckets = machine
    server = MetadataServer("v4-16", 2, ahead={1: ahead})
    process = start(1, "0", metadata=server.url(1))
    output = process.communicate(timeout=30)[0]
    server.close()
    noted = notes(local(buckets=buckets), Folder(), known=())
    line = f"its clock is about 3 s {'ahead' if ahead > 0 else 'behind'} of the metadata server's; let chrony"
    assert process.returncode == 0 and (noted[1].startswith(line) if ahead else not noted)
    assert (f"launch: worker 1: {line}" in output) == bool(ahead)


def local(job=JOB, *, buckets):
    return replace(job, workdir=str(buckets / "bucket" / "run1"))


def calls(buckets):
    return (buckets / "calls").read_text() if (buckets / "calls").exists() else ""


def test_a_worker_runs_the_command_tells_its_end_and_the_first_tears_down(machine):
    start, buckets = machine
    outputs = []
    for worker in (1, 0):
        process = start(worker, "0")
        outputs.append(process.communicate(timeout=30)[0])
        assert process.returncode == 0, outputs
    assert "launch: worker 1: of 2, attempt 1, commit abc; peers 127.0.0.1,127.0.0.1\n" in outputs[0]
    command = (
        "<-m><efficientnet_pod><train><--config=configs/digits.py>"
        '<--config.notes=it\'s "a" $HOME><--workdir=gs://bucket/run1> a pear gs://bucket/run1/programs abc\n'
    )
    assert command in outputs[1]
    assert calls(buckets) == (
        "compute tpus queued-resources delete run1 --project=p --zone=z --force --async --quiet\n"
    )
    job = local(buckets=buckets)
    assert exit_codes(job, Folder()) == {0: 0, 1: 0} and next_attempt(job, Folder()) == 2
    log = (buckets / "bucket/run1/launch/logs/a001-w0001.log").read_text()
    assert log.endswith("launch: worker 1: ended with exit code 0\n") and command in log


@pytest.mark.parametrize(
    "codes, starts, code",
    [("42 42 0", 3, 0), ("2", 1, 2), ("1", 1, 1), ("42 2", 2, 1)],
    ids=["42 starts again", "2 never", "1 ends", "2 of who has run before is no mistake"],
)
def test_exit_codes(machine, codes, starts, code):
    start, buckets = machine
    process = start(0, codes)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == code, output
    assert (buckets / "starts.0").read_text() == f"{starts}\n"
    assert exit_codes(local(buckets=buckets), Folder()) == {0: code}
    assert "queued-resources delete run1" in calls(buckets)


def test_one_that_is_told_to_stop_saves_and_leaves_the_rest_to_the_next_attempt(machine):
    start, buckets = machine
    process = start(0, "wait")
    deadline = time.monotonic() + 20
    while not (buckets / "starts.0").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=20)[0]
    assert process.returncode == 42 and "checkpointed\n" in output
    assert exit_codes(local(buckets=buckets), Folder()) == {} and calls(buckets) == ""
    assert "checkpointed" in (buckets / "bucket/run1/launch/logs/a001-w0000.log").read_text()


def test_workers_that_are_asked_to_stop_save_and_leave_their_exit_codes(machine):
    start, buckets = machine
    first, second = start(0, "wait"), start(1, "42 wait")
    deadline = time.monotonic() + 20
    while len(list(buckets.glob("starts.*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    while (buckets / "starts.1").read_text() != "2\n" and time.monotonic() < deadline:
        time.sleep(0.02)
    job = local(buckets=buckets)
    ask_to_stop(job, Folder())
    output = first.communicate(timeout=20)[0]
    assert first.returncode == 42 and "checkpointed\n" in output
    # The first one's trainer tells the other hosts' trainers; here the test does.
    second.send_signal(signal.SIGTERM)
    output = second.communicate(timeout=20)[0]
    assert second.returncode == 42 and output.count("starting again") == 1
    assert exit_codes(job, Folder()) == {0: 42, 1: 42}


def test_after_42_a_worker_that_is_asked_to_stop_does_not_start_again(machine):
    start, buckets = machine
    ask_to_stop(local(buckets=buckets), Folder())
    process = start(1, "42 0")
    output = process.communicate(timeout=20)[0]
    assert process.returncode == 42 and "starting again" not in output
    assert exit_codes(local(buckets=buckets), Folder()) == {1: 42}


def test_held_workers_train_when_it_is_their_turn(machine):
    start, buckets = machine
    process = start(0, "0", held=True, suffix="-a001")
    time.sleep(1.0)
    assert process.poll() is None and not (buckets / "starts.0").exists()
    give_turn(local(buckets=buckets), Folder())
    output = process.communicate(timeout=20)[0]
    assert process.returncode == 0 and "waits until the machines that train now have saved" in output
    assert "queued-resources delete run1-a001 " in calls(buckets)


def test_held_workers_without_a_turn_give_their_machines_back(machine):
    start, buckets = machine
    process = start(0, "0", held=True, env=(("FRUIT", "a pear"), ("TURN_SECONDS", "1")))
    output = process.communicate(timeout=20)[0]
    assert process.returncode == 1 and "had no turn within 1 s" in output
    assert not (buckets / "starts.0").exists() and "queued-resources delete run1 " in calls(buckets)


def test_a_worker_that_does_not_know_its_number_does_nothing(machine):
    start, buckets = machine
    process = start("nobody", "0")  # whose number is no number to the metadata server
    output = process.communicate(timeout=30)[0]
    assert (
        process.returncode == 1 and "this worker's number is known neither to the environment nor" in output
    )
    assert not list(buckets.glob("starts.*")) and calls(buckets) == ""


def test_damaged_code_is_tried_again_and_then_given_up(machine):
    start, buckets = machine
    process = start(0, "0", sha256="0" * 64)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 1 and "could not install the code (try 3 of 3)" in output
    assert not (buckets / "starts.0").exists()


def test_keep_leaves_the_machines(machine):
    start, buckets = machine
    process = start(0, "0", keep=True)
    process.communicate(timeout=30)
    assert process.returncode == 0 and calls(buckets) == ""


BUCKET = """
import os, shutil

class Client:
    pass

class Blob:
    def __init__(self, uri):
        self.path = os.environ["BUCKETS"] + uri.removeprefix("gs:/")

    @classmethod
    def from_string(cls, uri, client):
        assert isinstance(client, Client)
        return cls(uri)

    def download_to_filename(self, name):
        shutil.copy(self.path, name)

    def upload_from_filename(self, name):
        shutil.copy(name, self.path)
"""


def test_an_image_without_gcloud_copies_with_googles_library(tmp_path):
    script = startup_script(JOB)
    (copy,) = re.findall(r"(?ms)^copy\(\) \{.*?^\}$", script)
    library = tmp_path / "google" / "cloud"
    library.mkdir(parents=True)
    (library / "storage.py").write_text(BUCKET)
    (tmp_path / "buckets" / "b").mkdir(parents=True)
    (tmp_path / "buckets" / "b" / "code").write_text("as sent")
    tools = tmp_path / "bin"  # without gcloud
    tools.mkdir()
    (tools / "bash").symlink_to(shutil.which("bash"))
    variables = {
        "PATH": str(tools),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(tmp_path),
        "BUCKETS": str(tmp_path / "buckets"),
    }
    commands = "copy gs://b/code here && copy here gs://b/log && copy gs://b/none there"
    ended = subprocess.run(
        ["bash", "-c", f"{copy}\n{commands}"], env=variables, cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 1 and "FileNotFoundError" in ended.stderr
    assert (tmp_path / "here").read_text() == "as sent" == (tmp_path / "buckets" / "b" / "log").read_text()


def test_the_interpreter_of_an_image_runs_the_trainer_that_a_project_is_sent_with(machine, tmp_path):
    start, buckets = machine
    folder, wheel = buckets / "bucket" / "run1" / "launch", io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("efficientnet_pod/__main__.py", "import sys; print('sent:', sys.argv[1])")
        archive.writestr("efficientnet_pod/__init__.py", "")
    with tarfile.open(folder / "code.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo(".trainer/trainer-1-py3-none-any.whl")
        member.size = len(wheel.getvalue())
        tar.addfile(member, io.BytesIO(wheel.getvalue()))
    process = start(0, "", python="3.12", trainer=sys.executable)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "sent: train\n" in output, output
