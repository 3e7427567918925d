"""The events of a run's journal in words: faults it survived, and a timeline."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from efficientnet_pod.report.values import NOT_RECORDED, duration, figure, joined, plural
from efficientnet_pod.workdir.journal import ENDINGS, seconds_of_kind, starts
from efficientnet_pod.workdir.values import number, table_of, time_of, whole

Event = dict[str, Any]
_NAMED = 5


@dataclass(frozen=True)
class Incident:
    """Something that a run survived, or did not."""

    at: datetime | None
    step: int | None
    what: str
    detail: str


def tally(journal: Sequence[Event]) -> dict[tuple[str, str], int]:
    """Returns how often each fault, in the singular and the plural, was met; those that were not are 0."""
    kinds = Counter(event["kind"] for event in journal)
    lost = sum(start.last["kind"] not in ENDINGS for start in starts(journal)[:-1])
    return {
        ("resume", "resumes"): sum(start.resumed for start in starts(journal)),
        ("orderly stop", "orderly stops"): kinds["stopped"],
        ("end without a word", "ends without a word"): lost,
        ("failure", "failures"): kinds["failed"],
        ("rewind", "rewinds"): kinds["rewound"],
        ("skipped step", "skipped steps"): kinds["skipped_step"],
        ("skipped image", "skipped images"): kinds["skipped_image"],
        ("quarantined checkpoint", "quarantined checkpoints"): kinds["quarantined"],
    }


def incidents(journal: Sequence[Event]) -> list[Incident]:
    """Returns what happened to a run, in order; neighbours of the same kind are one."""
    found = []
    for run in _neighbours(journal):
        first = run[0]
        wording = _WORDINGS.get(first["kind"])
        if wording:
            what, detail = wording(run)
            if what:
                found.append(Incident(time_of(first.get("time")), whole(first.get("step")), what, detail))
    return found


def _neighbours(journal: Sequence[Event]) -> Iterator[list[Event]]:
    """Yields neighbouring events of the same kind; between two starts, the silent end of the first."""
    run: list[Event] = []
    for before, event in zip((None, *journal), journal, strict=False):
        if run and (event["kind"] != run[0]["kind"] or event["kind"] == "start"):
            yield run
            run = []
        if event["kind"] == "start" and before is not None and before["kind"] not in ENDINGS:
            yield [before | {"kind": "lost"}]
        run.append(event)
    if run:
        yield run


def _started(run: list[Event]) -> tuple[str, str]:
    event = run[0]
    devices = table_of(event.get("devices"))
    machine = joined(
        (
            f"{plural(n, 'device')} of kind {devices.get('kind', NOT_RECORDED)}"
            if (n := whole(devices.get("count")))
            else None,
            plural(n, "host") if (n := whole(event.get("hosts"))) else None,
        )
    )
    return ("Resumed" if event.get("resumed") is True else "Started"), machine


def _listed(run: list[Event], field: str) -> str:
    names = [str(event[field]) for event in run if event.get(field)]
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _skipped_steps(run: list[Event]) -> tuple[str, str]:
    steps = [f"{step:,}" for event in run if (step := whole(event.get("step"))) is not None]
    more = f" and {len(steps) - _NAMED:,} more" if len(steps) > _NAMED else ""
    return f"{plural(len(run), 'step')} skipped", f"not finite: step {', '.join(steps[:_NAMED])}{more}"


def _rewound(run: list[Event]) -> tuple[str, str]:
    to = [f"{step:,}" for event in run if (step := whole(event.get("to"))) is not None]
    return "Rewound", f"to step {', '.join(to)}, and on with other images" if to else ""


def _phase(run: list[Event]) -> tuple[str, str]:
    names = _listed(run, "name")
    waited = number(run[0].get("waited"))
    return f"Phase {names}", f"waited {duration(waited)} for its program" if waited is not None else ""


_WORDINGS = {
    "start": _started,
    "lost": lambda run: ("Ended without a word", "killed, or the machine was lost; last heard of then"),
    "stopped": lambda run: ("Stopped", _listed(run, "reason")),
    "failed": lambda run: ("Failed", _listed(run, "error")),
    "rewound": _rewound,
    "skipped_step": _skipped_steps,
    "skipped_image": lambda run: (f"{plural(len(run), 'image')} skipped", _listed(run, "name")),
    "quarantined": lambda run: ("Checkpoint set aside", _listed(run, "what")),
    "phase": _phase,
    "end": lambda run: ("Complete", ""),
}


def shown_seconds(journal: Sequence[Event], kind: str) -> str:
    """Returns e.g. ``"3 times, 4.2 s together"``; empty if the kind is not there."""
    times = sum(event["kind"] == kind for event in journal)
    if not times:
        return ""
    total = seconds_of_kind(journal, kind)
    return plural(times, "time") + (f", {figure(total)} s together" if total is not None else "")
