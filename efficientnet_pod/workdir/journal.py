"""The journal of a run: what happened in all its starts, and what their time was spent on."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from efficientnet_pod.errors import Preempted, in_one_line
from efficientnet_pod.pod import output
from efficientnet_pod.workdir.files import warn_if_not_written
from efficientnet_pod.workdir.goodput import Goodput, goodput_of
from efficientnet_pod.workdir.json_lines import OptionalLines, Row
from efficientnet_pod.workdir.redact import redact
from efficientnet_pod.workdir.time_spent import KINDS, TimeSpent
from efficientnet_pod.workdir.values import number, table_of, time_of
from efficientnet_pod.workdir.workdir import Workdir

FILE = "journal.jsonl"
ENDINGS = ("stopped", "failed", "end")  # kinds of the last event of a start
_LONGEST = 2000  # characters of an error


class Journal:
    """Appends a line to ``journal.jsonl`` for each event; only on host 0, the others keep none.

    Unlike the metrics, no line is ever dropped: a run that went back has gone on before. A line holds
    ``time`` (UTC), ``kind``, ``step`` (updates done, as far as they have been read), fields of its kind, and
    ``spent``: the seconds of each of `time_spent.KINDS` since the line before. A journal that cannot be
    written is one warning. Lines may be written by any thread.

    Attributes:
      spent: the time of this start.
      step: step of the next lines, unless they name one.
    """

    def __init__(self, workdir: Workdir | None, *, warn: Callable[[str], None]):
        """Reads what earlier starts have written; without a workdir, nothing is read or written."""
        self.spent, self.step, self._warn = TimeSpent(), 0, warn
        self._workdir = workdir
        self._lines = OptionalLines(workdir.path / FILE, warn) if workdir else None
        events = self._lines.rows() if self._lines else []
        self._events = [event for event in events if is_event(event)]
        self._seconds_before = _sum_of_spent(events)
        self._written_seconds = dict.fromkeys(KINDS, 0.0)
        self._quarantined = {str(event.get("what")) for event in events if event.get("kind") == "quarantined"}
        self._ending, self._losses = "", 0
        self._lock = threading.Lock()

    def write(self, kind: str, step: int | None = None, **fields: Any) -> None:
        """Adds a line; ``fields`` hold what JSON can, and of a float three decimals are kept.

        Before it comes a line for each output of this process that was lost since the last one.
        """
        with self._lock:
            for loss in output.losses()[self._losses :]:
                self._losses += 1
                self._add("output_lost", self.step, {"stream": loss.stream, "reason": loss.reason})
            self._add(kind, self.step if step is None else step, fields)

    def _add(self, kind: str, step: int, fields: dict[str, Any]) -> None:
        row, spent = self._row(kind, step, fields)
        for name, seconds in spent.items():
            self._written_seconds[name] += seconds  # what was rounded off comes with a later line
        self._events.append(row)
        if self._lines:
            self._lines.append([row])

    def _row(self, kind: str, step: int, fields: dict[str, Any]) -> tuple[Row, dict[str, float]]:
        """Returns the line of an event that happens now, and the seconds of each kind since the last line."""
        now, so_far = datetime.now(UTC).isoformat(timespec="milliseconds"), self.spent.so_far()
        row = {"time": now.replace("+00:00", "Z"), "kind": kind, "step": step}
        row |= {
            name: round(value, 3) if isinstance(value, float) else value for name, value in fields.items()
        }
        spent = {name: round(so_far[name] - self._written_seconds[name], 3) for name in KINDS}
        row["spent"] = {name: seconds for name, seconds in spent.items() if seconds}
        return row, spent

    def quarantined(self) -> None:
        """Adds a line for each damaged checkpoint or file of metrics that was set aside and has none yet."""
        if self._workdir:
            names: set[str] = set()
            with warn_if_not_written(self._workdir.path, self._warn):
                for folder in (self._workdir.checkpoints, self._workdir.path):
                    names.update(path.name for path in (folder.iterdir() if folder.exists() else ()))
            names = {name for name in names if name.startswith(("damaged-", "metrics.jsonl.damaged-"))}
            for name in sorted(names - self._quarantined):
                self.write("quarantined", what=name)
            self._quarantined |= names

    def end(self, kind: str, **fields: Any) -> None:
        """Adds the last line of this start; of several ends the first counts."""
        with self._lock:
            is_first, self._ending = not self._ending, self._ending or kind
        if is_first:
            self.write(kind, **fields)

    @property
    def ended_well(self) -> bool:
        """Whether this start has come to the end of the run."""
        return self._ending == "end"

    def end_with(self, error: BaseException, *, stopped_by: str | None) -> None:
        """Adds the last line of a start that an exception has ended."""
        if isinstance(error, Preempted | KeyboardInterrupt):
            self.end("stopped", reason=stopped_by or "another host")
        else:
            self.end("failed", error=redact(in_one_line(error))[:_LONGEST])

    def seconds_of(self) -> dict[str, float]:
        """Returns the seconds that the run has spent on each of `time_spent.KINDS`, over all its starts.

        Earlier starts count with the sum of ``spent`` over their lines; if a start was killed, its work since
        its last line is not counted. Steps and evaluations that were made again count each time.
        """
        so_far = self.spent.so_far()
        return {name: round(self._seconds_before[name] + so_far[name], 3) for name in KINDS}

    def goodput(self) -> Goodput:
        """Returns the goodput of the run until now, over all its starts."""
        with self._lock:
            return goodput_of([*self._events, self._row("now", self.step, {})[0]])


@dataclass(frozen=True)
class Start:
    """One start of a run, as its journal has it.

    Attributes:
      first: its first event.
      last: its last event.
      resumed: whether it went on from a checkpoint.
    """

    first: Row
    last: Row
    resumed: bool

    @property
    def began(self) -> datetime | None:
        """The time of its first event."""
        return time_of(self.first.get("time"))

    @property
    def ended(self) -> datetime | None:
        """The time of its last event."""
        return time_of(self.last.get("time"))

    @property
    def seconds(self) -> float:
        """Seconds from its first to its last event."""
        return max((self.ended - self.began).total_seconds(), 0.0) if self.began and self.ended else 0.0


def is_event(row: Row) -> bool:
    """Returns whether a row is an event of a journal; the functions below take only these."""
    return isinstance(row.get("kind"), str)


def starts(events: Sequence[Row]) -> list[Start]:
    """Returns the starts of a run, each with its last event."""
    firsts = [place for place, event in enumerate(events) if event["kind"] == "start"]
    return [
        Start(events[first], events[end - 1], events[first].get("resumed") is True)
        for first, end in pairwise([*firsts, len(events)])
    ]


def seconds_of_kind(events: Sequence[Row], kind: str) -> float | None:
    """Returns the sum of ``seconds`` over all events of a kind, None if none has any."""
    seconds = [number(event.get("seconds")) for event in events if event["kind"] == kind]
    known = [value for value in seconds if value is not None]
    return sum(known) if known else None


def _sum_of_spent(events: Iterable[Row]) -> dict[str, float]:
    seconds = dict.fromkeys(KINDS, 0.0)
    for event in events:
        for name in KINDS:
            seconds[name] += number(table_of(event.get("spent")).get(name)) or 0.0
    return seconds
