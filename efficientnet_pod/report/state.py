"""Owns what is said of the state of a run: complete, in progress, stopped or crashed, and at which step."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from efficientnet_pod.report.records import Records
from efficientnet_pod.report.values import count, duration, moment, percent
from efficientnet_pod.workdir.journal import ENDINGS, starts
from efficientnet_pod.workdir.values import dig, list_of, number, whole

Kind = Literal["complete", "in progress", "stopped", "crashed"]


@dataclass(frozen=True)
class State:
    """The state of a run.

    Attributes:
      kind: in a word.
      text: a sentence.
      seconds_left: of a run in progress, None if nobody can say.
    """

    kind: Kind
    text: str
    seconds_left: float | None = None


def state_of(records: Records, *, assume_alive: bool | None = None) -> State:
    """Returns the state of a run as its records have it.

    Args:
      records: of the run.
      assume_alive: whether a run that holds its workdir from another machine is said to live; by default it
        is, and the text says that nobody here can know.
    """
    if _is_complete(records):
        return State("complete", f"Complete after {_steps(records)}.")
    holder = records.holder
    lives = None if holder is None else (holder.lives if holder.lives is not None else assume_alive)
    if holder and lives is not False:
        left = _seconds_left(records)
        since = _since(records) or holder.since or "an unknown time"
        text = f"In progress since {since}, {_at(records)}"
        text += f", about {duration(left)} left." if left is not None else "."
        if lives is None:
            text += " It runs on another machine: whether it still lives cannot be seen from here."
        return State("in progress", text, left)
    return _ended(records)


def _is_complete(records: Records) -> bool:
    if records.journal and records.journal[-1]["kind"] == "end":
        return True
    final, total = whole(dig(records.summary, "final.step")), records.total_steps
    return final is not None and (total is None or final >= total)


def _ended(records: Records) -> State:
    last = records.journal[-1] if records.journal else None
    if last and last["kind"] == "stopped":
        why = f": {last['reason']}" if last.get("reason") else ""
        return State("stopped", f"Stopped {_at(records)}{why}. The same command goes on from there.")
    if last and last["kind"] == "failed":
        why = f": {last['error']}" if last.get("error") else ""
        return State("crashed", f"Crashed {_at(records)}{why}.")
    if records.holder or (last and last["kind"] not in ENDINGS):
        return State(
            "crashed",
            f"Crashed {_at(records)}: its process ended without a word. The same command goes on from the "
            "newest checkpoint.",
        )
    return State("stopped", f"Not running, and not complete: it ended {_at(records)}; why is not recorded.")


def _since(records: Records) -> str:
    begun: list[datetime] = [each.began for each in starts(records.journal or ()) if each.began]
    return moment(begun[-1]) if begun else ""


def _steps(records: Records) -> str:
    steps = records.total_steps or whole(dig(records.summary, "final.step"))
    return f"{count(steps)} steps" if steps is not None else "all its steps"


def _at(records: Records) -> str:
    step, total = records.last_step, records.total_steps
    if not total:
        return f"at step {step:,}"
    return f"at step {step:,} of {total:,} ({percent(step / total, 0)})"


def _seconds_left(records: Records) -> float | None:
    """Returns the images left at the rate of the last row; images an epoch and epochs come from the plan."""
    epochs, images = number(dig(records.plan, "recipe.epochs")), number(records.plan.get("num_train"))
    rows = [row for row in records.train if number(row.get("images_per_second"))]
    if not rows or epochs is None or images is None:
        return None
    return max(epochs - rows[-1]["epoch"], 0.0) * images / rows[-1]["images_per_second"]


def device_of(records: Records) -> tuple[int | None, str | None]:
    """Returns the number of devices and what JAX calls them, as the newest record has it."""
    for table in (
        dig(records.summary, "devices"),
        *(start.first.get("devices") for start in starts(records.journal or ())[::-1]),
        {"count": records.plan.get("num_replicas"), "kind": records.plan.get("device_kind")},
    ):
        number_of, kind = whole(dig(table, "count")), dig(table, "kind")
        if number_of and isinstance(kind, str):
            return number_of, kind
    return whole(records.plan.get("num_replicas")), None


def phases_of(records: Records) -> list[dict]:
    """Returns the phases of the plan, none if the recipe names none."""
    named = list_of(dig(records.plan, "recipe.phases"))
    phases = [each for each in list_of(records.plan.get("phases")) if isinstance(each, dict)]
    return phases if named else []
