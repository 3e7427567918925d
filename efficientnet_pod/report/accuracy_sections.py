"""Owns the sections on accuracy: its curves, every evaluation, and the time to reach it."""

from collections.abc import Callable, Iterable, Sequence

from efficientnet_pod.report.blocks import Chart, Charts, Key, Section, Table, Text
from efficientnet_pod.report.curves import Curve, curves
from efficientnet_pod.report.figures import Evaluation, first_reaching, levels, peak
from efficientnet_pod.report.side_by_side import Run, run_cell, run_keys, table_by_run
from efficientnet_pod.report.svg import SERIES
from efficientnet_pod.report.values import NONE, count, duration, figure, number, percent, thinned

_MOST_ROWS = 200
_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))


def accuracy(runs: Sequence[Run]) -> Section:
    """Returns accuracy against epochs and against time."""
    clocks = [each.with_evaluation for run in runs for each in run.made if each.with_evaluation is not None]
    unit, unit_name = _unit(max(clocks, default=0.0))

    def hours(each: Evaluation) -> float | None:
        return None if each.with_evaluation is None else each.with_evaluation / unit

    by_epoch = curves(
        _accuracy_curves(runs, lambda each: each.epoch, training=len(runs) == 1),
        name="accuracy-epochs",
        title="Accuracy by epoch",
        x_label="epoch",
        percent=True,
    )
    by_time = curves(
        _accuracy_curves(runs, hours),
        name="accuracy-time",
        title="Accuracy by time",
        x_label=unit_name,
        percent=True,
    )
    keys = [*run_keys(runs), *_accuracy_keys(runs)]
    charts = [
        Chart("Accuracy by epoch, %", by_epoch, keys=keys) if by_epoch else None,
        Chart(f"Accuracy by time, % by {unit_name}", by_time, keys=keys) if by_time else None,
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


def _accuracy_curves(
    runs: Sequence[Run], x: Callable[[Evaluation], float | None], *, training: bool = False
) -> list[Curve]:
    found = []
    for run in runs:
        if training:
            rows = run.records.train
            shown = [number(row.get("top1")) for row in rows]
            found.append(Curve([row["epoch"] for row in rows], shown, "muted", quiet=True))
        at = [x(each) for each in run.made]
        second = run.colour if len(runs) > 1 else SERIES[1]
        found.append(Curve(at, [each.top5 for each in run.made], second, dashed=True, marked=True))
        found.append(Curve(at, [each.top1 for each in run.made], run.colour, marked=True))
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
    alone = len(runs) == 1
    header = ["accuracy"]
    for run in runs:
        prefix = "" if alone else f"{run.name}: "
        header += [f"{prefix}epoch", f"{prefix}with evaluation", f"{prefix}training only"]
    rows = []
    for level, which, source in levels(made, num_classes=classes):
        name = f"{'top-1' if which == 'top1' else 'top-5'} {percent(level, 1)}"
        found = [first_reaching(each, level, which) for each in made]
        rows.append([name + (f" ({source})" if source else ""), *_cells(found)])
    own = f" {percent(peaks[0].top1)}" if alone and peaks[0] else ""
    rows.append([f"peak{own}", *_cells(peaks)])
    note = (
        "Time of the first evaluation that reached the accuracy; nothing is interpolated. DAWNBench has been "
        "read both ways: with the time spent in evaluation, and training only. Compilation counts in neither."
    )
    table = Table(header, rows, frozenset(range(1, len(header))), note=note)
    return Section("time-to-accuracy", "Time to accuracy", [table])


def _cells(found: Iterable[Evaluation | None]) -> list[str]:
    cells = []
    for each in found:
        if each is None:
            cells += [NONE, NONE, NONE]
        else:
            cells += [f"{each.epoch:.2f}", duration(each.with_evaluation), duration(each.training_only)]
    return cells


def _unit(seconds: float) -> tuple[int, str]:
    return next((size, name) for least, size, name in _UNITS if seconds >= least)
