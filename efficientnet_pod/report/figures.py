"""Owns the figures of a run: accuracy, the time to reach it, rate, device-hours, price, shares of time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from efficientnet_pod.pod.chips import Chip, chip_of
from efficientnet_pod.report.records import Records, Row
from efficientnet_pod.report.state import device_of
from efficientnet_pod.workdir.journal import seconds_of_kind, starts
from efficientnet_pod.workdir.values import dig, number, table_of, whole

Accuracy = Literal["top1", "top5"]
# Nice levels, from which a table takes the ten highest that are reached.
_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
_SHOWN_LEVELS = 10
_TOP1: Accuracy = "top1"
_MARKS: tuple[tuple[float, Accuracy, str], ...] = (
    (0.759, "top1", "MLPerf's mark"),
    (0.93, "top5", "DAWNBench's mark"),
)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation.

    Attributes:
      step, epoch: of the training.
      top1, top5, loss: None where not recorded.
      images: evaluated.
      with_evaluation: seconds since the start of the run, compilation excluded; None where not recorded.
      training_only: the same without the time spent in this evaluation and those before it.
      seconds: that it took.
    """

    step: int
    epoch: float
    top1: float | None
    top5: float | None
    loss: float | None
    images: int | None
    with_evaluation: float | None
    training_only: float | None
    seconds: float | None


def evaluations(records: Records) -> list[Evaluation]:
    """Returns the evaluations of a run in the order in which they were made."""
    found, spent = [], 0.0
    for row in sorted(records.evals, key=lambda row: row["step"]):
        seconds = row_seconds(row)
        spent += seconds or 0.0
        clock = number(row.get("seconds"))
        found.append(
            Evaluation(
                step=row["step"],
                epoch=row["epoch"],
                top1=number(row.get("top1")),
                top5=number(row.get("top5")),
                loss=number(row.get("loss")),
                images=whole(row.get("images")),
                with_evaluation=clock,
                training_only=None if clock is None else max(clock - spent, 0.0),
                seconds=seconds,
            )
        )
    return found


def row_seconds(row: Row) -> float | None:
    """Returns the seconds that a row of metrics is about: its images over their rate."""
    images, rate = number(row.get("images")), number(row.get("images_per_second"))
    return images / rate if images is not None and rate else None


def first_reaching(
    made: Iterable[Evaluation], level: float, accuracy: Accuracy = "top1"
) -> Evaluation | None:
    """Returns the first evaluation of at least this accuracy; nothing is interpolated."""
    return next(
        (each for each in made if (value := getattr(each, accuracy)) is not None and value >= level), None
    )


def peak(made: Sequence[Evaluation], accuracy: Accuracy = "top1") -> Evaluation | None:
    """Returns the first evaluation of the highest accuracy."""
    known = [each for each in made if getattr(each, accuracy) is not None]
    return max(known, key=lambda each: getattr(each, accuracy), default=None)


def levels(
    runs: Sequence[Sequence[Evaluation]], *, num_classes: int | None
) -> list[tuple[float, Accuracy, str]]:
    """Returns accuracies worth a row in a table, ascending, with where they come from.

    They are the ten highest nice levels that any run reaches; with 1,000 classes also the marks of two
    benchmarks.
    """
    best = max((each.top1 for made in runs for each in made if each.top1 is not None), default=0.0)
    reached = [level for level in _LEVELS if level <= best][-_SHOWN_LEVELS:]
    marks = _MARKS if num_classes == 1000 else ()
    found = [*((level, _TOP1, "") for level in reached), *marks]
    return sorted(found, key=lambda each: (each[1], each[0]))


@dataclass(frozen=True)
class Cost:
    """What a run took of its machine.

    Attributes:
      devices: as JAX shows them; None where not recorded.
      kind: what JAX calls them.
      chip: of these devices; None for one without an entry in the table of chips.
      chips: of the machine.
      seconds: that the machine was held.
      basis: what these seconds are.
      usd, usd_spot: their price, None where none is known.
    """

    devices: int | None
    kind: str | None
    chip: Chip | None
    chips: float | None
    seconds: float | None
    basis: str
    usd: float | None
    usd_spot: float | None

    @property
    def device_hours(self) -> float | None:
        """Hours that the machine was held, times its devices."""
        return None if self.devices is None or self.seconds is None else self.devices * self.seconds / 3600


def cost_of(records: Records) -> Cost:
    """Returns what a run took, by the journal's clock if there is one, else by that of the metrics."""
    devices, kind = device_of(records)
    chip = chip_of(kind) if kind else None
    chips = devices / chip.devices if devices is not None and chip else None
    seconds, basis = _held_seconds(records)

    def price(usd: float | None) -> float | None:
        return None if usd is None or chips is None or seconds is None else usd * chips * seconds / 3600

    usd, usd_spot = (price(chip.usd), price(chip.usd_spot)) if chip else (None, None)
    return Cost(devices, kind, chip, chips, seconds, basis, usd, usd_spot)


def _held_seconds(records: Records) -> tuple[float | None, str]:
    begun = starts(records.journal or ())
    if held := sum(start.seconds for start in begun):
        return held, "from the first to the last event of each start"
    compiling = number(records.summary.get("compile_seconds"))
    running = run_seconds(records)
    if running is None:
        return None, ""
    if compiling is None:
        return running, "training and evaluation; compilation is not recorded"
    return running + compiling, "training, evaluation and the compilation of the last start"


def run_seconds(records: Records) -> float | None:
    """Returns the seconds of training and evaluation, compilation excluded, as far as they are recorded."""
    total = number(records.summary.get("total_seconds"))
    rows = [number(row.get("seconds")) for row in (*records.train, *records.evals)]
    return total if total is not None else max((each for each in rows if each is not None), default=None)


def images_per_second(records: Records) -> float | None:
    """Returns the images trained over the seconds of training, waits for input included."""
    if (recorded := number(records.summary.get("images_per_second"))) is not None:
        return recorded
    pairs = [(row["images"], seconds) for row in records.train if (seconds := row_seconds(row))]
    return sum(images for images, _ in pairs) / sum(seconds for _, seconds in pairs) if pairs else None


SHARES: tuple[str, ...] = ("training", "waiting for input", "evaluating", "compiling", "saving", "other")


def shares_of_time(records: Records) -> tuple[dict[str, float], str]:
    """Returns the seconds of each of :data:`SHARES` that is known, and where they come from."""
    recorded = table_of(dig(records.summary, "seconds_of"))
    found = {name: number(recorded.get(name.replace(" ", "_"))) for name in SHARES}
    if any(value is not None for value in found.values()):
        return {
            name: value for name, value in found.items() if value is not None and value >= 0
        }, "as recorded"
    return _reckoned_shares(records), "reckoned from the rows of metrics"


def _reckoned_shares(records: Records) -> dict[str, float]:
    windows = [(row, seconds) for row in records.train if (seconds := row_seconds(row))]
    evaluating = sum(row_seconds(row) or 0.0 for row in records.evals)
    if not windows and not evaluating:
        return {}
    waiting = sum(min(number(row.get("input_wait")) or 0.0, 1.0) * seconds for row, seconds in windows)
    training = sum(seconds for _, seconds in windows)
    found = {"training": training - waiting, "waiting for input": waiting, "evaluating": evaluating}
    compiling = number(records.summary.get("compile_seconds"))
    journal = records.journal or ()
    if (journaled := seconds_of_kind(journal, "compiled")) is not None:
        compiling = journaled
    if compiling is not None:
        found["compiling"] = compiling
    saving = seconds_of_kind(journal, "saved")
    if saving is not None:
        found["saving"] = saving
    clock = run_seconds(records)
    if clock is not None:  # it does not run while a program is compiled
        found["other"] = max(clock - training - evaluating - (saving or 0.0), 0.0)
    return found
