"""Jobs: the table of machines, what bad input gets before anything is made, the code that is sent."""

import subprocess
import tarfile
from io import BytesIO
from types import SimpleNamespace

import pytest
from launch_jobs import ROOT, launch

from efficientnet_pod.errors import UserError
from launch import submit
from launch.backends.sky import task
from launch.job import remembered as jobs
from launch.job.job import Job, from_json
from launch.job.slices import GENERATIONS, known_slices, parse_slice
from launch.job.source_code import Code, pack
from launch.workdir import storage

GOOD = {
    "--backend": "qr",
    "--tpu": "v3-1024",
    "--workdir": "gs://b/run1",
    "--project": "p",
    "--zone": "z",
}
CONFIG = ["--config=configs/supercomputer.py:b5,65536", "--config.data.data_dir=gs://b/tfds"]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(jobs.FOLDER_VARIABLE, str(tmp_path / "jobs"))
    for name in ("GOOGLE_CLOUD_PROJECT", "CLOUDSDK_COMPUTE_ZONE"):
        monkeypatch.delenv(name, raising=False)


def words(*more, trainer=CONFIG, **changed):
    given = GOOD | {f"--{name}": value for name, value in changed.items()}
    return [f"{name}={value}" for name, value in given.items() if value] + [*more, "--", *trainer]


def test_the_table_knows_each_size_of_each_generation():
    machines = known_slices()
    assert {machine.target.chip.name for machine in machines} == set(GENERATIONS)
    table = {machine.name: machine for machine in machines}
    v3, v5e = table["v3-1024"], table["v5e-256"]
    assert (v3.target.hosts, v3.target.chips, v3.chips_per_host, v3.target.replicas) == (128, 512, 4, 1024)
    assert (v3.api_type, v3.gke_accelerator, v3.gke_topology) == ("v3-1024", "tpu-v3-slice", "16x32")
    assert (v5e.api_type, v5e.runtime) == ("v5litepod-256", "v2-alpha-tpuv5-lite")
    assert v5e.usd_per_hour(spot=True, zone="us-central1-a").least == pytest.approx(62.70106, rel=1e-4)
    assert table["tpu7x-64"].api_type is None and "qr" not in table["tpu7x-64"].backends
    v2 = table["v2-512"]
    assert (v2.target.hosts, v2.target.chips, v2.target.chip.hbm_bytes) == (64, 256, 16 << 30)
    assert (v2.api_type, v2.runtime, v2.backends) == (
        "v2-512",
        "tpu-ubuntu2204-base",
        ("qr", "sky", "fake", "local"),
    )
    assert str(v2.usd_per_hour(spot=False)) == "$384" and not v2.gke_accelerator and not v2.gke_topology
    assert parse_slice("v5litepod-256") == v5e and parse_slice("v3:16x32") == v3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (words(tpu="v3-999"), "--tpu=v3-999 is 499.5 chips, a size of TPU v3 that is not offered; closest: "
         "--tpu=v3-512 and --tpu=v3-1024"),
        (words(tpu="v6e-63"), "closest: --tpu=v6e-32 and --tpu=v6e-64"),
        (words(tpu="tpu8t-64"), "--tpu=tpu8t-64: TPU 8t is not known yet: no slices, machine types or "
         "prices of it are published; choose one of v2, v3, v4, v5e, v5p, v6e, tpu7x"),
        (words(tpu="v8i-4"), "--tpu=v8i-4: TPU 8i is not known yet"),
        (words(tpu="v55e-8"), "--tpu=v55e-8 names no known TPU; did you mean 'v5e'?"),
        (words(tpu="tpu7x-64"), "--backend=qr does not serve tpu7x-64; choose --backend=fake"),
        (words(tpu="v2-64"), "closest: --tpu=v2-8 and --tpu=v2-32"),
        (words(backend="gke", tpu="v2-8"), "--backend=gke does not serve v2-8; choose --backend=qr, -"),
        (words(tpu="cuda:h100x16"), "--backend=qr does not serve cuda:h100x16; choose --backend=slurm"),
        (words(backend="gcp"), "--backend=gcp is unknown; "),
        (words(backend="sky", slices="2"), "--backend=sky serves one slice, not 2; leave out --slices, or "),
        (words(name="Run_1"), "job name 'Run_1' is invalid: small letters, digits and '-', a letter first, "
         "at most 49; try --name=run-1"),
        (words(workdir="gs://b/2026"), "job name '2026' is invalid"),
        (words(workdir="/data/run1"), "--workdir=/data/run1 is not in a bucket, which all workers reach"),
        (words(workdir="gs://b"), "--workdir=gs://b is a whole bucket; add a folder: --workdir=gs://b/run1"),
        (words(workdir="s3://b/run1"), "write --workdir=gs://BUCKET/RUN"),
        (words(workdir="gs://B_/run1"), "names no bucket"),
        (words("--name=run1", workdir="gs://b/lr[0.1]"), "'gs://b/lr[0.1]' has one of * ? [ ] \\ # %"),
        (words(trainer=[*CONFIG, "--config.global_batch=65000"]), "v3-1024 has 1,024 cores: "
         "config.global_batch=65000 is not a multiple of the 1024 replicas; the nearest that is: "
         "--config.global_batch=64512"),
        (words("--slices=3"), "3 × v3-1024 has 3,072 cores: config.global_batch=65536 is not a multiple"),
        (words(trainer=[*CONFIG, "--config.optimizer.nam=lars"]), "did you mean 'name'?"),
        (words(trainer=[*CONFIG, "--workdir=x"]), "the launcher sets '--workdir' itself; leave '--workdir="),
        (words(trainer=[]), "the trainer's flags follow --, and --config is not among them"),
        (words(project=""), "--project is missing"),
        (words(zone=""), "--zone is missing"),
        (words(tpu=""), "submit needs --tpu, e.g. efficientnet-pod launch submit"),
        (words("--env=WANDB_API_KEY=0123456789abcdef"), "--env=WANDB_API_KEY looks like a secret"),
        (words("--env=A-B=1"), "--env=A-B names no variable"),
        (words(trainer=[*CONFIG, "--config.notes=hf_0123456789abcdefghij"]), "holds what looks like a sec"),
        (words("--spott"), "spott"),
        (words("--spot", "--capacity=flex-start"), "--spot is short for --capacity=spot, and --cap"),
        (words("--capacity=cheap"), "--capacity=cheap is no kind of capacity; write --capacity=on-demand, "),
        (words("--capacity=reservation"), "--capacity=reservation is no kind of capacity"),
        (words("--capacity=reservation:a/b"), "names no reservation; write its short name"),
        (words("--capacity=flex-start"), "--capacity=flex-start is for a number of hours; add --flex-"),
        (words("--flex-hours=9"), "--flex-hours=9 is for --capacity=flex-start; leave it out, or add that"),
        (words("--capacity=flex-start", "--flex-hours=200"), "at least 0 and at most 168"),
        (words("--capacity=flex-start", "--flex-hours=9", "--slices=2"), "has one slice, not 2; leave out"),
        (words("--spot", backend="slurm", tpu="cuda:h100x16", workdir="/d/run1"), "--backend=slurm has no "
         "--capacity=spot; leave it out, or choose --backend=qr, --backend=mig, --backend=gke, --back"),
        (words("--capacity=flex-start", "--flex-hours=9", backend="sky"), "--backend=sky has no --capacity="),
        (words(tpu="v3:32x16"), "--tpu=v3:32x16: 512 chips come as 16x32; write --tpu=v3-1024"),
        (words(tpu="v4:4x12x4"), "--tpu=v4:4x12x4: 192 chips come as 4x4x12; write --tpu=v4-384"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_before_anybody_is_asked(capsys, monkeypatch, arguments, message):
    def nobody(*_, **__):
        raise AssertionError("it was too late")

    for target in (
        "launch.submit.pack",
        "launch.submit.storage_of",
        "launch.backends.queued_resources._cloud_client",
    ):
        monkeypatch.setattr(target, nobody)
    code, out, errors = launch(capsys, "submit", *arguments)
    assert code == 2 and message in errors, errors
    assert errors.count("\n") == 1 and not out
    assert "0123456789abcdef" not in errors


@pytest.fixture
def submitting(monkeypatch):
    """Takes what is after the checks of the command to pieces; returns the list of what was done."""
    done = []
    bucket = SimpleNamespace(
        require=lambda workdir: done.append("bucket"),
        names=lambda folder: [],
        write=lambda path, contents: done.append(f"write {path.rpartition('/')[2][:9]}"),
    )
    backend = SimpleNamespace(
        needs_bucket=True,
        restarts="watch",
        check=lambda job: done.append("check"),
        submit=lambda job: done.append("submit") or 0,
    )
    code = Code("c" * 40, "code.tgz", untracked=("a.txt",))
    monkeypatch.setattr("launch.submit.pack", lambda folder, allow_dirty: code)
    monkeypatch.setattr("launch.submit.storage_of", lambda path: bucket)
    monkeypatch.setattr("launch.flags.backend_named", lambda name: backend)
    estimate = {"fits": True, "hours": 10.0, "usd": 1000.0, "usd_spot": 250.4, "usd_spot_most": 260.0}
    answer = SimpleNamespace(estimate=estimate, errors="")
    monkeypatch.setattr(submit, "look", lambda *_, **__: done.append("images") or "images: there")
    read_fit = submit.read_fit
    monkeypatch.setattr(submit, "ask_preflight", lambda job: read_fit(job, answer.estimate, answer.errors))
    return done, answer


def test_what_submit_does_and_in_which_order(capsys, submitting):
    done, _ = submitting
    code, output, _ = launch(capsys, "submit", *words("--spot", zone="europe-west4-a"))
    assert code == 0 and done[:4] == ["bucket", "check", "images", "bucket"]
    assert done[4:] == ["write code.tgz", "write job.json", "submit"]
    assert output.splitlines()[:5] == [
        "v3-1024: 512 chips on 128 hosts; about $338 an hour, spot",
        "JAX no longer tests itself on TPU v3 (its CI runs v4, v5e, v6e and TPU7x); one zone serves v3 pods: "
        "europe-west4-a",
        "images: there",
        "preflight: it fits v3-1024; about 10 hours, about $250 to $260 on spot (estimates)",
        "submitted run1 at commit cccccccccccc; 1 untracked file is left out",
    ]
    assert jobs.recall("run1").spot and "watch run1" in output


def test_skypilot_is_told_a_zone_only_where_there_is_one(capsys, submitting):
    given = words(backend="sky", project="", zone="")
    assert launch(capsys, "submit", *given)[0] == 0
    assert jobs.recall("run1").zone == "" and task(jobs.recall("run1"))["resources"]["infra"] == "gcp"


def test_what_does_not_fit_is_refused_unless_forced(capsys, submitting):
    done, answer = submitting
    answer.estimate = {"fits": False}
    answer.errors = "efficientnet-pod: b5 does not fit v3:16x32; 48 images a replica should\n"
    code, _, errors = launch(capsys, "submit", *words())
    assert code == 2 and done == ["bucket", "check", "images"]
    assert errors == (
        "launch: preflight: b5 does not fit v3:16x32; 48 images a replica should; or submit it anyway with "
        "--force\n"
    )
    assert launch(capsys, "submit", *words("--force"))[0] == 0
    assert done[-1] == "submit" and done.count("images") == 1


def test_preflight_that_cannot_answer_says_why(capsys, submitting):
    code, output, _ = launch(capsys, "submit", *words("--slices=2"))
    assert code == 0 and "preflight is left out: it knows one slice, and this is 2\n" in output


def test_a_bucket_that_is_missing_or_cannot_be_reached():
    client = SimpleNamespace(bucket=lambda name: SimpleNamespace(exists=lambda timeout: False))
    with pytest.raises(UserError, match="there is no bucket gs://b; make it: gcloud storage buckets create"):
        storage.Bucket(client).require("gs://b/run1")

    def fails(timeout):
        raise RuntimeError("403 no\naccess")

    client = SimpleNamespace(bucket=lambda name: SimpleNamespace(exists=fails))
    with pytest.raises(
        UserError, match="^bucket gs://b cannot be reached: 403 no access; check network, credentials"
    ):
        storage.Bucket(client).require("gs://b/run1")


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "a.txt").write_text("as committed")
    (folder / ".gitignore").write_text("ignored\n")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    for git in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", folder, *git], check=True)
    return folder


def files(code):
    with tarfile.open(fileobj=BytesIO(code.tarball)) as tar:
        own = [file for file in tar if file.isfile() and not file.name.startswith(".trainer/")]
        return {file.name: tar.extractfile(file).read().decode() for file in own}


def test_the_tracked_tree_is_sent_with_its_commit(tree, tmp_path, monkeypatch):
    (tree / "beside.txt").write_text("untracked")
    (tree / "ignored").write_text("x")
    code = pack(tree, allow_dirty=False)
    assert files(code) == {".gitignore": "ignored\n", "a.txt": "as committed"}
    assert code.untracked == ("beside.txt",) and len(code.commit) == 40
    (tree / "a.txt").write_text("changed")
    with pytest.raises(UserError, match="^the tree differs from its commit in a.txt; commit it, or send it "):
        pack(tree, allow_dirty=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")  # of somebody who has told git no name
    dirty = pack(tree, allow_dirty=True)
    assert files(dirty)["a.txt"] == "changed" and dirty.commit == code.commit + "-dirty"
    assert dirty.file != code.file and (tree / "a.txt").read_text() == "changed"
    with pytest.raises(UserError, match="is in no git repository"):
        pack(tmp_path, allow_dirty=False)


def test_jobs_are_remembered_by_name(tmp_path):
    job = Job("run1", "qr", "v3-32", "gs://b/run1", ("--config=x",), env=(("A", "b"),))
    assert from_json(job.to_json()) == job
    with pytest.raises(UserError, match="no job 'run1' is known here; none was submitted from here"):
        jobs.recall("run1")
    jobs.remember(job)
    assert jobs.recall("run1") == job and jobs.all_jobs() == [job]
    with pytest.raises(UserError, match="no job 'run2' is known here; did you mean 'run1'?"):
        jobs.recall("run2")
    (tmp_path / "jobs" / "run1.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read as a job"):
        jobs.recall("run1")
