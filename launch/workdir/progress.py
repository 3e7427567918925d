"""The progress of a run, read from its workdir: steps, newest checkpoint, exit codes of its workers."""

import json
import re
from dataclasses import dataclass

from efficientnet_pod.workdir.goodput import goodput_of
from efficientnet_pod.workdir.journal import is_event
from efficientnet_pod.workdir.json_lines import parse_lines
from launch.job.job import Job
from launch.workdir.storage import Storage


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
      step: last step in its records.
      checkpoint: step of the newest checkpoint; 0: there is none.
      top1: accuracy of the last evaluation; None: there was none.
      total: steps of the whole run; None: unknown.
      goodput: share of the time of all starts that went into training; None: unknown.
    """

    step: int = 0
    checkpoint: int = 0
    top1: float | None = None
    total: int | None = None
    goodput: float | None = None

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
    return Progress(
        step=max((row["step"] for row in rows if row.get("split") == "train"), default=0),
        checkpoint=_newest_checkpoint(f"{root}/checkpoints", storage),
        top1=evaluated[-1] if evaluated else None,
        total=_total(storage.read(f"{root}/plan.json")),
        goodput=goodput_of(events).share,
    )


def exit_codes(job: Job, storage: Storage) -> list[int]:
    """Returns the exit codes of workers of this attempt that ended by themselves, by worker."""
    folder, prefix = f"{job.folder}/ended", attempt_label(job.attempt) + "-w"
    names = [name for name in storage.names(folder) if name.startswith(prefix)]
    texts = [storage.read(f"{folder}/{name}") or b"" for name in names]
    return [int(text) for text in texts if text.strip().isdigit()]


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


def _total(plan: bytes | None) -> int | None:
    try:
        return json.loads(plan)["total_steps"] if plan else None
    except (ValueError, KeyError):
        return None
