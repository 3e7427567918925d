"""Owns the sections on the course of a training: loss, learning rate, images a second, and shares of time."""

from collections.abc import Sequence
from typing import Any

from efficientnet_pod.report.blocks import Chart, Charts, Key, Section, Table, Text
from efficientnet_pod.report.drawing.curves import Curve, curves, stacked_bar
from efficientnet_pod.report.drawing.svg import SERIES
from efficientnet_pod.report.figures import SHARES, shares_of_time
from efficientnet_pod.report.side_by_side import Run, run_cell, run_keys, table_by_run
from efficientnet_pod.report.values import count, duration, figure, percent, thinned
from efficientnet_pod.workdir.values import number

_MOST_ROWS = 200
_COLOURS = dict(zip(SHARES, (*SERIES[:5], "h3"), strict=True))


def training(runs: Sequence[Run]) -> Section:
    """Returns loss, learning rate, images a second and waits for input over epochs."""
    drawn: list[tuple[str, str, list[Curve], dict[str, Any], list[Key]]] = [
        ("loss", "Loss", _loss_curves(runs), {"scale": "auto"}, _loss_keys(runs)),
        ("learning-rate", "Learning rate", _train_curves(runs, "learning_rate"), {"from_zero": True}, []),
        ("rate", "Images a second", _train_curves(runs, "images_per_second"), {"from_zero": True}, []),
        ("input-wait", "Time without input, %", _train_curves(runs, "input_wait"), {"percent": True}, []),
    ]
    charts = []
    for name, title, found, options, keys in drawn:
        svg = curves(found, name=name, title=f"{title} by epoch", x_label="epoch", **options)
        if svg:
            charts.append(Chart(title, svg, keys=[*run_keys(runs), *keys]))
    if not charts:
        return Section("training", "Training", [Text("No step of training is recorded yet.")])
    return Section("training", "Training", [Charts(charts, _training_table(runs))])


def _loss_curves(runs: Sequence[Run]) -> list[Curve]:
    found = []
    for run in runs:
        train = run.records.train
        shown = [number(row.get("loss")) for row in train]
        found.append(Curve([row["epoch"] for row in train], shown, run.colour, quiet=len(runs) > 1))
        second = run.colour if len(runs) > 1 else SERIES[1]
        losses = [each.loss for each in run.made]
        found.append(Curve([each.epoch for each in run.made], losses, second, dashed=True, marked=True))
    return found


def _loss_keys(runs: Sequence[Run]) -> list[Key]:
    first, second = ("ink", "ink") if len(runs) > 1 else (SERIES[0], SERIES[1])
    return [Key("training", first), Key("evaluation", second, "dashed")]


def _train_curves(runs: Sequence[Run], field: str) -> list[Curve]:
    return [
        Curve(
            [row["epoch"] for row in run.records.train],
            [number(row.get(field)) for row in run.records.train],
            run.colour,
        )
        for run in runs
    ]


def _training_table(runs: Sequence[Run]) -> Table:
    rows, distances = [], []
    for run in runs:
        kept, apart = thinned(run.records.train, _MOST_ROWS)
        distances.append(apart)
        for row in kept:
            values = {name: number(row.get(name)) for name in row}
            rows.append(
                [
                    *run_cell(run, runs),
                    count(row["step"]),
                    f"{row['epoch']:.2f}",
                    figure(values.get("loss")),
                    percent(values.get("top1")),
                    figure(values.get("learning_rate")),
                    figure(values.get("images_per_second")),
                    percent(values.get("input_wait"), 1),
                ]
            )
    header = ["step", "epoch", "loss", "top-1", "learning rate", "images/s", "without input"]
    note = f"One row in {max(distances)} is shown." if max(distances, default=1) > 1 else ""
    return table_by_run(runs, header, rows, title="Rows of training", note=note)


def time_spent(runs: Sequence[Run]) -> Section:
    """Returns where the time of each run went, as bars and as a table."""
    found = [(run, *shares_of_time(run.records)) for run in runs]
    known = [(run, shares, source) for run, shares, source in found if sum(shares.values()) > 0]
    if not known:
        return Section("time", "Where the time went", [Text("No step of training is recorded yet.")])
    charts, rows = [], []
    for run, shares, source in known:
        whole = sum(shares.values())
        parts = {name: shares[name] for name in SHARES if name in shares}
        keys = [
            Key(f"{name} {percent(part / whole, 1)}", _COLOURS[name], "fill") for name, part in parts.items()
        ]
        svg = stacked_bar(
            [(part, _COLOURS[name]) for name, part in parts.items()],
            name=f"time-{run.at}",
            title=f"Where the time of {run.name} went",
        )
        title = run.name if len(runs) > 1 else f"{duration(whole)} in all"
        charts.append(Chart(title, svg, f"Shares {source}.", keys, wide=True))
        rows += [
            [*run_cell(run, runs), name, duration(part), percent(part / whole, 1)]
            for name, part in parts.items()
        ]
    header = [*(["run"] if len(runs) > 1 else []), "part", "time", "share"]
    table = Table(header, rows, frozenset({len(header) - 2, len(header) - 1}), "Shares of time")
    return Section("time", "Where the time went", [Charts(charts, table)])
