"""Render: the documents' examples as they were reviewed, byte for byte; what they hold checked by others."""

import re
import shlex
import textwrap
from pathlib import Path

import pytest
import yaml
from launch_jobs import launch

from launch import cli as commands
from launch.job.source_code import Code

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SCRIPT = (ROOT / "launch" / "job" / "startup.sh").read_text().partition("\n")[2].rstrip("\n")


def examples():
    """Returns the render commands of the page on pods by backend."""
    page = (ROOT / "docs" / "how_to" / "pods.md").read_text()
    lines = re.findall(r"^efficientnet-pod launch (render .*)$", page, re.MULTILINE)
    return {re.search(r"--backend=(\w+)", line)[1]: shlex.split(line) for line in lines}


def folded(text):
    """Returns a rendering with the start-up script's fixed part, which is a file, in one line."""
    lines = text.split("\n")
    first, last = SCRIPT.split("\n")[0], SCRIPT.split("\n")[-1]
    starts = [n for n, line in enumerate(lines) if line.strip() == first]
    for start in reversed(starts):
        end = next(n for n in range(start, len(lines)) if lines[n].strip() == last)
        assert textwrap.dedent("\n".join(lines[start : end + 1])) == SCRIPT
        lines[start : end + 1] = [lines[start].replace(first, "[launch/job/startup.sh]")]
    return "\n".join(lines)


@pytest.fixture(autouse=True)
def one_commit(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in ("GOOGLE_CLOUD_PROJECT", "CLOUDSDK_COMPUTE_ZONE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("launch.submit.name_of", lambda folder: Code("0" * 40, "code-000000000000.tar.gz"))


def test_every_backend_of_the_cloud_has_an_example():
    assert set(examples()) == {"qr", "mig", "gke", "sky", "slurm", "local"}


@pytest.mark.parametrize("backend", examples())
def test_examples_are_golden(backend, capsys):
    code, output, errors = launch(capsys, *examples()[backend])
    assert (code, errors) == (0, "")
    golden = GOLDEN / f"launch_{backend}.txt"
    assert folded(output) == golden.read_text(), f"if it is meant so, write it to {golden}"


def test_a_rendering_begins_with_what_it_costs_and_what_is_missing(capsys, monkeypatch):
    _, output, _ = launch(capsys, *examples()["qr"])
    summary = output.partition("\n\n")[0].splitlines()
    assert [line.partition(":")[0] for line in summary] == [
        "# machine", "# workdir", "# images", "# code", "# not given, and needed by submit",
    ]  # fmt: skip
    # SkyPilot's catalog, a v3-1024 on spot in europe-west4: 337.92 dollars.
    assert summary[0].endswith("512 chips on 128 hosts; about $338 an hour, spot")
    assert summary[-1].endswith(": --project")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    _, output, _ = launch(capsys, *[word for word in examples()["qr"] if not word.startswith("--zone")])
    assert output.partition("\n\n")[0].endswith(": --zone")
    assert "about $307 to $338 an hour, spot (cheapest in us-east1)" in output.splitlines()[0]
    _, output, _ = launch(capsys, "render", "--capacity=reservation:ours", *_without_spot(examples()["mig"]))
    assert output.splitlines()[0].endswith("an hour, on demand (reservation:ours has terms of its own)")
    _, output, _ = launch(capsys, *[word for word in examples()["gke"] if not word.startswith("--image")])
    assert output.partition("\n\n")[0].endswith(": --image")
    dirty = Code("0" * 40 + "-dirty", "code.tar.gz")
    monkeypatch.setattr("launch.submit.name_of", lambda folder: dirty)
    _, output, _ = launch(capsys, *examples()["mig"])
    assert "the tree differs from it, so submit needs --allow-dirty\n" in output


def _without_spot(words):
    return [word for word in words[1:] if word != "--spot"]


def document(capsys, backend):
    _, output, _ = launch(capsys, *examples()[backend])
    return yaml.safe_load(output)


def test_the_pod_template_is_valid_kubernetes(capsys):
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    jobset = document(capsys, "gke")
    (child,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **child["template"]}
    validate.validate(job, "1.30", strict=True)
    job["spec"]["paralelism"] = 3
    with pytest.raises(validate.ValidationError, match="paralelism"):
        validate.validate(job, "1.30", strict=True)


def test_sky_recovers_from_42_and_never_from_a_mistake(capsys):
    task = document(capsys, "sky")
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [42]
    assert task["resources"]["job_recovery"]["max_restarts_on_errors"] == 0
    assert task["resources"]["accelerators"] == "tpu-v6e-64" and task["resources"]["use_spot"] is True


def test_render_asks_nobody(capsys, monkeypatch):
    def nobody(*_, **__):
        raise AssertionError("render must not ask")

    for target in (
        "launch.submit.storage_of",
        "launch.backends.tools.call",
        "launch.submit.ask_preflight",
    ):
        monkeypatch.setattr(target, nobody)
    for words in examples().values():
        assert launch(capsys, *words)[0] == 0


def test_usage_and_unknown_commands(capsys):
    assert launch(capsys, "--help") == (0, commands.USAGE, "")
    code, _, errors = launch(capsys, "sumbit")
    assert code == 2 and errors == "launch: unknown command 'sumbit'; did you mean 'submit'?\n"
    code, output, _ = launch(capsys, "submit", "--help")
    assert code == 0 and output.startswith("usage: efficientnet-pod launch submit ") and "--tpu" in output
