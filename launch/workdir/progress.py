"""The progress of a run, read from its workdir: steps, newest checkpoint, exit codes of its workers."""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from efficientnet_pod.workdir.goodput import goodput_of
from efficientnet_pod.workdir.journal import is_event
from efficientnet_pod.workdir.json_lines import Row, parse_lines
from efficientnet_pod.workdir.values import number
from launch.job.job import Job
from launch.workdir.storage import Storage

_RECENT_ROWS = 20  # whose mean time of a step tells the time that is left


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
      step: last step in its records.
      checkpoint: step of the newest checkpoint; 0: there is none.
      top1: accuracy of the last evaluation; None: there was none.
      total: steps of the whole run; None: unknown.
      goodput: share of the time of all starts that went into training; None: unknown.
      images_per_second: last training rate; None: unknown.
      step_seconds: mean time of the last steps, evaluations between them included; None: unknown.
    """

    step: int = 0
    checkpoint: int = 0
    top1: float | None = None
    total: int | None = None
    goodput: float | None = None
    images_per_second: float | None = None
    step_seconds: float | None = None

    @property
    def share(self) -> float:
        """Part of the run that is done; 0 where the whole is unknown."""
        return self.step / self.total if self.total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time until the last step at the present rate; None: unknown."""
        if not self.total or self.step_seconds is None:
            return None
        return max(0, self.total - self.step) * self.step_seconds

    @property
    def step_of_total(self) -> str:
        """Last step in words, e.g. ``"13 of 40"``."""
        return f"{self.step:,} of {self.total:,}" if self.total else f"{self.step:,}"


def read_progress(workdir: str, storage: Storage) -> Progress:
    """Returns the progress of a run; zeros where it has no records yet."""
    root = workdir.rstrip("/")
    rows, _ = parse_lines(storage.read(f"{root}/metrics.jsonl") or b"")
    events, _ = parse_lines(storage.read(f"{root}/journal.jsonl") or b"", is_event)
    evaluated = [row["top1"] for row in rows if row.get("split") == "eval"]
    trained = [row for row in rows if row.get("split") == "train"]
    return Progress(
        step=max((row["step"] for row in trained), default=0),
        checkpoint=_newest_checkpoint(f"{root}/checkpoints", storage),
        top1=evaluated[-1] if evaluated else None,
        total=_total(storage.read(f"{root}/plan.json")),
        goodput=goodput_of(events).share,
        images_per_second=number(trained[-1].get("images_per_second")) if trained else None,
        step_seconds=_step_seconds(trained[-_RECENT_ROWS:]),
    )


def facts(job: Job, progress: Progress) -> dict[str, Any]:
    """Returns a job and its progress as a table for other programs."""
    return {
        "job": job.name,
        "backend": job.backend,
        "machine": job.machines,
        "workdir": job.workdir,
        "attempt": job.attempt,
        "step": progress.step,
        "total_steps": progress.total,
        "checkpoint": progress.checkpoint,
        "top1": progress.top1,
        "images_per_second": progress.images_per_second,
        "seconds_left": progress.seconds_left,
        "goodput": progress.goodput,
    }


def exit_codes(job: Job, storage: Storage) -> dict[int, int]:
    """Returns the exit codes of workers of this attempt that ended by themselves, by their numbers."""
    folder = f"{job.folder}/ended"
    texts = {worker: storage.read(path) or b"" for worker, path in _of_workers(job, storage, folder).items()}
    return {worker: int(text) for worker, text in texts.items() if text.strip().isdigit()}


def workers_with_a_log(job: Job, storage: Storage) -> set[int]:
    """Returns the numbers of the workers of this attempt that have left a log."""
    return set(_of_workers(job, storage, f"{job.folder}/logs", ending=".log"))


def notes(job: Job, storage: Storage, *, known: Collection[int]) -> dict[int, str]:
    """Returns what workers of this attempt found wrong with their machines, but not of the `known` ones."""
    files = _of_workers(job, storage, f"{job.folder}/notes")
    texts = {worker: storage.read(path) or b"" for worker, path in files.items() if worker not in known}
    return {worker: " ".join(text.decode(errors="replace").split()) for worker, text in texts.items()}


def _of_workers(job: Job, storage: Storage, folder: str, ending: str = "") -> dict[int, str]:
    """Returns the paths of an attempt's files, by the number of the worker."""
    name_of = re.compile(rf"{attempt_label(job.attempt)}-w(\d+){re.escape(ending)}")
    names = [name_of.fullmatch(name) for name in storage.names(folder)]
    return {int(name[1]): f"{folder}/{name[0]}" for name in names if name}


def attempt_label(attempt: int) -> str:
    """Returns the first part of the names of an attempt's files, e.g. ``"a001"``."""
    return f"a{attempt:03}"


def next_attempt(job: Job, storage: Storage) -> int:
    """Returns a number that no attempt in the job's workdir has had."""
    names = storage.names(f"{job.folder}/ended") + storage.names(f"{job.folder}/logs")
    attempts = [int(label[1]) for label in map(re.compile(r"a(\d+)-").match, names) if label]
    return max(attempts, default=0) + 1


def mark_cancelled(job: Job, storage: Storage) -> None:
    """Leaves a mark that this attempt was cancelled, so that a watch does not start the job again."""
    storage.write(_mark(job, "cancelled"), b"cancelled\n")


def is_cancelled(job: Job, storage: Storage) -> bool:
    """Returns whether this attempt was cancelled."""
    return storage.read(_mark(job, "cancelled")) is not None


def ask_to_stop(job: Job, storage: Storage) -> None:
    """Lets the workers of this attempt save, leave an exit code and end."""
    storage.write(_mark(job, "stop"), b"stop\n")


def is_asked_to_stop(job: Job, storage: Storage) -> bool:
    """Returns whether this attempt was asked to save and end."""
    return storage.read(_mark(job, "stop")) is not None


def give_turn(job: Job, storage: Storage) -> None:
    """Lets the held workers of this attempt train; those before them must have ended."""
    storage.write(_mark(job, "turn"), b"turn\n")


def _mark(job: Job, word: str) -> str:
    return f"{job.folder}/ended/{attempt_label(job.attempt)}-{word}"


def _newest_checkpoint(folder: str, storage: Storage) -> int:
    steps = sorted((int(name) for name in storage.folders(folder) if name.isdigit()), reverse=True)
    return next((step for step in steps if storage.read(f"{folder}/{step}/commit.json") is not None), 0)


def _step_seconds(rows: Sequence[Row]) -> float | None:
    if len(rows) < 2:
        return None
    first, last = (number(row.get("seconds")) for row in (rows[0], rows[-1]))
    steps = rows[-1]["step"] - rows[0]["step"]
    return None if first is None or last is None or steps <= 0 else (last - first) / steps


def _total(plan: bytes | None) -> int | None:
    try:
        return json.loads(plan)["total_steps"] if plan else None
    except (ValueError, KeyError):
        return None
