"""Backends that call a tool, against stubs of it; the local one, and doctor, on this machine."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from launch_jobs import ROOT, launch

from efficientnet_pod.errors import RunError, UserError
from launch.backends import tools
from launch.backends.gke import Gke
from launch.backends.local import Local
from launch.backends.sky import Sky
from launch.backends.slurm import Slurm
from launch.doctor import doctor
from launch.job.job import Job

JOB = Job("run1", "gke", "v5e-16", "gs://b/run1", image="trainer:1", code="code.tar.gz")
# Writes its words and its input down, then says what a test wants.
STUB = """#!/bin/bash
echo "$(basename "$0") $*" >>"$CALLS"
[ "$*" != "${READS:-}" ] || cat >"$CALLS.input"
for n in 1 2 3; do
  words="WORDS$n" says="SAYS$n" code="CODE$n"
  if [[ -n "${!words:-}" && "$*" == ${!words} ]]; then
    echo "${!says}"; echo "${!says}" >&2; exit "${!code:-0}"
  fi
done
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Puts stubs on the path; returns a function that says what they answer, and their calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("kubectl", "sky", "sbatch", "squeue", "scancel"):
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))

    def answer(*answers, reads=""):
        monkeypatch.setenv("READS", reads)
        for n, (words, says, code) in enumerate(answers, 1):
            for name, value in (("WORDS", words), ("SAYS", says), ("CODE", str(code))):
                monkeypatch.setenv(f"{name}{n}", value)

    return answer, lambda: (tmp_path / "calls").read_text().splitlines()


def test_gke_applies_the_manifest_and_reads_its_conditions(stub, tmp_path):
    answer, calls = stub
    gone = ("get jobset*", 'Error from server (NotFound): jobsets "run1" not found', 1)
    answer(gone, reads="create -f -")
    gke = Gke()
    gke.check(JOB)
    assert gke.submit(JOB) == 0
    assert calls() == ["kubectl get jobset run1 -o json", "kubectl create -f -"]
    assert "kind: JobSet" in (tmp_path / "calls.input").read_text()
    conditions = [{"type": "Suspended", "status": "False"}, {"type": "Completed", "status": "True"}]
    answer(("get jobset*", json.dumps({"status": {"restarts": 2, "conditions": conditions}}), 0))
    state = gke.state(JOB)
    assert (state.word, state.detail, state.phase) == ("Completed", "2 restarts", "gone")
    with pytest.raises(UserError, match="choose another --name"):
        gke.check(JOB)
    with pytest.raises(UserError, match="--image is missing"):
        gke.check(replace(JOB, image=""))


def test_gke_leaves_nothing_after_a_failure(stub):
    answer, calls = stub
    answer(("create*", "error: the server could not find\nthe requested resource", 1))
    with pytest.raises(
        RunError, match="kubectl create -f failed with exit code 1: error: the server could n"
    ):
        Gke().submit(JOB)
    assert calls()[-1] == "kubectl delete jobset run1 --ignore-not-found"


def test_sky_launches_a_managed_job_and_reads_the_queue(stub):
    answer, calls = stub
    answer(("jobs queue*", "ID NAME STATUS\n3 run1 RECOVERING", 0))
    sky = Sky()
    sky.check(JOB)
    sky.submit(JOB)
    assert calls()[0].startswith("sky jobs launch --yes --detach-run --name run1 /")
    assert (sky.state(JOB).word, sky.state(JOB).phase) == ("RECOVERING", "running")
    assert sky.state(replace(JOB, name="run2")).word == "GONE"
    sky.cancel(JOB)
    assert calls()[-1] == "sky jobs cancel --yes --name run1"


def test_slurm_hands_its_script_over_and_reads_the_queue(stub, tmp_path):
    answer, calls = stub
    job = replace(JOB, backend="slurm", tpu="cuda:h100x16", workdir="/shared/run1")
    answer(("--parsable", "17", 0), ("--noheader*", "PENDING (Priority)", 0), reads="--parsable")
    slurm = Slurm()
    slurm.check(job)
    slurm.submit(job)
    assert "#SBATCH --nodes=2\n" in (tmp_path / "calls.input").read_text()
    assert (slurm.state(job).word, slurm.state(job).detail) == ("PENDING", "(Priority)")
    slurm.cancel(job)
    assert calls()[-1] == "scancel --me --name=run1"
    for name in ("50%", "a b", "lr[0.1]", "a\\b", 'a"b', "a#b"):
        with pytest.raises(UserError, match="has characters that sbatch does not take as they are; use let"):
            slurm.submit(replace(job, workdir=f"/shared/{name}"))
    answer(("--parsable", "sbatch: error: invalid partition", 1))
    with pytest.raises(
        RunError, match="sbatch --parsable failed with exit code 1: sbatch: error: invalid pa"
    ):
        slurm.submit(job)


def test_a_missing_tool_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    for backend, word in ((Gke(), "gcloud components"), (Sky(), "uv tool install"), (Slurm(), "login node")):
        with pytest.raises(UserError, match=f"not on the path; .*{word}"):
            backend.check(JOB)


def test_a_tool_that_hangs_is_given_up(stub, monkeypatch, tmp_path):
    (tmp_path / "bin" / "sky").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(tools, "CALL_SECONDS", 0.2)
    with pytest.raises(RunError, match=r"sky jobs queue did not answer within 0 s; try again"):
        Sky().state(JOB)


def test_local_runs_the_pod_rehearsal_and_returns_its_code(tmp_path, capfd):
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\necho "$* $FRUIT"\nexit 42\n')
    python.chmod(0o755)
    job = Job("run1", "local", "v4-16", str(tmp_path / "run1"), ("--config=x",), python=str(python),
              env=(("FRUIT", "pear"),))  # fmt: skip
    assert Local().submit(job) == 42
    lines = sorted(capfd.readouterr().out.splitlines())
    assert len(lines) == 2 and all("--config.cpu_replicas=4" in line and "pear" in line for line in lines)
    with pytest.raises(UserError, match="v4-512 has 64 hosts, and --backend=local runs at most 16"):
        Local().check(replace(job, tpu="v4-512"))


def test_doctor_says_what_is_well_and_what_is_not(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    # The disk of the machine that runs the tests is its own affair.
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=11 << 30))
    flags = [f"--workdir={tmp_path / 'run'}", "--tpu=v3-32", "--", "--config=configs/digits.py"]
    code, output, _ = launch(capsys, "doctor", *flags)
    assert code == 0, output
    for line in (
        f"ok      disk: 11 GiB free at {tmp_path}\n",
        "ok      versions: Python ",
        "ok      devices: 8 × cpu (cpu)",
        "can be written",
        "ok      clock:",
    ):
        assert line in output
    assert "ok      images 'digits': 1,437 to train, 360 to evaluate, 10 classes\n" in output
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=9 << 30))
    code, output, _ = launch(capsys, "doctor", f"--workdir={tmp_path / 'file' / 'run'}", "--devices=1024")
    assert code == 1 and "WRONG   workdir: workdir '" in output
    assert "WRONG   devices: 8 × cpu (cpu), and 1024 are expected" in output
    assert f"WRONG   disk: 9 GiB free at {tmp_path / 'file'}; make room for 10 GiB\n" in output


def test_doctor_finds_who_holds_the_tpu(tmp_path, monkeypatch):
    device = tmp_path / "accel0"
    device.touch()
    monkeypatch.setattr(
        doctor, "glob", lambda pattern: [str(device)] if "accel" in pattern else _glob(pattern)
    )
    assert doctor.check_holders().is_well
    program = f"import time; held = open({str(device)!r}); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        finding = doctor.check_holders()
        process.kill()
    assert finding.line == f"process {process.pid} holds it; end that process, then start"


def _glob(pattern):
    from glob import glob

    return glob(pattern)
