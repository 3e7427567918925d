"""Owns what `status` and `logs` print of jobs."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from efficientnet_pod.errors import RunError, UserError
from launch.backends.backend import backend_named
from launch.job.job import Job
from launch.workdir.progress import attempt_label, ended_codes, read_progress
from launch.workdir.storage import storage_of

_FOLLOW_SECONDS = 5.0


def print_status(jobs: list[Job], console: Console | None = None) -> None:
    """Prints a line for each job: its state, attempt, step, accuracy, and how it ended."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(120, console.width)
    if not jobs:
        console.print("no job was submitted from here")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("job", "machine", "back end", "state", "attempt", "step", "checkpoint", "top-1", "ended"):
        table.add_column(column)
    for job in jobs:
        table.add_row(*_row(job))
    console.print(table)


def _row(job: Job) -> list[str]:
    try:
        state = backend_named(job.backend).state(job)
        storage = storage_of(job.workdir)
        far, codes = read_progress(job.workdir, storage), ended_codes(job, storage)
    except (UserError, RunError) as error:
        return [job.name, job.tpu, job.backend, f"unknown: {error}", str(job.attempt), "", "", "", ""]
    step = f"{far.step:,}" + (f" of {far.total:,}" if far.total else "")
    top1 = "" if far.top1 is None else f"{far.top1:.2%}"
    ended = f"exit code {max(codes)}" if codes else ""
    word = state.word + (f" ({state.detail})" if state.detail else "")
    return [
        *(job.name, job.tpu, job.backend, word),
        *(str(job.attempt), step, f"{far.checkpoint:,}", top1, ended),
    ]


def print_logs(
    job: Job,
    *,
    worker: int,
    attempt: int | None,
    follow: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Prints what a worker has printed.

    Args:
      job: whose worker.
      worker: which one, from 0.
      attempt: of the job; None: the newest that left a log.
      follow: whether to go on until the attempt has ended.
      sleep: waits between looks.

    Raises:
      UserError: there is no such worker, or no log yet.
    """
    if worker >= job.hosts:
        raise UserError(f"{job.name} has {job.hosts} workers, the last of them --worker={job.hosts - 1}")
    storage = storage_of(job.workdir)
    folder, printed = f"{job.folder}/logs", 0
    suffix = f"-w{worker:04}.log"
    while True:
        prefix = attempt_label(job) if attempt is None else f"a{attempt:03}"
        names = [name for name in storage.names(folder) if name.endswith(suffix)]
        chosen = [name for name in names if name.startswith(prefix)] or ([] if attempt else names[-1:])
        text = (storage.read(f"{folder}/{chosen[-1]}") or b"") if chosen else b""
        print(text[printed:].decode(errors="replace"), end="", flush=True)
        printed = len(text)
        if not follow and not chosen:
            raise UserError(
                f"worker {worker} of {job.name} has no log in {folder} yet; workers write every minute once "
                "they run"
            )
        if not follow or ended_codes(job, storage):
            return
        sleep(_FOLLOW_SECONDS)
