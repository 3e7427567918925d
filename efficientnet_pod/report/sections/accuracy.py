"""The sections on accuracy: its curves, every evaluation, and the time to reach it."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from efficientnet_pod.pod.terminal import NOT_KNOWN, duration, percent, significant, whole_number
from efficientnet_pod.report.blocks import Block, Chart, Charts, Columns, Key, PageTable, Section, Text
from efficientnet_pod.report.drawing.curves import Curve, curves
from efficientnet_pod.report.drawing.svg import SERIES
from efficientnet_pod.report.figures import Level, TimedEvaluation, first_reaching, levels, peak
from efficientnet_pod.report.side_by_side import ReportRun, run_cell, run_keys, table_by_run
from efficientnet_pod.report.words import thinned
from efficientnet_pod.workdir.json_lines import Row
from efficientnet_pod.workdir.values import number, whole

_MOST_ROWS = 200
_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))


def accuracy(runs: Sequence[ReportRun]) -> Section:
    """Returns accuracy against epochs and against time."""
    clocks = [evaluation.with_evaluation or 0.0 for run in runs for evaluation in run.evaluations]
    last = max(clocks, default=0.0)
    unit, unit_name = next((size, name) for least, size, name in _UNITS if max(last, 0.0) >= least)

    keys, charts = [*run_keys(runs), *_accuracy_keys(runs)], []
    axes = (("epoch", "epoch", "epoch", 1), ("time", unit_name, "seconds", unit))
    for name, x_label, field, x_unit in axes:
        drawn, title = _accuracy_curves(runs, field, x_unit), f"Accuracy by {name}"
        if svg := curves(drawn, title=title, x_label=x_label, percent=True):
            charts.append(Chart(f"{title}, %", svg, keys=keys))
    if not charts:
        return Section("accuracy", "Accuracy", [Text("No evaluation is recorded yet.")])
    lead = (
        "Every evaluation covers the whole validation set. Time counts training and evaluation, not "
        "compilation."
    )
    return Section("accuracy", "Accuracy", [Charts(charts, _evaluations_table(runs))], lead)


def _accuracy_curves(runs: Sequence[ReportRun], x_field: str, unit: int) -> list[Curve]:
    def x(row: Row) -> float | None:
        value = number(row.get(x_field))
        return None if value is None else value / unit

    drawn = []
    for run in runs:
        if len(runs) == 1:
            rows = run.records.train
            rates = [number(row.get("top1")) for row in rows]
            drawn.append(Curve([x(row) for row in rows], rates, "muted", quiet=True))
        rows = run.records.evals
        second = run.colour if len(runs) > 1 else SERIES[1]
        fields = [("top5", second)] if run.records.counts_top5 else []
        for field, colour in (*fields, ("top1", run.colour)):
            rates = [number(row.get(field)) for row in rows]
            drawn.append(Curve([x(row) for row in rows], rates, colour, dashed=field == "top5", marked=True))
    return drawn


def _accuracy_keys(runs: Sequence[ReportRun]) -> list[Key]:
    if len(runs) > 1:
        return [Key("top-1", "ink"), Key("top-5", "ink", "dashed")]
    keys = [Key("top-1", SERIES[0])]
    keys += [Key("top-5", SERIES[1], "dashed")] if runs[0].records.counts_top5 else []
    return [*keys, Key("top-1 in training", "muted")] if runs[0].records.train else keys


def _evaluations_table(runs: Sequence[ReportRun]) -> PageTable:
    rows = [
        [
            *run_cell(run, runs),
            whole_number(evaluation.step),
            f"{evaluation.epoch:.2f}",
            percent(evaluation.top1),
            percent(evaluation.top5),
            significant(evaluation.loss),
            whole_number(evaluation.images),
            duration(evaluation.with_evaluation),
            duration(evaluation.training_only),
        ]
        for run in runs
        for evaluation in thinned(run.evaluations, _MOST_ROWS)[0]
    ]
    header = ["step", "epoch", "top-1", "top-5", "loss", "images", "with evaluation", "training only"]
    return table_by_run(runs, header, rows, title="Every evaluation")


def time_to_accuracy(runs: Sequence[ReportRun]) -> Section:
    """Returns the time to peak accuracy and to a list of levels, with and without time in evaluation."""
    evaluations = [run.evaluations for run in runs]
    peaks = [peak(of_run) for of_run in evaluations]
    if not any(peaks):
        return Section("time-to-accuracy", "Time to accuracy", [Text("No evaluation is recorded yet.")])
    classes = next((n for run in runs if (n := whole(run.records.plan.get("num_classes")))), None)
    reached = [
        (level, [first_reaching(of_run, level.rate, level.kind) for of_run in evaluations])
        for level in levels(evaluations, num_classes=classes)
    ]
    # Of levels that were first reached together, the highest says it all; those with a source stay.
    is_said = [
        not level.source and level.kind == higher.kind and first == then
        for (level, first), (higher, then) in pairwise(reached)
    ]
    rows: list[_LevelRow] = [
        (_level_name(level), first)
        for (level, first), said in zip(reached, [*is_said, False], strict=False)
        if not said
    ]
    if len(runs) == 1:
        peak_name = f"peak, {percent(peaks[0].top1)}" if peaks[0] else "peak"
        tables: list[Block] = [_times_of_one([*rows, (peak_name, peaks)])]
    else:
        rows.append(("peak of each run", peaks))
        with_evaluation = _times(runs, rows, "With evaluation", lambda evaluation: evaluation.with_evaluation)
        training_only = _times(runs, rows, "Training only", lambda evaluation: evaluation.training_only)
        tables = [Columns([[with_evaluation], [training_only]])]
    lead = (
        "Time of the first evaluation that reached the accuracy; nothing is interpolated. DAWNBench has been "
        "read both ways: with the time spent in evaluation, and training only. Neither counts compilation."
    )
    return Section("time-to-accuracy", "Time to accuracy", tables, lead)


_LevelRow = tuple[str, list[TimedEvaluation | None]]


def _level_name(level: Level) -> str:
    name = f"{'top-1' if level.kind == 'top1' else 'top-5'} {percent(level.rate, 1)}"
    return f"{name}, {level.source}" if level.source else name


def _times_of_one(rows: Sequence[_LevelRow]) -> PageTable:
    header = ["accuracy", "epoch", "with evaluation", "training only"]
    cells = []
    for name, (evaluation,) in rows:
        if evaluation is None:
            cells.append([name, NOT_KNOWN, NOT_KNOWN, NOT_KNOWN])
        else:
            times = (duration(evaluation.with_evaluation), duration(evaluation.training_only))
            cells.append([name, f"{evaluation.epoch:.2f}", *times])
    return PageTable(header, cells, frozenset({1, 2, 3}))


def _times(
    runs: Sequence[ReportRun],
    rows: Sequence[_LevelRow],
    title: str,
    seconds_of: Callable[[TimedEvaluation], float | None],
) -> PageTable:
    header = ["accuracy", *(run.name for run in runs)]
    cells = [
        [name, *(duration(seconds_of(evaluation) if evaluation else None) for evaluation in evaluations)]
        for name, evaluations in rows
    ]
    return PageTable(header, cells, frozenset(range(1, len(header))), title)
