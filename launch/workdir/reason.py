"""Why an attempt ended: the last error line that its workers' logs or the run's journal hold."""

import re
from collections.abc import Mapping

from efficientnet_pod.workdir.journal import FILE, is_event
from efficientnet_pod.workdir.json_lines import parse_lines
from efficientnet_pod.workdir.redact import redact
from launch.job.job import Job
from launch.workdir.progress import attempt_label
from launch.workdir.storage import Storage

_LONGEST = 300  # characters
_OURS = re.compile(r"efficientnet-pod: (?:host \d+ (?:failed|ended): )?(.+)")
_PYTHONS = re.compile(r"(?:[\w.]+(?:Error|Exception|Interrupt|Exit)\b.*)")  # last line of a traceback
_SCRIPTS = re.compile(r"launch: worker \d+: (.+)")
_ENDED = "ended with exit code"


def reason_of(job: Job, storage: Storage, codes: Mapping[int, int]) -> str:
    """Returns why an attempt ended, in one line without secrets; empty if nothing says so.

    Of a worker's log the last line counts that is an error of the trainer's, else the last line of a
    traceback, else the last line of all. The journal counts where there is no log.

    Args:
      job: the job with the number of the attempt.
      storage: of its workdir.
      codes: exit codes by worker.
    """
    worst = max(codes.values(), default=0)
    for worker in sorted(worker for worker, code in codes.items() if code == worst)[:1]:
        log = storage.read(f"{job.folder}/logs/{attempt_label(job.attempt)}-w{worker:04}.log")
        if line := _last_error((log or b"").decode(errors="replace")):
            return _shortened(line)
    events, _ = parse_lines(storage.read(f"{job.workdir.rstrip('/')}/{FILE}") or b"", is_event)
    last = events[-1] if events else {}
    return _shortened(str(last.get("error", ""))) if last.get("kind") == "failed" else ""


def _last_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for pattern in (_OURS, _PYTHONS):
        for line in reversed(lines):
            if error := pattern.fullmatch(line):
                return error[pattern.groups]
    last = next((line for line in reversed(lines) if _ENDED not in line), "")
    said = _SCRIPTS.fullmatch(last)
    return said[1] if said else last


def _shortened(line: str) -> str:
    line = redact(" ".join(line.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
