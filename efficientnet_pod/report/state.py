"""The state of a run: complete, in progress, stopped or crashed, and at which step."""

from dataclasses import dataclass
from typing import Literal

from efficientnet_pod.pod.terminal import duration, percent, whole_number
from efficientnet_pod.report.records import RunRecords
from efficientnet_pod.report.words import early_end, moment
from efficientnet_pod.workdir.journal import ENDINGS, starts
from efficientnet_pod.workdir.values import dig, number, whole


@dataclass(frozen=True)
class RunState:
    """The state of a run, in a word and in a sentence."""

    kind: Literal["complete", "in progress", "stopped", "crashed"]
    text: str


def state_of(records: RunRecords, *, assume_alive: bool | None = None) -> RunState:
    """Returns the state of a run by its records.

    With ``assume_alive`` a run on another machine counts as alive while it holds its workdir. By default it
    does too, and the text says that this cannot be seen from here.
    """
    if _is_complete(records):
        last, total = whole(dig(records.summary, "final.step")), records.total_steps
        if (why := early_end(records.summary.get("ended_by"))) and last:
            of = f" of {total:,}" if total else ""
            return RunState("complete", f"Complete after {last:,}{of} steps: {why}.")
        steps = total or last
        count = f"{whole_number(steps)} steps" if steps is not None else "all its steps"
        return RunState("complete", f"Complete after {count}.")
    holder = records.holder
    lives = None if holder is None else (holder.lives if holder.lives is not None else assume_alive)
    if holder and lives is not False:
        left = _seconds_left(records)
        times = [start.began for start in starts(records.journal or ()) if start.began]
        since = moment(times[-1]) if times else holder.since or "an unknown time"
        text = f"In progress since {since}, {_place(records)}"
        text += f", about {duration(left)} left." if left is not None else "."
        if lives is None:
            text += " It runs on another machine: whether it still lives cannot be seen from here."
        return RunState("in progress", text)
    return _ended(records)


def _is_complete(records: RunRecords) -> bool:
    if records.journal and records.journal[-1]["kind"] == "end":
        return True
    final, total = whole(dig(records.summary, "final.step")), records.total_steps
    if final is not None and early_end(records.summary.get("ended_by")):
        # Where config.stop was changed since, a later start has gone on from there.
        return final >= records.last_step and records.holder is None
    return final is not None and (total is None or final >= total)


def _ended(records: RunRecords) -> RunState:
    last, place = records.journal[-1] if records.journal else {}, _place(records)
    if last.get("kind") == "stopped":
        reason = f": {last['reason']}" if last.get("reason") else ""
        return RunState("stopped", f"Stopped {place}{reason}. The same command goes on from there.")
    if last.get("kind") == "failed":
        error = f": {last['error']}" if last.get("error") else ""
        return RunState("crashed", f"Crashed {place}{error}.")
    if records.holder or (last and last["kind"] not in ENDINGS):
        return RunState(
            "crashed",
            f"Crashed {place}: its process ended without a word. The same command goes on from the newest "
            "checkpoint.",
        )
    return RunState("stopped", f"Not running, and not complete: it ended {place}; why is not recorded.")


def _place(records: RunRecords) -> str:
    step, total = records.last_step, records.total_steps
    if not total:
        return f"at step {step:,}"
    return f"at step {step:,} of {total:,} ({percent(step / total, 0)})"


def _seconds_left(records: RunRecords) -> float | None:
    """Returns the images left over the rate of the last row; epochs and their images come from the plan."""
    epochs, images = number(dig(records.plan, "recipe.epochs")), number(records.plan.get("num_train"))
    rows = [row for row in records.train if number(row.get("images_per_second"))]
    if not rows or epochs is None or images is None:
        return None
    return max(epochs - rows[-1]["epoch"], 0.0) * images / rows[-1]["images_per_second"]


def device_of(records: RunRecords) -> tuple[int | None, str | None]:
    """Returns the number of devices and the kind that JAX gives them, by the newest record."""
    planned = records.plan.get("num_devices", records.plan.get("num_replicas"))
    for table in (
        dig(records.summary, "devices"),
        *(start.first.get("devices") for start in starts(records.journal or ())[::-1]),
        {"count": planned, "kind": records.plan.get("device_kind")},
    ):
        count, kind = whole(dig(table, "count")), dig(table, "kind")
        if count and isinstance(kind, str):
            return count, kind
    return whole(planned), None
