"""What the launcher's tests share: a repository to send, an interpreter with a tiny network, one command."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zygote

from launch.backends.backend import State
from launch.cli import main
from launch.job.job import Job
from launch.workdir.storage import Folder

ROOT = Path(__file__).parents[2]
ACTIVE, SUSPENDED = State("ACTIVE", "", "running"), State("SUSPENDED", "", "lost")
FAILED = State("FAILED", "no capacity", "lost")
GONE = State("GONE", "", "gone")
SENT = ("efficientnet_pod", "configs", "pyproject.toml", "README.md")


def repository(folder: Path) -> Path:
    """Returns a repository with one commit of what workers run."""
    folder.mkdir()
    for name in SENT:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    who = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", folder, *words], check=True)
    return folder


def tiny_python(folder: Path, workdir: Path, *, step_seconds: float) -> Path:
    """Returns an interpreter whose ``-m efficientnet_pod`` trains a network of one block, slowly."""
    variables = {name: value for name, value in zygote.VARIABLES.items() if name != "PYTHONPATH"}
    words = [sys.executable, str(ROOT / "tests" / "support" / "pod_processes.py"), str(folder / "points")]
    words += [f'{{"step": {step_seconds}}}', str(workdir / "programs")]
    lines = ["#!/bin/bash"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    lines += ["shift 2 # -m efficientnet_pod", f'exec {shlex.join(words)} "$@"']
    path = folder / "python"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    return path


def launch(capsys, *words: str) -> tuple[int, str, str]:
    """Returns exit code, output and errors of ``efficientnet-pod launch`` in this process."""
    capsys.readouterr()
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def is_running(pid: int) -> bool:
    """Returns whether a process lives."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def wait_until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    """Returns when it is so; fails after a time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(0.05)


@contextmanager
def fake_service(jobs: Path) -> Iterator[Path]:
    """Yields the folder of a fake service; ends the service if there is one, and checks that it has ended."""
    file = jobs / "fake" / "service.json"
    yield file.parent
    if file.exists():
        pid = json.loads(file.read_text())["pid"]
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_running(pid) or not file.exists()


def workers_of(service: Path) -> list[int]:
    """Returns the process ids whose environment says that they are a worker's of this service."""
    workers = []
    for process in os.listdir("/proc"):
        if process.isdigit():
            try:
                with open(f"/proc/{process}/environ", "rb") as file:
                    if f"SCRATCH={service}/".encode() in file.read():
                        workers.append(int(process))
            except OSError:
                continue
    return workers


class Scripted:
    """A backend whose states are given, and what happens at each look."""

    restarts, needs_bucket = "watch", False

    def __init__(self, *looks):
        self.looks, self.log = list(looks), []

    def state(self, job):
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if callable(look):
            look = look(job)
        if isinstance(look, Exception):
            raise look
        return look

    def submit(self, job):
        self.log.append(f"submit {job.attempt}")
        return 0

    def cancel(self, job):
        self.log.append(f"cancel {job.attempt}")


def workers_end(state: State, *codes: int) -> Callable[[Job], State]:
    """Returns a look of `Scripted` at which the workers have ended."""

    def look(job):
        for worker, code in enumerate(codes):
            Folder().write(f"{job.folder}/ended/a{job.attempt:03}-w{worker:04}", f"{code}\n".encode())
        return state

    return look


def run_has(job: Job, step: int, checkpoint: int) -> None:
    """Writes the records of a run of 40 steps."""
    rows = [json.dumps({"split": "train", "step": n}) for n in range(1, step + 1)]
    Folder().write(f"{job.workdir}/metrics.jsonl", "\n".join([*rows, '{"split"']).encode())
    Folder().write(f"{job.workdir}/plan.json", b'{"total_steps": 40}')
    if checkpoint:
        Folder().write(f"{job.workdir}/checkpoints/{checkpoint}/commit.json", b"{}")
