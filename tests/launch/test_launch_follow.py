"""Jobs followed from any machine: by the file in their workdir, where a watch elsewhere may have gone on."""

import json
from dataclasses import replace

import pytest
from etils import epath
from launch_jobs import launch

from efficientnet_pod.errors import RunError
from efficientnet_pod.workdir.owner import Owner
from launch.backends.backend import NAMES, State
from launch.backends.slurm import Slurm
from launch.job import remembered as jobs
from launch.job.job import Job
from launch.workdir.job_file import newest, read_job, write_job
from launch.workdir.storage import Folder


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job that another machine has submitted."""
    monkeypatch.setenv(jobs.FOLDER_VARIABLE, str(tmp_path / "jobs"))
    monkeypatch.setattr(Slurm, "state", lambda self, job: State("RUNNING", "", "running"))
    job = Job("run1", "slurm", "cuda:h100x16", str(tmp_path / "shared" / "run1"), env=(("A", "b"),))
    write_job(job, Folder())
    Folder().write(f"{job.folder}/logs/a001-w0000.log", b"launch: worker 0: of 2\n")
    rows = [{"split": "train", "step": n, "images_per_second": 64.0, "seconds": n / 2} for n in (10, 20)]
    rows += [{"split": "eval", "step": 20, "top1": 0.25}]
    Folder().write(f"{job.workdir}/metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    Folder().write(f"{job.workdir}/plan.json", b'{"total_steps": 40}')
    return job


def test_a_job_is_known_by_its_workdir_on_any_machine(job, capsys):
    assert launch(capsys, "status", "run1")[0] == 2
    code, output, errors = launch(capsys, "status", f"--workdir={job.workdir}/")
    assert code == 0, errors
    assert output.splitlines()[1].split() == [
        "run1", "cuda:h100x16", "slurm", "RUNNING", "1", "20", "of", "40", "0", "25.00%",
    ]  # fmt: skip
    assert launch(capsys, "logs", f"--workdir={job.workdir}") == (0, "launch: worker 0: of 2\n", "")
    code, _, errors = launch(capsys, "watch", f"--workdir={job.workdir}")
    assert code == 2 and "run1 needs no watch: the script puts itself into the queue again" in errors
    stopped = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Slurm, "cancel", lambda self, job: stopped.append(job.name))
        assert launch(capsys, "cancel", f"--workdir={job.workdir}")[0] == 0
    assert stopped == ["run1"]


def test_a_workdir_without_a_job_is_one_line(job, capsys, tmp_path):
    code, _, errors = launch(capsys, "status", f"--workdir={tmp_path}")
    assert code == 2 and errors == (
        f"launch: '{tmp_path}/launch/job.json' does not exist: no job was submitted with "
        f"--workdir={tmp_path}\n"
    )
    Folder().write(f"{job.folder}/job.json", b"{}")
    code, _, errors = launch(capsys, "logs", f"--workdir={job.workdir}")
    assert code == 2 and "cannot be read as a job" in errors and errors.count("\n") == 1
    code, _, errors = launch(capsys, "logs")
    assert code == 2 and "logs needs the name of one job" in errors


def test_what_a_watch_elsewhere_has_gone_on_with_is_known_here(job, capsys):
    jobs.remember(job)
    later = replace(job, attempt=4)
    write_job(later, Folder())
    assert newest(job, Folder()) == read_job(job.workdir, Folder()) == later
    assert " RUNNING  4 " in launch(capsys, "status", "run1")[1]
    # A job of another name has that workdir since: the one that is asked for is as it was left here.
    write_job(replace(job, name="run2", attempt=9), Folder())
    assert newest(job, Folder()) == job

    class Away(Folder):
        def read(self, path):
            raise RunError("no network")

    assert newest(job, Away()) == job


OWN_LOGS = {  # of worker 5
    "qr": "gcloud compute tpus tpu-vm ssh run1-2 --worker=1 --project=p --zone=z '--command=sudo journalctl "
    "-u google-startup-scripts'",
    "mig": "gcloud compute instance-groups managed list-instances run1 --project=p --zone=z; then gcloud "
    "compute instances get-serial-port-output MACHINE --project=p --zone=z",
    "gke": "kubectl logs --selector=jobset.sigs.k8s.io/jobset-name=run1,jobset.sigs.k8s.io/job-index=2,"
    "batch.kubernetes.io/job-completion-index=1 --container=trainer --tail=-1",
    "sky": "sky jobs logs --name run1",
    "slurm": "cat {folder}/slurm-*.log",
    "local": "the terminal of its submit, which printed it",
    "fake": "cat {jobs}/fake/run1-*/worker5/console.log",
}


@pytest.mark.parametrize("backend", NAMES)
def test_a_log_that_is_not_there_yet_is_the_engines_own(backend, tmp_path, monkeypatch, capsys):
    if backend == "fake":
        pytest.importorskip("google.cloud.tpu_v2", reason="needs the extra 'launch'")
    monkeypatch.setenv(jobs.FOLDER_VARIABLE, str(tmp_path / "jobs"))
    machine, slices = ("v4-16", 4) if backend in ("qr", "gke") else ("v4-64", 1)  # two hosts, or eight
    fields = {"tpu": machine, "slices": slices, "project": "p", "zone": "z"}
    job = Job("run1", backend, workdir=str(tmp_path / "run1"), **fields)
    write_job(job, Folder())
    code, _, errors = launch(capsys, "logs", f"--workdir={job.workdir}", "--worker=5")
    own = OWN_LOGS[backend].format(folder=job.folder, jobs=tmp_path / "jobs")
    assert code == 2 and errors == (
        f"launch: worker 5 of run1 has no log in {job.folder}/logs yet; workers write every minute once they "
        f"run; before: {own}\n"
    )


def test_a_job_in_the_foreground_runs_while_it_holds_its_workdir(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(jobs.FOLDER_VARIABLE, str(tmp_path / "jobs"))
    job = Job("run1", "local", "v4-16", str(tmp_path / "run1"))
    write_job(job, Folder())
    with Owner(epath.Path(job.workdir)):
        assert " RUNNING (in the foreground" in launch(capsys, "status", f"--workdir={job.workdir}")[1]
    assert " GONE (it ran in the foreground) " in launch(capsys, "status", f"--workdir={job.workdir}")[1]
