"""The log of what happened in a run, over all its starts, and on what their time went."""

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from etils import epath

from efficientnet_pod.errors import Preempted
from efficientnet_pod.workdir.json_lines import Row, SoftLines, warned
from efficientnet_pod.workdir.redact import redact
from efficientnet_pod.workdir.time_spent import KINDS, TimeSpent
from efficientnet_pod.workdir.workdir import Workdir

_LONGEST = 2000  # characters of an error


class Journal:
    """Appends to ``journal.jsonl`` a line for each event; only on host 0, the others keep none.

    Nothing is ever dropped, unlike from the metrics: a run that goes back has gone on before. A line holds
    ``time`` (UTC), ``kind``, ``step`` (updates done, by what has been read) and what belongs to its kind;
    beside these ``spent``, the seconds of each of `time_spent.KINDS` since the line before. A journal that
    cannot be written is a warning, once. Lines may be written by any thread.

    Attributes:
      spent: the time of this start.
      step: of the lines to come, where they do not say.
    """

    def __init__(self, workdir: Workdir | None, *, report: Callable[[str], None]):
        """Reads what earlier starts have written.

        Args:
          workdir: claimed by the run; None where nothing is to be written.
          report: gets a warning.
        """
        self.spent, self.step, self._report = TimeSpent(), 0, report
        self._workdir = workdir
        self._lines = SoftLines(workdir.path / "journal.jsonl", report) if workdir else None
        before = self._lines.rows() if self._lines else []
        self._seconds_before = _sum_of_spent(before)
        self._told = dict.fromkeys(KINDS, 0.0)
        self._told_aside = {str(row.get("what")) for row in before if row.get("kind") == "quarantined"}
        self._has_ended = False
        self._lock = threading.Lock()

    def write(self, kind: str, step: int | None = None, **fields: Any) -> None:
        """Adds a line; ``fields`` are what JSON can hold, of a float three decimals are kept."""
        with self._lock:
            now, so_far = datetime.now(UTC).isoformat(timespec="milliseconds"), self.spent.so_far()
            row = {"time": now.replace("+00:00", "Z"), "kind": kind}
            row |= {"step": self.step if step is None else step}
            row |= {
                name: round(each, 3) if isinstance(each, float) else each for name, each in fields.items()
            }
            spent = {name: round(so_far[name] - self._told[name], 3) for name in KINDS}
            row["spent"] = {name: seconds for name, seconds in spent.items() if seconds}
            for name, seconds in spent.items():
                self._told[name] += seconds  # what is rounded off comes with a later line
            if self._lines:
                self._lines.append([row])

    def quarantined(self) -> None:
        """Adds a line for each checkpoint or file of metrics set aside as damaged, of which there is none."""
        if self._workdir:
            found: set[str] = set()
            with warned(self._workdir.path, self._report):
                found = {*_set_aside(self._workdir.checkpoints), *_set_aside(self._workdir.path)}
            for name in sorted(found - self._told_aside):
                self.write("quarantined", what=name)
            self._told_aside |= found

    def end(self, kind: str, **fields: Any) -> None:
        """Adds the last line of this start; of several ends the first counts."""
        with self._lock:
            is_first, self._has_ended = not self._has_ended, True
        if is_first:
            self.write(kind, **fields)

    def end_with(self, error: BaseException, *, stopped_by: str | None) -> None:
        """Adds the last line of a start that an exception has ended."""
        if isinstance(error, Preempted | KeyboardInterrupt):
            self.end("stopped", reason=stopped_by or "another host")
        else:
            said = " ".join(str(error).split())
            # What the user can mend is told in a sentence; of all else the type says most.
            line = said if type(error).__module__.startswith("efficientnet_pod") else _typed(error, said)
            self.end("failed", error=redact(line)[:_LONGEST])

    def seconds_of(self) -> dict[str, float]:
        """Returns the seconds that the run has spent on each of `time_spent.KINDS`, over all its starts.

        Those of earlier starts are the sum of ``spent`` over their lines: of a start that was killed, what it
        had done since its last line is lost. Steps and evaluations that were made again count each time.
        """
        so_far = self.spent.so_far()
        return {name: round(self._seconds_before[name] + so_far[name], 3) for name in KINDS}


def _set_aside(folder: epath.Path) -> list[str]:
    """Returns the names of what starts of this run have set aside in a folder, as they name it."""
    names = [each.name for each in folder.iterdir()] if folder.exists() else []
    return [name for name in names if name.startswith(("damaged-", "metrics.jsonl.damaged-"))]


def _typed(error: BaseException, said: str) -> str:
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _sum_of_spent(rows: Iterable[Row]) -> dict[str, float]:
    seconds = dict.fromkeys(KINDS, 0.0)
    for row in rows:
        spent = row.get("spent")
        for name, value in spent.items() if isinstance(spent, dict) else ():
            if name in seconds and isinstance(value, int | float):
                seconds[name] += value
    return seconds
