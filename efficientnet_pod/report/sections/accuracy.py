"""Owns the sections on accuracy: its curves, every evaluation, and the time to reach it."""

from collections.abc import Callable, Sequence

from efficientnet_pod.report.blocks import Beside, Block, Chart, Charts, Key, Section, Table, Text
from efficientnet_pod.report.drawing.curves import Curve, curves
from efficientnet_pod.report.drawing.svg import SERIES
from efficientnet_pod.report.figures import Evaluation, first_reaching, levels, peak
from efficientnet_pod.report.records import Row
from efficientnet_pod.report.side_by_side import Run, run_cell, run_keys, table_by_run
from efficientnet_pod.report.values import NONE, count, duration, figure, percent, thinned
from efficientnet_pod.workdir.values import number

_MOST_ROWS = 200
_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))


def accuracy(runs: Sequence[Run]) -> Section:
    """Returns accuracy against epochs and against time."""
    clocks = [each.with_evaluation for run in runs for each in run.made if each.with_evaluation is not None]
    unit, unit_name = _unit(max(clocks, default=0.0))

    def epochs(row: Row) -> float | None:
        return row["epoch"]

    def time(row: Row) -> float | None:
        seconds = number(row.get("seconds"))
        return None if seconds is None else seconds / unit

    by_epoch = curves(
        _accuracy_curves(runs, epochs),
        name="accuracy-epochs",
        title="Accuracy by epoch",
        x_label="epoch",
        percent=True,
    )
    by_time = curves(
        _accuracy_curves(runs, time),
        name="accuracy-time",
        title="Accuracy by time",
        x_label=unit_name,
        percent=True,
    )
    keys = [*run_keys(runs), *_accuracy_keys(runs)]
    charts = [
        Chart("Accuracy by epoch, %", by_epoch, keys=keys) if by_epoch else None,
        Chart("Accuracy by time, %", by_time, keys=keys) if by_time else None,
    ]
    if not any(charts):
        return Section("accuracy", "Accuracy", [Text("No evaluation is recorded yet.")])
    return Section(
        "accuracy",
        "Accuracy",
        [Charts([chart for chart in charts if chart], _evaluations_table(runs))],
        lead="Every evaluation is of the whole validation set. Time counts training and evaluation, not "
        "compilation.",
    )


def _accuracy_curves(runs: Sequence[Run], x: Callable[[Row], float | None]) -> list[Curve]:
    found = []
    for run in runs:
        if len(runs) == 1:
            rows = run.records.train
            shown = [number(row.get("top1")) for row in rows]
            found.append(Curve([x(row) for row in rows], shown, "muted", quiet=True))
        rows = run.records.evals
        second = run.colour if len(runs) > 1 else SERIES[1]
        for field, colour in (("top5", second), ("top1", run.colour)):
            shown = [number(row.get(field)) for row in rows]
            at = [x(row) for row in rows]
            found.append(Curve(at, shown, colour, dashed=field == "top5", marked=True))
    return found


def _accuracy_keys(runs: Sequence[Run]) -> list[Key]:
    if len(runs) > 1:
        return [Key("top-1", "ink"), Key("top-5", "ink", "dashed")]
    found = [Key("top-1", SERIES[0]), Key("top-5", SERIES[1], "dashed")]
    return [*found, Key("top-1 in training", "muted")] if runs[0].records.train else found


def _evaluations_table(runs: Sequence[Run]) -> Table:
    rows = []
    for run in runs:
        kept, _ = thinned(run.made, _MOST_ROWS)
        rows += [
            [
                *run_cell(run, runs),
                count(each.step),
                f"{each.epoch:.2f}",
                percent(each.top1),
                percent(each.top5),
                figure(each.loss),
                count(each.images),
                duration(each.with_evaluation),
                duration(each.training_only),
            ]
            for each in kept
        ]
    header = ["step", "epoch", "top-1", "top-5", "loss", "images", "with evaluation", "training only"]
    return table_by_run(runs, header, rows, title="Every evaluation")


def time_to_accuracy(runs: Sequence[Run]) -> Section:
    """Returns the time to peak accuracy and to a list of levels, with and without time in evaluation."""
    made = [run.made for run in runs]
    peaks = [peak(each) for each in made]
    if not any(peaks):
        return Section("time-to-accuracy", "Time to accuracy", [Text("No evaluation is recorded yet.")])
    classes = next((run.records.num_classes for run in runs if run.records.num_classes), None)
    rows = [
        (_level_name(level, which, source), [first_reaching(each, level, which) for each in made])
        for level, which, source in levels(made, num_classes=classes)
    ]
    if len(runs) == 1:
        peak_name = f"peak, {percent(peaks[0].top1)}" if peaks[0] else "peak"
        tables: list[Block] = [_times_of_one([*rows, (peak_name, peaks)])]
    else:
        rows.append(("peak of each run", peaks))
        readings = (
            _times(runs, rows, "With evaluation", lambda each: each.with_evaluation),
            _times(runs, rows, "Training only", lambda each: each.training_only),
        )
        tables = [Beside([[table] for table in readings])]
    lead = (
        "Time of the first evaluation that reached the accuracy; nothing is interpolated. DAWNBench has been "
        "read both ways: with the time spent in evaluation, and training only. Compilation counts in neither."
    )
    return Section("time-to-accuracy", "Time to accuracy", tables, lead)


_Row = tuple[str, list[Evaluation | None]]


def _level_name(level: float, which: str, source: str) -> str:
    return f"{'top-1' if which == 'top1' else 'top-5'} {percent(level, 1)}" + (
        f", {source}" if source else ""
    )


def _times_of_one(rows: Sequence[_Row]) -> Table:
    header = ["accuracy", "epoch", "with evaluation", "training only"]
    cells = []
    for name, (each,) in rows:
        if each is None:
            cells.append([name, NONE, NONE, NONE])
        else:
            times = (duration(each.with_evaluation), duration(each.training_only))
            cells.append([name, f"{each.epoch:.2f}", *times])
    return Table(header, cells, frozenset({1, 2, 3}))


def _times(
    runs: Sequence[Run], rows: Sequence[_Row], title: str, time_of: Callable[[Evaluation], float | None]
) -> Table:
    header = ["accuracy", *(run.name for run in runs)]
    cells = [[name, *(duration(time_of(each) if each else None) for each in found)] for name, found in rows]
    return Table(header, cells, frozenset(range(1, len(header))), title)


def _unit(seconds: float) -> tuple[int, str]:
    return next((size, name) for least, size, name in _UNITS if max(seconds, 0.0) >= least)
