"""The command: what it prints, the files it writes, and its mistakes in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from skips import needs_libtpu
from tiny import build_tiny_networks
from tiny_preflight import FLAGS, KEYS

from efficientnet_pod.cli import main as cli
from efficientnet_pod.preflight import estimate as estimate_module
from efficientnet_pod.preflight import measure
from efficientnet_pod.preflight.show.as_json import estimate_as_json

ROOT = Path(__file__).parents[2]


def run_tiny(*arguments):
    """Runs the command line in a process of its own, with the tiny network for the real one."""
    program = (
        "import sys; sys.path.insert(0, 'tests/support'); import pytest, tiny; "
        "tiny.build_tiny_networks(pytest.MonkeyPatch()); "
        "from efficientnet_pod.cli.main import main; raise SystemExit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "preflight", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@needs_libtpu
def test_the_command_prints_and_writes_what_the_library_says(v3, folder, tmp_path):
    estimate, _ = v3
    file, hlo = tmp_path / "o.json", tmp_path / "step.hlo"
    flags = [*FLAGS, "--topology=v3-8", f"--json={file}", f"--hlo={hlo}", f"--cache={folder}"]
    ended = run_tiny(*flags)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("fits: ") and "2 of 2 programs came from the cache" in ended.stdout
    assert ended.stderr == "compiling 2 programs for v3:2x2; minutes the first time\n"
    document = json.loads(file.read_text())
    ours = estimate_as_json(estimate)
    changing = ("compile_seconds", "from_cache")
    assert {k: v for k, v in document.items() if k not in changing} == json.loads(
        json.dumps({k: v for k, v in ours.items() if k not in changing})
    )
    assert hlo.read_text() == estimate.train.compiled.output.text
    assert (tmp_path / "step.eval.hlo").read_text() == estimate.steps[1].compiled.output.text


@needs_libtpu
def test_a_sweep_on_the_command_line(v3, folder, tmp_path, monkeypatch, capsys):
    estimate, _ = v3
    build_tiny_networks(monkeypatch)
    monkeypatch.chdir(ROOT)
    file = tmp_path / "o.json"
    flags = [*FLAGS, "--topology=v3:2x2", f"--json={file}", f"--cache={folder}"]
    assert cli.main(["preflight", *flags, "--sweep=topology=v3:2x2,v3:4x8"]) == 0
    printed = capsys.readouterr().out
    table = printed.partition("times are estimates")[0]
    assert "◀ fastest," in table and "cheapest" in table and "impossible" in table and "…" not in table
    assert "v3:4x8: config.global_batch=32 is not a multiple of the 64 replicas" in " ".join(table.split())
    document = json.loads(file.read_text())
    assert [(p["topology"], p["fits"]) for p in document["sweep"]] == [("v3:2x2", True), ("v3:4x8", False)]
    assert document["sweep"][0]["fastest"] and document["sweep"][0]["cheapest"]
    assert document.keys() >= KEYS and document["usd"] == pytest.approx(estimate.usd().least)


@needs_libtpu
def test_what_does_not_fit_ends_with_2_after_the_report(v3, folder, tmp_path, monkeypatch, capsys):
    build_tiny_networks(monkeypatch)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(estimate_module, "hbm_limit", lambda target: 10 << 20)
    file = tmp_path / "o.json"
    assert cli.main(["preflight", *FLAGS, "--topology=v3:2x2", f"--json={file}", f"--cache={folder}"]) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith("does not fit: ")
    assert printed.err.startswith("compiling ") and printed.err.count("\n") == 2
    assert "efficientnet-pod: b5 does not fit v3:2x2; " in printed.err
    assert json.loads(file.read_text())["fits"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "preflight needs --topology, e.g. --topology=v3:16x32"),
        (["--topology=v3:16x31"], "the nearest that can: --topology=v3:16x32"),
        (["--topology=v33:2x2"], "did you mean 'v3'?"),
        (["--topology=v3:2x2", "--sweep=batch=1"], "--sweep=batch=1 varies 'batch'"),
        (["--topology=v3:2x2", "--sweep=replicas=8", "--measure"], "--measure runs one recipe"),
        (["--topology=v3:2x2", "--json=/not/there/o.json"], "/o.json is in a folder that does not exist"),
        (["--topology=cpu:8", "--config.global_batch=33"], "the nearest that is: --config.global_batch="),
        (["--topolgy=v3:2x2"], "topology"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_code_2(capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(ROOT)
    assert cli.main(["preflight", FLAGS[0], *FLAGS[2:], *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("efficientnet-pod: ") and error.count("\n") == 1


def test_a_cpu_is_measured(monkeypatch, capsys, tmp_path):
    build_tiny_networks(monkeypatch)
    monkeypatch.chdir(ROOT)
    calls = []
    median = measure._median
    monkeypatch.setattr(measure, "_median", lambda call: calls.append(median(call)) or calls[-1])
    file = tmp_path / "o.json"
    flags = [*FLAGS, "--topology=cpu:8", "--measure", f"--json={file}", f"--cache={tmp_path}"]
    assert cli.main(["preflight", *flags]) == 0
    printed = capsys.readouterr().out
    document = json.loads(file.read_text())
    assert document["measured_step_ms"] == 1000 * calls[0] > 0
    assert document["images_per_second"] == pytest.approx(32 / calls[0], rel=1e-6)
    assert document["estimated_cycles"] is None and document["estimated_step_ms"] is None
    assert document["usd"] is None and document["hours"] > 0 and document["hbm_bytes"] > 0
    assert "a step (measured)" in printed and "reports no cycles" in printed


def test_a_cpu_is_measured_part_by_part(monkeypatch, capsys, tmp_path):
    build_tiny_networks(monkeypatch)
    monkeypatch.chdir(ROOT)
    seconds = {"train": 0.5, "eval": 0.25, "update": 2.0}  # of the programs in their order
    calls = iter(seconds.values())
    median = measure._median
    monkeypatch.setattr(measure, "_median", lambda call: median(call) and next(calls))
    file = tmp_path / "o.json"
    flags = [*FLAGS, "--topology=cpu:8", "--config.replicas=16", "--measure", f"--json={file}"]
    assert cli.main(["preflight", *flags, f"--cache={tmp_path}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "about 3.00 s a step (measured)" in printed  # 2 · 0.5 + 2
    groups = "8 normalise together: 4 groups of 4 replicas, on 4 devices each"
    assert f"32 global in 2 micro-batches, 2 per replica, {groups}" in printed
    document = json.loads(file.read_text())
    counts = (document[name] for name in ("num_devices", "num_replicas", "micro_batches", "global_batch"))
    assert tuple(counts) == (8, 16, 2, 32)
    assert document["train_hours"] == pytest.approx(3 * document["steps"] / 3600)
