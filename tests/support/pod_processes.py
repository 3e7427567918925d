"""Real training processes of a one-block network: started, signalled, waited for, and what they left read.

Run as a program this file is one of them: ``pod_processes.py POINTS SECONDS PROGRAMS train --config=…``.
"""

import io
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import mock

import zygote

from efficientnet_pod.cli import main as cli
from efficientnet_pod.pod import rehearsal

ROOT = Path(__file__).parents[2]
REVERSED = "REVERSED_PLACES"  # tells a process of the tests
LIMIT_SECONDS = 300.0  # of any wait: the machine may be busy

# 24 steps an epoch; with its evaluation each sixth step leaves a checkpoint.
FIELDS: dict[str, Any] = {
    "global_batch": 60,
    "eval_epochs": 0.25,
    "log_steps": 4,
    "ema_decay": 0.5,
    "keep_checkpoints": 100,
    "schedule.warmup_epochs": 0.25,
    "model.bn_momentum": 0.5,
    "data.image_size": 16,
}
STEPS_PER_EPOCH, EVAL_STEPS, EVAL_BATCHES = 1437 / 60, 6, 6


class Training:
    """One start of a run: a process for each host. A context manager: leaving it kills what still runs."""

    def __init__(
        self,
        workdir: Path,
        *,
        steps: int,
        hosts: int = 1,
        fault: str = "",
        step_seconds: float = 0.0,
        save_seconds: float = 0.0,
        input_seconds: float = 0.0,
        slow_host: int | None = None,
        workdir_of_others: Path | None = None,
        reversed_places: bool = False,
        forked: bool = True,
        out: Path | None = None,
        **fields: Any,
    ):
        """Starts it.

        Args:
          workdir: its records; new ones start faster after :func:`take_programs`.
          steps: of the whole run.
          hosts: 2 replicas are shared among them.
          fault: see ``efficientnet_pod.pod.inject``.
          step_seconds: by which every step is slowed down, for signals to come in the middle of the run.
          save_seconds: likewise for every save, before its commit.
          input_seconds: likewise for the input of every step.
          slow_host: the only host that is slowed down; None: all are.
          workdir_of_others: what the other hosts are told; None: what the first one is.
          reversed_places: let the devices number the processes the other way round, as a TPU's runtime may.
          forked: False for processes as a user starts them, which take seconds to import all they need.
          out: where all that the hosts print goes, such as ``/dev/full``; None: to files of their own.
          fields: of the config, beside ``FIELDS``; ``__`` stands for a dot.
        """
        self.workdir, self.hosts, self.fault = workdir, hosts, fault
        self._logs = workdir.parent / f"{workdir.name}-logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._start = len(list(self._logs.glob("*-host0.txt")))
        arguments = _arguments(steps, {"cpu_replicas": 2 // hosts} | fields)
        if hosts > 1:
            arguments += [f"--coordinator=127.0.0.1:{_free_port()}", f"--processes={hosts}"]
        slow = {"step": step_seconds, "saving": save_seconds, "input": input_seconds}
        self.processes = []
        for host in range(hosts):
            self._output(host).touch()
            of_host = json.dumps(slow if slow_host in (None, host) else {})
            words = [str(self._points(host)), of_host, str(workdir / "programs"), *arguments]
            words += [f"--workdir={workdir_of_others if host and workdir_of_others else workdir}"]
            words += [f"--process={host}"] if hosts > 1 else []
            process = zygote.start(
                Path(__file__),
                words,
                out=out or self._output(host),
                environment={"EFFICIENTNET_POD_FAULT": fault, REVERSED: str(int(reversed_places))},
                forked=forked,
            )
            self.processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def _output(self, host: int) -> Path:
        return self._logs / f"{self._start:03}-host{host}.txt"

    def _points(self, host: int) -> Path:
        return self._output(host).with_suffix(".points")

    def output(self, host: int = 0) -> str:
        """Returns what a host has printed so far."""
        return self._output(host).read_text(errors="replace")

    def points(self, host: int = 0) -> list[str]:
        """Returns the points a host has come to, such as ``step 13``."""
        path = self._points(host)
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, point: str, host: int = 0) -> None:
        """Returns when a host has come to a point."""
        self.wait_until(lambda: point in self.points(host) or self.has_ended)
        assert point in self.points(host), f"ended before '{point}': {self.output(host)}"

    def wait_until(self, is_so: Callable[[], bool], seconds: float = LIMIT_SECONDS) -> None:
        """Returns when it is so."""
        deadline = time.monotonic() + seconds
        while not is_so():
            said = "\n".join(self.output(host)[-3000:] for host in range(self.hosts))
            assert time.monotonic() < deadline, f"still not so after {seconds} s: {said}"
            time.sleep(0.05)

    def signal(self, number: signal.Signals, host: int = 0) -> None:
        """Sends a signal to one host, by its pid."""
        self.processes[host].send_signal(number)

    @property
    def has_ended(self) -> bool:
        """Whether no host runs any more."""
        return all(process.poll() is not None for process in self.processes)

    def end(self, seconds: float = LIMIT_SECONDS) -> list[int]:
        """Returns the exit codes of all hosts, negative those of a signal; waits for them."""
        self.wait_until(lambda: self.has_ended, seconds)
        return [process.wait() for process in self.processes]

    def seconds_to_the_end_of_all(self) -> float:
        """Returns how long the last host ran after the first was down."""
        self.wait_until(lambda: any(process.poll() is not None for process in self.processes))
        began = time.monotonic()
        self.end()
        return time.monotonic() - began


def run(workdir: Path, **options: Any) -> tuple[list[int], str]:
    """Returns the exit codes of one start and what its hosts printed."""
    with Training(workdir, **options) as training:
        return training.end(), "\n".join(training.output(host) for host in range(training.hosts))


def rehearse_pod(workdir: Path, *, steps: int) -> tuple[int, str]:
    """Returns exit code and output of ``efficientnet-pod pod``: the same run, its 2 hosts fresh processes."""
    from efficientnet_pod.cli import pod as pod_command  # which has its own name for the function

    rehearse = rehearsal.rehearse

    def of_one_block(command: list[str], **options: Any) -> int:
        assert command[:3] == [sys.executable, "-m", "efficientnet_pod"]
        program = [sys.executable, __file__, os.devnull, "{}", str(workdir / "programs")]
        return rehearse([*program, *command[3:]], environment=zygote.VARIABLES, **options)

    output = io.StringIO()
    flags = ["--processes=2", "--devices-per-process=1", "--"]
    with (
        mock.patch.object(pod_command, "rehearse", of_one_block),
        redirect_stdout(output),
        redirect_stderr(output),
    ):
        code = cli.main(["pod", *flags, *_arguments(steps, {}), f"--workdir={workdir}"])
    return code, output.getvalue()


def take_programs(finished: Path, workdir: Path) -> None:
    """Copies the compiled programs of one run into the workdir of another."""
    shutil.copytree(finished / "programs", workdir / "programs")


def summary(workdir: Path) -> dict[str, Any]:
    """Returns ``summary.json``."""
    return json.loads((workdir / "summary.json").read_text())


def rows(workdir: Path, split: str) -> list[dict[str, Any]]:
    """Returns the rows of metrics of one split, in the order of the file."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def journal(workdir: Path) -> list[dict[str, Any]]:
    """Returns what happened in a run; lines that a kill has torn are left out."""
    found = []
    for line in (workdir / "journal.jsonl").read_text().splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def digests(workdir: Path) -> dict[int, str]:
    """Returns the digest of each committed checkpoint whose commit can be read, by step."""
    found = {}
    for path in (workdir / "checkpoints").glob("[0-9]*/commit.json"):
        with suppress(ValueError, KeyError):
            found[int(path.parent.name)] = json.loads(path.read_text())["digest"]
    return found


def differences(workdir: Path, reference: Path) -> list[str]:
    """Returns in what a finished run differs from one that was never interrupted; nothing if all is well.

    Compared are the digest of the final state and of all checkpoints both have; the evaluations; and that
    each step of training stands in exactly one row.
    """
    found = []
    here, there = digests(workdir), digests(reference)
    found += [
        f"state of step {step}" for step in sorted(here.keys() & there.keys()) if here[step] != there[step]
    ]
    if summary(workdir)["state_digest"] != summary(reference)["state_digest"]:
        found.append("final state")
    evaluations = [
        [(row["step"], row["loss"], row["top1"], row["top5"], row["images"]) for row in rows(each, "eval")]
        for each in (workdir, reference)
    ]
    if evaluations[0] != evaluations[1]:
        found.append(f"evaluations {evaluations[0]} instead of {evaluations[1]}")
    trained = rows(workdir, "train")
    steps = [row["step"] for row in trained]
    if steps != sorted(set(steps)):
        found.append(f"steps of training in more than one row: {steps}")
    images = [sum(row["images"] for row in rows(each, "train")) for each in (workdir, reference)]
    if images[0] != images[1]:
        found.append(f"{images[0]} images in the rows of training instead of {images[1]}")
    return found


def _arguments(steps: int, fields: dict[str, Any]) -> list[str]:
    values = FIELDS | {"bn_group_size": 2, "epochs": steps / STEPS_PER_EPOCH}
    values |= {name.replace("__", "."): value for name, value in fields.items()}
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    return ["train", f"--config={ROOT}/configs/digits.py", *flags]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _main(points: str, slow: dict[str, float], programs: Path, arguments: list[str]) -> None:
    """Runs a command of the real command line on a network of one block; notes each point it comes to."""
    import pytest
    from tiny import build_tiny_networks

    from efficientnet_pod.pod import inject

    at = inject.at
    file = os.open(points, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(point: str, step: int | None = None) -> None:
        os.write(file, f"{point} {step}\n".encode())
        time.sleep(slow.get(point, 0))
        at(point, step)

    inject.at = note
    build_tiny_networks(pytest.MonkeyPatch())
    if int(os.environ.get(REVERSED, "0")):
        _reverse_places()
    _keep_programs_of_other_hosts(arguments, programs)
    sys.argv[1:] = arguments
    cli.run()


def _reverse_places() -> None:
    """Lets the devices of the last process come first: only ``jax.process_index`` changes, no process id."""
    from jax._src.distributed import global_state

    from efficientnet_pod.pod import runtime

    start_backend = runtime._start_backend

    def start_reversed(platform: str) -> str:
        with mock.patch.object(
            global_state, "process_id", global_state.num_processes - 1 - global_state.process_id
        ):
            return start_backend(platform)

    runtime._start_backend = start_reversed


def _keep_programs_of_other_hosts(arguments: list[str], folder: Path) -> None:
    """Lets a host that is not the first one find its programs, too, so that its next start costs seconds."""
    from types import SimpleNamespace

    from jax._src import compiler

    from efficientnet_pod.pod.runtime import compilation_cache
    from efficientnet_pod.run import programs

    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if host := int(given.get("--process", "0")):
        programs.nullcontext = lambda: compilation_cache(folder / f"host{host}")
        first = SimpleNamespace(process_id=0, client=None)  # JAX writes on the first host only
        setattr(compiler, "distributed", SimpleNamespace(global_state=first))  # noqa: B010


if __name__ == "__main__":
    _main(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
