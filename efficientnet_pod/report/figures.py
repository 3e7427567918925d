"""The figures of a run: accuracy, the time to reach it, rate, device-hours, price, shares of time."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from efficientnet_pod.pod.chips import Chip, chip_of
from efficientnet_pod.pod.prices import Price, price_of
from efficientnet_pod.report.records import RunRecords
from efficientnet_pod.report.state import device_of
from efficientnet_pod.workdir.goodput import Goodput, goodput_of
from efficientnet_pod.workdir.journal import seconds_of_kind, starts
from efficientnet_pod.workdir.json_lines import Row
from efficientnet_pod.workdir.values import dig, number, table_of, whole

Accuracy = Literal["top1", "top5"]
# Round accuracies; a table has the ten highest that are reached.
_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
_SHOWN_LEVELS = 10
SHARES: tuple[str, ...] = (
    *("training", "waiting for input", "evaluating", "compiling", "saving"),
    *("restarting", "waiting for machines", "other"),
)


@dataclass(frozen=True)
class TimedEvaluation:
    """One evaluation, with the two readings of the time until then.

    Attributes:
      step, epoch: place in the training.
      top1, top5, loss: rates and loss; None where not recorded.
      images: number of evaluated images; None where not recorded.
      with_evaluation: seconds since the start of the run, without compilation; None where not recorded.
      training_only: the same without the seconds of this evaluation and of those before it.
      seconds: duration of this evaluation; None where not recorded.
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


@dataclass(frozen=True)
class Level:
    """An accuracy for which the time to reach it is shown.

    Attributes:
      kind: ``top1`` or ``top5``.
      rate: the accuracy.
      source: benchmark that sets it; may be empty.
    """

    kind: Accuracy
    rate: float
    source: str = ""


_MARKS = (Level("top1", 0.759, "MLPerf's mark"), Level("top5", 0.93, "DAWNBench's mark"))


def evaluations(records: RunRecords) -> list[TimedEvaluation]:
    """Returns the evaluations of a run by step."""
    timed, evaluating = [], 0.0
    for row in sorted(records.evals, key=lambda row: row["step"]):
        seconds, clock = row_seconds(row), number(row.get("seconds"))
        evaluating += seconds or 0.0
        training_only = None if clock is None else max(clock - evaluating, 0.0)
        top1, top5, loss = (number(row.get(name)) for name in ("top1", "top5", "loss"))
        step, epoch, images = row["step"], row["epoch"], whole(row.get("images"))
        timed.append(TimedEvaluation(step, epoch, top1, top5, loss, images, clock, training_only, seconds))
    return timed


def row_seconds(row: Row) -> float | None:
    """Returns the seconds that a row of metrics covers: its images over their rate."""
    images, rate = number(row.get("images")), number(row.get("images_per_second"))
    return images / rate if images is not None and rate else None


def first_reaching(
    evaluations: Iterable[TimedEvaluation], rate: float, kind: Accuracy = "top1"
) -> TimedEvaluation | None:
    """Returns the first evaluation of at least this accuracy; nothing is interpolated."""
    rated = ((evaluation, getattr(evaluation, kind)) for evaluation in evaluations)
    return next((evaluation for evaluation, known in rated if known is not None and known >= rate), None)


def peak(evaluations: Iterable[TimedEvaluation]) -> TimedEvaluation | None:
    """Returns the first evaluation of the highest top-1 accuracy."""
    known = [(evaluation.top1, evaluation) for evaluation in evaluations if evaluation.top1 is not None]
    return max(known, key=lambda pair: pair[0], default=(None, None))[1]


def levels(runs: Iterable[Iterable[TimedEvaluation]], *, num_classes: int | None) -> list[Level]:
    """Returns the accuracies for a table of times, ascending, top-1 first.

    They are the ten highest round ones that any run reaches; with 1,000 classes also the marks of two
    benchmarks.
    """
    best = max((peak_of.top1 or 0.0 for run in runs if (peak_of := peak(run))), default=0.0)
    reached = [Level("top1", rate) for rate in _LEVELS if rate <= best][-_SHOWN_LEVELS:]
    marks = _MARKS if num_classes == 1000 else ()
    return sorted([*reached, *marks], key=lambda level: (level.kind, level.rate))


@dataclass(frozen=True)
class Cost:
    """The machine that a run held, for how long, and the price.

    Attributes:
      devices: number of devices as JAX shows them; None where not recorded.
      kind: kind that JAX gives the devices; None where not recorded.
      chip: entry in the table of chips; None where there is none.
      chips: number of chips; None where the chip is not known.
      seconds: time for which the machine was held; None where not recorded.
      basis: what these seconds are, in words.
      usd, usd_spot: price on demand and on spot; None where none is known.
    """

    devices: int | None
    kind: str | None
    chip: Chip | None
    chips: float | None
    seconds: float | None
    basis: str
    usd: Price | None
    usd_spot: Price | None

    @property
    def device_hours(self) -> float | None:
        """Hours for which the machine was held, times its devices."""
        return None if self.devices is None or self.seconds is None else self.devices * self.seconds / 3600


def cost_of(records: RunRecords) -> Cost:
    """Returns the cost of a run, by the clock of the journal if there is one, else by that of the metrics."""
    devices, kind = device_of(records)
    chip = chip_of(kind) if kind else None
    chips = devices / chip.devices if devices is not None and chip else None
    seconds, basis = _held_seconds(records)

    def price(*, spot: bool) -> Price | None:
        if chip is None or chips is None or seconds is None:
            return None
        per_hour = price_of(chip, chips, spot=spot)
        return per_hour and per_hour.times(chips * seconds / 3600)

    usd, usd_spot = price(spot=False), price(spot=True)
    return Cost(devices, kind, chip, chips, seconds, basis, usd, usd_spot)


def _held_seconds(records: RunRecords) -> tuple[float | None, str]:
    if held := sum(start.seconds for start in starts(records.journal or ())):
        return held, "from the first to the last event of each start"
    compiling, running = number(records.summary.get("compile_seconds")), run_seconds(records)
    if running is None:
        return None, ""
    if compiling is None:
        return running, "training and evaluation; compilation is not recorded"
    return running + compiling, "training, evaluation and the compilation of the last start"


def run_seconds(records: RunRecords) -> float | None:
    """Returns the seconds of training and evaluation, without compilation, as far as they are recorded."""
    if (total := number(records.summary.get("total_seconds"))) is not None:
        return total
    clocks = [number(row.get("seconds")) for row in (*records.train, *records.evals)]
    return max((clock for clock in clocks if clock is not None), default=None)


def images_per_second(records: RunRecords) -> float | None:
    """Returns the images trained over the seconds of training, waits for input included."""
    if (recorded := number(records.summary.get("images_per_second"))) is not None:
        return recorded
    pairs = [(row["images"], seconds) for row in records.train if (seconds := row_seconds(row))]
    return sum(images for images, _ in pairs) / sum(seconds for _, seconds in pairs) if pairs else None


def goodput_in(records: RunRecords) -> Goodput | None:
    """Returns the goodput of a run by its journal; None where the journal does not say where time went."""
    events = records.journal or ()
    return goodput_of(events) if any(table_of(event.get("spent")) for event in events) else None


def shares_of_time(records: RunRecords) -> tuple[dict[str, float], str]:
    """Returns the known seconds of :data:`SHARES`, in their order, and their source in words."""
    if goodput := goodput_in(records):
        spent = {name: goodput.seconds[name.replace(" ", "_")] for name in SHARES}
        return {name: value for name, value in spent.items() if value}, "by the journal, over all starts"
    recorded = table_of(dig(records.summary, "seconds_of"))
    seconds = {name: number(recorded.get(name.replace(" ", "_"))) for name in SHARES}
    source = "as recorded"
    if not any(value is not None for value in seconds.values()):
        seconds, source = _computed_shares(records), "computed from the rows of metrics"
    return {name: value for name in SHARES if (value := seconds.get(name)) is not None and value >= 0}, source


def _computed_shares(records: RunRecords) -> dict[str, float | None]:
    windows = [(row, seconds) for row in records.train if (seconds := row_seconds(row))]
    evaluating = sum(row_seconds(row) or 0.0 for row in records.evals)
    if not windows and not evaluating:
        return {}
    waiting = sum(min(number(row.get("input_wait")) or 0.0, 1.0) * seconds for row, seconds in windows)
    training = sum(seconds for _, seconds in windows)
    journal, clock = records.journal or (), run_seconds(records)
    compiling, saving = (seconds_of_kind(journal, kind) for kind in ("compiled", "saved"))
    return {
        "training": training - waiting,
        "waiting for input": waiting,
        "evaluating": evaluating,
        "compiling": number(records.summary.get("compile_seconds")) if compiling is None else compiling,
        "saving": saving,
        # The clock does not run while a program is compiled.
        "other": None if clock is None else max(clock - training - evaluating - (saving or 0.0), 0.0),
    }
