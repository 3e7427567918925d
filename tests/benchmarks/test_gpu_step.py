"""The GPU kit where no GPU is: what it needs, what it refuses, what it prints, and what it checks."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_jax, gpu_step
from benchmarks.resumable import ROOT
from benchmarks.tpu_step import Row

MISSING = ["tensorflow", "tensorflow_datasets", "orbax", "clu", "ml_collections"]
# Read by Python at its start: imports of what a bare machine does not have fail.
REFUSE = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {MISSING}:
            raise ModuleNotFoundError("this machine has no " + name, name=name)

sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture
def bare(tmp_path):
    """Returns a function that runs Python as on a machine with JAX, Flax and optax alone, without a GPU."""
    (tmp_path / "sitecustomize.py").write_text(REFUSE)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": ""}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=ROOT
        )

    return run


def test_the_hook_refuses(bare):
    ended = bare("-c", "import tensorflow")
    assert ended.returncode and "this machine has no tensorflow" in ended.stderr


def test_nothing_on_the_way_needs_what_a_bare_machine_lacks(bare):
    ended = bare("-c", "import benchmarks.gpu_check, benchmarks.gpu_jax, benchmarks.gpu_program")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("module", ["gpu_step", "gpu_check"])
def test_without_a_gpu_it_is_one_line_with_the_remedy(bare, module):
    ended = bare("-m", f"benchmarks.{module}")
    assert ended.returncode == 2
    line = ended.stderr.splitlines()[-1]
    assert line.startswith("no GPU: JAX says ") and f"python -m benchmarks.{module} --platform=cpu" in line
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("flag", "words"),
    [("--rows=b7x4", "b7x4; known networks are b0, b2, b5"), ("--contenders=keras", "known are ours, timm")],
)
def test_what_is_unknown_is_refused(flag, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_step", flag])
    with pytest.raises(SystemExit, match="2"):
        gpu_step.main()
    assert words in capsys.readouterr().err


def flags(path: Path, **changes) -> argparse.Namespace:
    of_rows = {"rows": [Row("b0", 4), Row("b2", 4)], "contenders": ["ours", "timm"], "platform": "cpu"}
    return argparse.Namespace(
        **{**of_rows, "small": True, "budget": 0, "json": path, "resume": True} | changes
    )


class Clock:
    """A clock that stands still but for what processes take."""

    def __init__(self, monkeypatch, seconds: dict[str, float]):
        self.now, self.seconds, self.made = 0.0, seconds, []
        monkeypatch.setattr(gpu_step.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(gpu_step.Results, "get", self.get)

    def get(self, identity, command, *, seconds):
        self.now += self.seconds[identity["contender"]]
        self.made.append((identity["row"], identity["contender"]))
        return dict(identity)


def test_rows_that_would_overrun_are_left_out(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, {"check": 50, "ours": 100, "timm": 20})
    # Before B2: 200 - 170 = 30 s are left, too few for ours, which took 100, and enough for timm's 20.
    found, left_out, failures = gpu_step.make_all(flags(tmp_path / "r.jsonl", budget=200), "a device")
    assert clock.made == [("check", "check"), ("b0x4", "ours"), ("b0x4", "timm"), ("b2x4", "timm")]
    assert left_out == ["b2x4 ours"] and len(found) == 4 and not failures


def test_what_is_kept_needs_no_time(tmp_path):
    path = tmp_path / "r.jsonl"
    (_, (first, *_), _) = gpu_step.make_all(flags(path), "a device")
    assert first == "b0x4 check"
    sources = gpu_step.made_of([f"benchmarks/{name}.py" for name in gpu_step.SOURCES] + ["efficientnet_pod"])
    kept = {"row": "b2x4", "contender": "timm", "device": "a device", "platform": "cpu", "small": True}
    path.write_text(json.dumps(kept | sources | {"steps": 7}) + "\n")
    found, left_out, _ = gpu_step.make_all(flags(path), "a device")
    assert [result["steps"] for result in found] == [7] and "b2x4 timm" not in left_out
    assert gpu_step.make_all(flags(path), "another device")[0] == []


def test_a_row_is_compared_with_the_faster_peer_and_the_memorys_rate():
    of_gpu = {"row": "b0x100", "images": 100, "steps": 15, "ready_seconds": 9, "what": "-"}
    of_gpu |= {"device_kind": "NVIDIA H100 80GB HBM3"}
    found = [
        of_gpu
        | {"contender": "ours", "step_seconds": [0.1, 0.2, 0.4], "bytes_accessed": 0.25 * 3352.32e9 * 0.2},
        of_gpu | {"contender": "timm", "step_seconds": [0.3]},
        of_gpu | {"contender": "timm-compiled", "step_seconds": [0.25]},
        of_gpu | {"contender": "timm", "row": "b2x1", "step_seconds": [0.01]},
    ]
    ours, timm = (line.split(" | ") for line in gpu_step.table(found).splitlines()[2:4])
    assert ours[2:5] == ["500.0 (250.0–1,000.0)", "1.25", "200.00"]
    assert ours[9] == "0.25" and timm[3] == "0.83" and timm[9] == "–"


@pytest.fixture
def numbers(monkeypatch):
    """Numbers that the check finds on the CPU; those of the device follow, changed by the test."""
    rng = np.random.default_rng(0)
    wanted = {"logits": rng.normal(size=(4, 10)), "loss": np.float64(6.9)}
    wanted |= {"update": [rng.normal(size=(3, 3)), rng.normal(size=2)], "statistics": [rng.normal(size=5)]}
    found = dict(wanted)
    answers = iter([wanted, found])
    monkeypatch.setattr(gpu_jax, "_numbers", lambda *_: next(answers))
    return found


def test_equal_numbers_are_within_all_bounds(numbers):
    check = gpu_jax.check("b0", 4, 32, "cpu")
    assert check["beyond"] == [] and set(check["differences"].values()) == {0.0}
    assert "all within" in gpu_step.words_of_check(check)


@pytest.mark.parametrize(
    ("name", "change", "beyond"),
    [
        ("logits", lambda logits: logits * (1 + 2e-4), ["logits"]),
        ("loss", lambda loss: loss * np.nan, ["loss"]),
        ("update", lambda tensors: [tensors[0], 1.1 * tensors[1]], ["update", "tensor"]),
        ("statistics", lambda tensors: [1.01 * tensor for tensor in tensors], ["statistics"]),
    ],
)
def test_a_difference_is_found_where_it_is(numbers, name, change, beyond):
    numbers[name] = change(numbers[name])
    check = gpu_jax.check("b0", 4, 32, "cpu")
    assert check["beyond"] == beyond
    assert f"BEYOND: {', '.join(beyond)}" in gpu_step.words_of_check(check)


@pytest.mark.long
def test_all_of_it_runs_on_a_cpu_of_a_bare_machine(bare, tmp_path):
    """PyTorch is not among the packages of the tests: its rows fail here, and the others are made."""
    path = tmp_path / "results.jsonl"
    command = ["-m", "benchmarks.gpu_step", "--platform=cpu", "--small", f"--json={path}", "--budget=3000"]
    ended = bare(*command, "--contenders=ours,plain")
    assert ended.returncode == 0, ended.stderr[-2000:]
    results = [json.loads(line) for line in path.read_text().splitlines() if line]
    assert [result["contender"] for result in results] == ["check", "ours", "plain"]
    assert "all within" in ended.stdout and "b0x4 | plain" in ended.stdout
