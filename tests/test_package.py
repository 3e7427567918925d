"""The wheel: what it has inside, and that it works in a folder where nothing else is."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
    assert not any(name.startswith(("configs/", "tests/", "benchmarks/")) for name in inside)


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
