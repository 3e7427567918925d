"""The events of a run's journal in words: how often each fault was met, and a timeline."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from efficientnet_pod.pod.terminal import duration, plural, significant
from efficientnet_pod.report.words import NOT_RECORDED, early_end, joined
from efficientnet_pod.workdir.journal import ENDINGS, seconds_of_kind, starts
from efficientnet_pod.workdir.json_lines import Row
from efficientnet_pod.workdir.values import number, table_of, time_of, whole

_MOST_NAMES = 5


@dataclass(frozen=True)
class Incident:
    """One line of the timeline.

    Attributes:
      time: time of the first event in the line.
      step: step of that event.
      what: incident in a few words.
      detail: names, steps or a reason; may be empty.
    """

    time: datetime | None
    step: int | None
    what: str
    detail: str


def tally(journal: Sequence[Row]) -> dict[tuple[str, str], int]:
    """Returns how often each fault was met, by its name in singular and plural."""
    kinds = Counter(event["kind"] for event in journal)
    silent = sum(start.last["kind"] not in ENDINGS for start in starts(journal)[:-1])
    return {
        ("resume", "resumes"): sum(start.resumed for start in starts(journal)),
        ("orderly stop", "orderly stops"): kinds["stopped"],
        ("end without a word", "ends without a word"): silent,
        ("failure", "failures"): kinds["failed"],
        ("rewind", "rewinds"): kinds["rewound"],
        ("skipped step", "skipped steps"): kinds["skipped_step"],
        ("skipped image", "skipped images"): kinds["skipped_image"],
        ("quarantined checkpoint", "quarantined checkpoints"): kinds["quarantined"],
    }


def incidents(journal: Sequence[Row]) -> list[Incident]:
    """Returns the timeline of a run; neighbouring events of the same kind share a line."""
    lines = []
    for events in _neighbours(journal):
        first = events[0]
        if wording := _WORDINGS.get(first["kind"]):
            what, detail = wording(events)
            lines.append(Incident(time_of(first.get("time")), whole(first.get("step")), what, detail))
    return lines


def _neighbours(journal: Sequence[Row]) -> Iterator[list[Row]]:
    """Yields neighbouring events of the same kind; before a start, also the silent end of the one before."""
    events: list[Row] = []
    for before, event in zip((None, *journal), journal, strict=False):
        if events and (event["kind"] != events[0]["kind"] or event["kind"] == "start"):
            yield events
            events = []
        if event["kind"] == "start" and before is not None and before["kind"] not in ENDINGS:
            yield [before | {"kind": "lost"}]
        events.append(event)
    if events:
        yield events


def _started(events: Sequence[Row]) -> tuple[str, str]:
    event = events[0]
    devices, hosts = table_of(event.get("devices")), whole(event.get("hosts"))
    count, kind = whole(devices.get("count")), devices.get("kind", NOT_RECORDED)
    machine = f"{plural(count, 'device')} of kind {kind}" if count else ""
    what = "Resumed" if event.get("resumed") is True else "Started"
    return what, joined(machine, plural(hosts, "host") if hosts else "")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _texts(events: Sequence[Row], field: str) -> str:
    return _listed([str(event[field]) for event in events if event.get(field)])


def _steps(events: Sequence[Row], field: str) -> list[str]:
    return [f"{step:,}" for event in events if (step := whole(event.get(field))) is not None]


def _skipped_steps(events: Sequence[Row]) -> tuple[str, str]:
    return f"{plural(len(events), 'step')} skipped", f"not finite: step {_listed(_steps(events, 'step'))}"


def _rewound(events: Sequence[Row]) -> tuple[str, str]:
    steps = _steps(events, "to")
    return "Rewound", f"to step {', '.join(steps)}, and on with other images" if steps else ""


def _phase(events: Sequence[Row]) -> tuple[str, str]:
    waited = number(events[0].get("waited"))
    detail = f"waited {duration(waited)} for its program" if waited is not None else ""
    return f"Phase {_texts(events, 'name')}", detail


_WORDINGS = {
    "start": _started,
    "lost": lambda events: (
        "Ended without a word",
        "killed, or the machine was lost; this was its last event",
    ),
    "stopped": lambda events: ("Stopped", _texts(events, "reason")),
    "failed": lambda events: ("Failed", _texts(events, "error")),
    "rewound": _rewound,
    "skipped_step": _skipped_steps,
    "skipped_image": lambda events: (f"{plural(len(events), 'image')} skipped", _texts(events, "name")),
    "quarantined": lambda events: ("Checkpoint set aside", _texts(events, "what")),
    "output_lost": lambda events: (f"Lost {_texts(events, 'stream')}", _texts(events, "reason")),
    "phase": _phase,
    "end": lambda events: ("Complete", early_end(events[-1].get("by"))),
}


def times_and_seconds(journal: Sequence[Row], kind: str) -> str:
    """Returns e.g. ``"3 times, 4.2 s together"``; empty without an event of the kind."""
    times = sum(event["kind"] == kind for event in journal)
    if not times:
        return ""
    total = seconds_of_kind(journal, kind)
    return plural(times, "time") + (f", {significant(total)} s together" if total is not None else "")
