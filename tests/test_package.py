"""The wheel: what it has inside, and that it works in a folder where nothing else is."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distribution, distributions, version
from pathlib import Path

import pytest

from efficientnet_pod.cli.main import main
from launch.job.source_code import pack

HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the tracked files and those that are new."""
    pytest.importorskip("setuptools", minversion="77", reason="builds the wheel")
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("efficientnet_pod", "configs", "launch"):
        shutil.copytree(HERE / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(HERE / name, tree)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_every_file_of_the_package_and_every_recipe_is_inside(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = {path for path in (HERE / "efficientnet_pod").rglob("*.*") if "__pycache__" not in path.parts}
    assert {str(path.relative_to(HERE)) for path in files if path.is_file()} <= inside
    assert {f"efficientnet_pod/configs/{path.name}" for path in (HERE / "configs").glob("*.py")} <= inside
    launcher = {str(path.relative_to(HERE)) for path in (HERE / "launch").rglob("*.??")} | {
        "launch/image/Dockerfile"
    }
    assert {f"efficientnet_pod/launcher/{name}" for name in launcher} <= inside
    assert {name.partition("/")[0] for name in inside if ".dist-info/" not in name} == {"efficientnet_pod"}


def test_it_works_outside_of_the_source_code(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()

    def run(*arguments):
        command = [sys.executable, "-m", "efficientnet_pod", *arguments]
        return subprocess.run(
            command,
            cwd=empty,
            env={"PYTHONPATH": str(site), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=120,
        )

    listed = run("recipes")
    assert "digits:averaged" in listed.stdout and listed.returncode == 0, listed.stderr
    copied = run("recipes", "digits", "--copy=mine.py")
    assert copied.returncode == 0 and (empty / "mine.py").exists(), copied.stderr
    shown = run("config", "--config=mine.py:raw", "--diff=digits")
    assert "config.eval_raw" in shown.stdout and shown.returncode == 0, shown.stderr
    launched = run("launch", "status")
    assert launched.stdout == "no job was submitted from here\n" and launched.returncode == 0, launched.stderr


@pytest.fixture
def project(tmp_path, monkeypatch, capsys):
    """A folder that `init` made, with one commit."""
    folder = tmp_path / "mine"
    assert main(["init", str(folder), "--recipe=digits"]) == 0
    assert capsys.readouterr().out.startswith(f"{folder}: recipe.py (a copy of digits), Makefile, .gitignore")
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "t")
        monkeypatch.setenv(f"{name}_EMAIL", "t@example.com")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", folder, *words], check=True)
    return folder


def test_a_project_is_sent_with_a_trainer_that_pip_installs(project, tmp_path):
    code = pack(project, allow_dirty=False)
    assert code == pack(project, allow_dirty=False), "the same files are the same tarball"
    sent, site = tmp_path / "sent", tmp_path / "site"
    with tarfile.open(fileobj=io.BytesIO(code.tarball)) as tar:
        tar.extractall(sent, filter="data")
    (wheel,) = (sent / ".trainer").glob("*.whl")
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run([sys.executable, *map(str, install)], check=True, capture_output=True)
    (about,) = distributions(path=[str(site)])
    assert about.requires == distribution("efficientnet-pod").requires, "pip reads what it needs"
    planned = subprocess.run(
        [sys.executable, "-m", "efficientnet_pod", "config", "--config=recipe.py:raw", "--diff=digits"],
        cwd=sent,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "config.eval_raw" in planned.stdout and planned.returncode == 0, planned.stderr
    pins = (sent / ".trainer" / "constraints.txt").read_text().split()
    assert f"jax=={version('jax')}" in pins and not any(pin.startswith("efficientnet-pod") for pin in pins)


def test_a_makefile_of_a_project_calls_commands_that_there_are(project):
    targets = "train plan report preflight submit".split()
    make = ["make", "-n", *targets, "WORKDIR=gs://b/r", "ARGS=--config.seed=1"]
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")  # of the make that runs the tests
    env = {name: value for name, value in os.environ.items() if name not in outer}
    printed = subprocess.run(make, cwd=project, env=env, check=True, capture_output=True, text=True).stdout
    lines = printed.replace("\\\n", " ").splitlines()
    assert [line.split()[1] for line in lines] == [*targets[:-1], "launch"]
    submit = "submit --backend=qr --tpu=v5e-8 --workdir=gs://b/r -- --config=recipe.py --config.seed=1"
    assert lines[-1].split()[2:] == submit.split()


@pytest.mark.parametrize(
    "words, reason",
    [
        ([], "init needs the name of one new folder, e.g. efficientnet-pod init my-photos"),
        (["a", "b"], "init needs the name of one new folder, e.g. efficientnet-pod init my-photos"),
        (["full"], "'full' has something in it already; name a new folder"),
        (["full/file"], "'full/file' has something in it already; name a new folder"),
        (["full/file/x"], "'full/file/x' cannot be written: Not a directory; name another folder"),
        (["x", "--recipe=digts"], "no recipe 'digts'; did you mean 'digits'?"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused(words, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main(["init", *words]) == 2
    assert capsys.readouterr().err == f"efficientnet-pod: {reason}\n"
    assert not (tmp_path / "x").exists()
