"""The commands on submitted jobs: `status`, `logs` and `cancel`."""

import sys
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from absl import flags

from efficientnet_pod.cli.flags import AT_LEAST_0, define_number, parse_flags
from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.pod import output
from efficientnet_pod.pod.terminal import console, table
from efficientnet_pod.workdir.redact import redact_strings
from efficientnet_pod.workdir.values import to_json
from launch.backends.backend import State, backend_named
from launch.flags import PROGRAM, define_workdir, jobs_named, parse_job_name
from launch.job.job import Job
from launch.job.remembered import all_jobs
from launch.workdir.progress import Progress, attempt_label, exit_codes, facts, mark_cancelled, read_progress
from launch.workdir.storage import storage_of

_FOLLOW_SECONDS = 5.0
_COLUMNS = (
    "job",
    "machine",
    "backend",
    "state",
    "attempt",
    "step",
    "checkpoint",
    "top-1",
    "goodput",
    "ended",
)


def run_status(arguments: Sequence[str]) -> None:
    """Prints a line for each job: its state, attempt, step, accuracy and exit code."""
    names: list[str] = []
    values: Any = parse_flags("status", arguments, _define_status, words=names, program=PROGRAM)
    if not names and not values.workdir:
        names = [job.name for job in all_jobs()]
    jobs = jobs_named(names, values.workdir)
    looks = [_look(job) for job in jobs]
    terminal = console()
    if values.json:
        print(to_json([redact_strings(look.table()) for look in looks], indent=1))
        return
    if not jobs:
        terminal.print("no job was submitted from here")
        return
    rows = table(*_COLUMNS, left=len(_COLUMNS))
    for look in looks:
        rows.add_row(*look.row())
    terminal.print(rows)


def _define_status(values: flags.FlagValues) -> None:
    define_workdir(values)
    flags.DEFINE_bool("json", False, "Print a list of JSON tables, for other programs.", flag_values=values)


class _Look(NamedTuple):
    """A job, its state and its progress; `error` says why these are not known."""

    job: Job
    state: State
    progress: Progress = Progress()
    codes: Mapping[int, int] = MappingProxyType({})
    error: str = ""

    def row(self) -> list[str]:
        job, state, progress = self.job, self.state, self.progress
        first = [job.name, job.tpu, job.backend]
        if self.error:
            return [*first, f"unknown: {self.error}", str(job.attempt), "", "", "", "", ""]
        top1 = "" if progress.top1 is None else f"{progress.top1:.2%}"
        goodput = "" if progress.goodput is None else f"{progress.goodput:.0%}"
        ended = f"exit code {max(self.codes.values())}" if self.codes else ""
        word = state.word + (f" ({state.detail})" if state.detail else "")
        word += f"; {job.beside.tpu} is asked for" if job.beside else ""
        steps = [progress.step_of_total, f"{progress.checkpoint:,}"]
        return [*first, word, str(job.attempt), *steps, top1, goodput, ended]

    def table(self) -> dict[str, Any]:
        found = {"state": self.state.word, "detail": self.state.detail, "phase": self.state.phase}
        code = max(self.codes.values(), default=None)
        beside = self.job.beside.tpu if self.job.beside else None
        return facts(self.job, self.progress) | found | {
            "exit_code": code, "asked_for_beside": beside, "error": self.error or None,
        }  # fmt: skip


def _look(job: Job) -> _Look:
    try:
        state = backend_named(job.backend).state(job)
        storage = storage_of(job.workdir)
        return _Look(job, state, read_progress(job.workdir, storage), exit_codes(job, storage))
    except (UserError, RunError) as error:
        return _Look(job, State("unknown"), error=str(error))


def run_logs(arguments: Sequence[str]) -> None:
    """Prints the log of a worker.

    Raises:
      UserError: there is no such worker, or no log yet.
    """
    values, job = parse_job_name("logs", arguments, _define_logs)
    worker, attempt, folder, printed = values.worker, values.attempt, f"{job.folder}/logs", 0
    storage, is_told = storage_of(job.workdir), False
    while True:
        logs = [name for name in storage.names(folder) if name.endswith(f"-w{worker:04}.log")]
        if worker >= job.hosts and not logs:  # machines of an earlier attempt may have had more
            last = job.hosts - 1
            raise UserError(
                f"{job.name} has {job.hosts} workers, no --worker={worker}; the last is --worker={last}"
            )
        prefix = attempt_label(attempt or job.attempt)
        # Without --attempt the newest one that left a log counts.
        chosen = [name for name in logs if name.startswith(prefix)] or ([] if attempt else logs[-1:])
        text = (storage.read(f"{folder}/{chosen[-1]}") or b"") if chosen else b""
        print(text[printed:].decode(errors="replace"), end="", flush=True)
        printed = len(text)
        if not chosen and not is_told:
            is_told = True
            missing = (
                f"worker {worker} of {job.name} has no log in {folder} yet; workers write every minute once "
            )
            missing += f"they run; before: {backend_named(job.backend).own_log(job, worker)}"
            if not values.follow:
                raise UserError(missing)
            print(f"launch: {missing}", file=sys.stderr, flush=True)
        if not values.follow or exit_codes(job, storage) or output.is_unread():
            return
        time.sleep(_FOLLOW_SECONDS)


def _define_logs(values: flags.FlagValues) -> None:
    define_number(values, "worker", 0, "Number of the worker.", AT_LEAST_0)
    about = "Number of the attempt; by default the newest."
    define_number(values, "attempt", None, about)
    flags.DEFINE_bool("follow", False, "Go on printing.", short_name="f", flag_values=values)


def run_cancel(arguments: Sequence[str]) -> None:
    """Stops a job and frees its machines."""
    _, job = parse_job_name("cancel", arguments)
    backend, storage = backend_named(job.backend), storage_of(job.workdir)
    requests = [job, job.beside] if job.beside else [job]
    for request in requests:  # before any is deleted: a watch may turn to the other one
        mark_cancelled(request, storage)
    for request in requests:
        backend.cancel(request)
    print(f"{job.name}: cancelled; its machines are free, its records stay in {job.workdir}")
