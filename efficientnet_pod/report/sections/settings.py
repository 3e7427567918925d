"""Owns the sections on the settings of runs: the plan as a table, and the config, or what differs in it."""

from collections.abc import Callable, Sequence
from typing import Any

from efficientnet_pod.report.blocks import Block, Folded, Section, Table, Text
from efficientnet_pod.report.records import Records
from efficientnet_pod.report.side_by_side import Run
from efficientnet_pod.report.state import device_of, phases_of
from efficientnet_pod.report.values import NONE, figure, joined, network_title, optimizer_name, plural
from efficientnet_pod.workdir.values import dig, flatten, list_of, number, whole

_ABSENT = object()


def plan(runs: Sequence[Run]) -> Section:
    """Returns the resolved numbers of each run, a column for each."""
    planned = [run for run in runs if run.records.plan]
    if not planned:
        return Section("plan", "Plan", [Text("There is no plan.json.", missing=True)])
    rows = []
    for name, words in _PLAN_ROWS:
        cells = [words(run.records) for run in runs]
        if any(cells):
            rows.append([name, *(cell or NONE for cell in cells)])
    header = ["", *(run.name for run in runs)] if len(runs) > 1 else ["", "resolved"]
    warnings = [
        Text(f"Warning of the plan{f' of {run.name}' if len(runs) > 1 else ''}: {warning}")
        for run in planned
        for warning in list_of(run.records.plan.get("warnings"))
    ]
    notes = [
        Text(f"{f'{run.name}: ' if len(runs) > 1 else ''}{note}")
        for run in planned
        for note in list_of(dig(run.records.plan, "recipe.notes"))
    ]
    return Section("plan", "Plan", [Table(header, rows), *notes, *warnings])


def _count(records: Records, field: str, noun: str, nouns: str = "") -> str | None:
    value = whole(dig(records.plan, field))
    return None if value is None else plural(value, noun, nouns)


def _model(records: Records) -> str:
    name, size = dig(records.plan, "recipe.model.name"), whole(dig(records.plan, "image_size"))
    dtype = dig(records.plan, "compute_dtype")
    return joined(
        (
            network_title(name) if name else None,
            _count(records, "num_classes", "class", "classes"),
            f"{size:,} px" if size else None,
            f"{dtype} convolutions" if dtype else None,
        )
    )


def _data(records: Records) -> str:
    train, evaluate = (whole(records.plan.get(name)) for name in ("num_train", "num_eval"))
    return joined(
        (
            str(name) if (name := dig(records.plan, "recipe.data.name")) else None,
            f"{train:,} images to train" if train is not None else None,
            f"{evaluate:,} to evaluate" if evaluate is not None else None,
        )
    )


def _devices(records: Records) -> str:
    devices, kind = device_of(records)
    return joined(
        (f"{devices:,} × {kind or 'device'}" if devices else None, _count(records, "num_hosts", "host"))
    )


def _batch(records: Records) -> str:
    batches = (
        (whole(dig(records.plan, "recipe.global_batch")), "global"),
        (whole(records.plan.get("host_batch")), "per host"),
        (whole(records.plan.get("per_replica_batch")), "per replica"),
    )
    return joined(f"{value:,} {name}" for value, name in batches if value is not None)


def _batch_norm(records: Records) -> str:
    together, group = whole(records.plan.get("bn_batch")), whole(dig(records.plan, "recipe.bn_group_size"))
    return joined(
        (
            f"{together:,} images together" if together else None,
            f"groups of {plural(group, 'replica')}" if group else None,
        )
    )


def _steps(records: Records) -> str:
    epochs, each = number(dig(records.plan, "recipe.epochs")), number(records.plan.get("steps_per_epoch"))
    return joined(
        (
            _count(records, "total_steps", "step"),
            f"{epochs:,.6g} epochs" if epochs else None,
            f"{each:,.2f} steps an epoch" if each else None,
        )
    )


def _optimizer(records: Records) -> str:
    settings = dig(records.plan, "recipe.optimizer")
    if not isinstance(settings, dict):
        return ""
    others = [
        f"{name.replace('_', ' ')} {figure(value, 6)}"
        for name, each in settings.items()
        if (value := number(each)) is not None
    ]
    return joined((optimizer_name(settings.get("name", "")), *others))


def _schedule(records: Records) -> str:
    table = records.plan
    peak, warmup = number(table.get("peak_lr")), whole(table.get("warmup_steps"))
    name, power = dig(table, "recipe.schedule.name"), number(dig(table, "recipe.schedule.power"))
    if name == "piecewise":
        warmup = None
    return joined(
        (
            f"peak {figure(peak, 6)}" if peak is not None else None,
            f"after {plural(warmup, 'step')} of warm-up" if warmup is not None else None,
            f"{'then ' if warmup is not None else ''}{name}"
            + (f" of power {power:g}" if name == "polynomial" and power else "")
            if name
            else None,
        )
    )


def _evaluation(records: Records) -> str:
    apart, batch = number(dig(records.plan, "recipe.eval_epochs")), whole(records.plan.get("eval_batch"))
    return joined(
        (
            f"every {apart:,.6g} epochs" if apart else None,
            f"in batches of {batch:,}" if batch else None,
        )
    )


def _regularisation(records: Records) -> str:
    fields = (
        ("dropout", "dropout"),
        ("recipe.model.survival_probability", "survival probability"),
        ("recipe.label_smoothing", "label smoothing"),
        ("recipe.ema_decay", "weights averaged with decay"),
    )
    values = ((name, number(dig(records.plan, field))) for field, name in fields)
    return joined(f"{name} {value:g}" for name, value in values if value is not None)


def _phases(records: Records) -> str:
    described = []
    for phase in phases_of(records):
        first, last = whole(phase.get("first_step")), whole(phase.get("last_step"))
        size = whole(phase.get("image_size"))
        steps = f"step {first + 1:,} to {last:,}" if first is not None and last is not None else None
        described.append(f"{phase.get('name')}: {joined((steps, f'{size:,} px' if size else None))}")
    return "; ".join(described)


_PLAN_ROWS: tuple[tuple[str, Callable[[Records], str]], ...] = (
    ("model", _model),
    ("data", _data),
    ("devices", _devices),
    ("batch", _batch),
    ("batch norm", _batch_norm),
    ("steps", _steps),
    ("phases", _phases),
    ("optimizer", _optimizer),
    ("learning rate", _schedule),
    ("regularisation", _regularisation),
    ("evaluation", _evaluation),
)


def settings(runs: Sequence[Run]) -> Section:
    """Returns what differs between the configs of runs, or the whole config of one, folded."""
    flat = [dict(flatten(run.records.config)) for run in runs]
    names = sorted({name for each in flat for name in each})
    if not names:
        return Section("config", "Config", [Text("There is no config.json.", missing=True)])
    shown = [[name, *(_shown(each.get(name, _ABSENT)) for each in flat)] for name in names]
    header = ["field", *(run.name for run in runs)]
    if len(runs) == 1:
        whole = Table(["field", "value"], shown)
        return Section("config", "Config", [Folded(f"All {len(shown)} fields", [whole])])
    differing = [row for row in shown if len(set(row[1:])) > 1]
    blocks: list[Block] = [
        Table(header, differing) if differing else Text("The configs are the same in every field.")
    ]
    same = [row[:2] for row in shown if len(set(row[1:])) == 1]
    if same:
        blocks.append(Folded(f"The same in all runs: {len(same)} fields", [Table(["field", "value"], same)]))
    return Section("config", "Config: what differs", blocks)


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else str(value) if isinstance(value, str) else repr(value)
