"""The sections on the course of a training: loss, learning rate, images a second, and shares of time."""

from collections.abc import Sequence

from efficientnet_pod.pod.terminal import duration, percent, significant, whole_number
from efficientnet_pod.report.blocks import Chart, Charts, Key, PageTable, Section, Text
from efficientnet_pod.report.drawing.curves import Curve, curves, stacked_bar
from efficientnet_pod.report.drawing.svg import SERIES
from efficientnet_pod.report.figures import SHARES, shares_of_time
from efficientnet_pod.report.side_by_side import ReportRun, run_cell, run_keys, table_by_run
from efficientnet_pod.report.words import thinned
from efficientnet_pod.workdir.values import number

_MOST_ROWS = 200
_COLOURS = dict(zip(SHARES, (*SERIES, "h6", "h3"), strict=True))
_NOTHING = Text("No step of training is recorded yet.")


def training(runs: Sequence[ReportRun]) -> Section:
    """Returns loss, learning rate, images a second and waits for input over epochs."""
    charts = []
    for title, field in (
        ("Loss", "loss"),
        ("Learning rate", "learning_rate"),
        ("Images a second", "images_per_second"),
        ("Time without input, %", "input_wait"),
    ):
        drawn, keys = _loss_curves(runs) if field == "loss" else (_train_curves(runs, field), [])
        svg = curves(
            drawn,
            title=f"{title} by epoch",
            x_label="epoch",
            log_if_wide=field == "loss",
            percent=field == "input_wait",
            from_zero=field in ("learning_rate", "images_per_second"),
        )
        if svg:
            charts.append(Chart(title, svg, keys=[*run_keys(runs), *keys]))
    if not charts:
        return Section("training", "Training", [_NOTHING])
    return Section("training", "Training", [Charts(charts, _training_table(runs))])


def _train_curves(runs: Sequence[ReportRun], field: str, *, quiet: bool = False) -> list[Curve]:
    return [
        Curve(
            [row["epoch"] for row in run.records.train],
            [number(row.get(field)) for row in run.records.train],
            run.colour,
            quiet=quiet,
        )
        for run in runs
    ]


def _loss_curves(runs: Sequence[ReportRun]) -> tuple[list[Curve], list[Key]]:
    """Returns the loss of training and of evaluation, and the legend."""
    several = len(runs) > 1
    drawn = _train_curves(runs, "loss", quiet=several)
    for run in runs:
        epochs = [evaluation.epoch for evaluation in run.evaluations]
        losses = [evaluation.loss for evaluation in run.evaluations]
        colour = run.colour if several else SERIES[1]
        drawn.append(Curve(epochs, losses, colour, dashed=True, marked=True))
    first, second = ("ink", "ink") if several else (SERIES[0], SERIES[1])
    return drawn, [Key("training", first), Key("evaluation", second, "dashed")]


def _training_table(runs: Sequence[ReportRun]) -> PageTable:
    rows, distances = [], []
    for run in runs:
        kept, apart = thinned(run.records.train, _MOST_ROWS)
        distances.append(apart)
        for row in kept:
            values = {name: number(row.get(name)) for name in row}
            rows.append(
                [
                    *run_cell(run, runs),
                    whole_number(row["step"]),
                    f"{row['epoch']:.2f}",
                    significant(values.get("loss")),
                    percent(values.get("top1")),
                    significant(values.get("learning_rate")),
                    significant(values.get("images_per_second")),
                    percent(values.get("input_wait"), 1),
                ]
            )
    header = ["step", "epoch", "loss", "top-1", "learning rate", "images/s", "without input"]
    note = f"One row in {max(distances)} is shown." if max(distances, default=1) > 1 else ""
    return table_by_run(runs, header, rows, title="Rows of training", note=note)


def time_spent(runs: Sequence[ReportRun]) -> Section:
    """Returns the shares of each run's time, as bars and as a table."""
    charts, rows = [], []
    for run in runs:
        parts, source = shares_of_time(run.records)
        total = sum(parts.values())
        if total <= 0:
            continue
        shares = {name: percent(seconds / total, 1) for name, seconds in parts.items()}
        keys = [Key(f"{name} {share}", _COLOURS[name], "fill") for name, share in shares.items()]
        pieces = [(seconds, _COLOURS[name]) for name, seconds in parts.items()]
        svg = stacked_bar(pieces, title=f"Where the time of {run.name} went")
        title = run.name if len(runs) > 1 else f"{duration(total)} in all"
        charts.append(Chart(title, svg, f"Shares {source}.", keys, wide=True))
        rows += [
            [*run_cell(run, runs), name, duration(seconds), shares[name]] for name, seconds in parts.items()
        ]
    if not charts:
        return Section("time", "Where the time went", [_NOTHING])
    table = table_by_run(runs, ["part", "time", "share"], rows, title="Shares of time", words=1)
    return Section("time", "Where the time went", [Charts(charts, table)])
