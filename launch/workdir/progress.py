"""Owns how far a run has come, as its workdir tells: steps, the newest checkpoint, how workers ended."""

import json
from dataclasses import dataclass

from launch.job.job import Job
from launch.workdir.storage import Storage


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
      step: the last one in its records.
      checkpoint: step of the newest one; 0: none.
      top1: of the last evaluation, if there was one.
      total: steps of the whole run, if they are known.
    """

    step: int = 0
    checkpoint: int = 0
    top1: float | None = None
    total: int | None = None

    @property
    def lost_steps(self) -> int:
        """Steps that are in the records, and that a new start does again."""
        return max(0, self.step - self.checkpoint)


def read_progress(workdir: str, storage: Storage) -> Progress:
    """Returns how far a run is; nothing done where it has no records yet."""
    root = workdir.rstrip("/")
    rows = []
    for line in (storage.read(f"{root}/metrics.jsonl") or b"").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # one that is being written
    trained = [row["step"] for row in rows if row.get("split") == "train"]
    evaluated = [row["top1"] for row in rows if row.get("split") == "eval"]
    return Progress(
        step=max(trained, default=0),
        checkpoint=_newest_checkpoint(f"{root}/checkpoints", storage),
        top1=evaluated[-1] if evaluated else None,
        total=_total(storage.read(f"{root}/plan.json")),
    )


def ended_codes(job: Job, storage: Storage) -> list[int]:
    """Returns the exit codes of the workers of this attempt that have ended by themselves, by worker."""
    codes = []
    for name in storage.names(f"{job.folder}/ended"):
        if name.startswith(attempt_label(job) + "-w"):
            text = storage.read(f"{job.folder}/ended/{name}") or b""
            codes += [int(text)] if text.strip().isdigit() else []
    return codes


def attempt_label(job: Job) -> str:
    """Returns the beginning of the names of this attempt's files."""
    return f"a{job.attempt:03}"


def next_attempt(job: Job, storage: Storage) -> int:
    """Returns a number that no attempt in the job's workdir has had."""
    names = storage.names(f"{job.folder}/ended") + storage.names(f"{job.folder}/logs")
    had = [int(name[1:4]) for name in names if name[:1] == "a" and name[1:4].isdigit()]
    return max(had, default=0) + 1


def mark_cancelled(job: Job, storage: Storage) -> None:
    """Says, for whoever watches the job, that it is not to be made again."""
    storage.write(f"{job.folder}/ended/{attempt_label(job)}-cancelled", b"cancelled\n")


def is_cancelled(job: Job, storage: Storage) -> bool:
    """Returns whether this attempt was cancelled."""
    return storage.read(f"{job.folder}/ended/{attempt_label(job)}-cancelled") is not None


def _newest_checkpoint(folder: str, storage: Storage) -> int:
    steps = sorted((int(name) for name in storage.folders(folder) if name.isdigit()), reverse=True)
    for step in steps:
        if storage.read(f"{folder}/{step}/commit.json") is not None:
            return step
    return 0


def _total(plan: bytes | None) -> int | None:
    try:
        return json.loads(plan)["total_steps"] if plan else None
    except (ValueError, KeyError):
        return None
