"""The sections on the settings of runs: the plan as a table, and the config, or its differences."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from efficientnet_pod.pod.terminal import NOT_KNOWN, plural, significant
from efficientnet_pod.report.blocks import Block, Folded, PageTable, Section, Text
from efficientnet_pod.report.records import RunRecords
from efficientnet_pod.report.side_by_side import ReportRun
from efficientnet_pod.report.state import device_of
from efficientnet_pod.report.words import devices_text, joined, network_title, optimizer_title
from efficientnet_pod.workdir.values import dig, flatten, list_of, number, table_of, whole


def plan(runs: Sequence[ReportRun]) -> Section:
    """Returns the resolved numbers of each run, a column for each."""
    planned = [run for run in runs if run.records.plan]
    if not planned:
        return Section("plan", "Plan", [Text("There is no plan.json.", missing=True)])
    rows = []
    for name, parts_of in _PLAN_ROWS.items():
        cells = [joined(*parts_of(run.records)) for run in runs]
        if any(cells):
            rows.append([name, *(cell or NOT_KNOWN for cell in cells)])
    header = ["", *(run.name for run in runs)] if len(runs) > 1 else ["", "resolved"]
    texts = []
    for begin, field in (("", "recipe.notes"), ("Warning of the plan: ", "warnings")):
        for run in planned:
            name = f"{run.name}: " if len(runs) > 1 else ""
            texts += [Text(f"{name}{begin}{text}") for text in list_of(dig(run.records.plan, field))]
    return Section("plan", "Plan", [PageTable(header, rows), *texts])


def _known(read: Callable[[Any], float | None], records: RunRecords, *parts: tuple[str, str]) -> list[str]:
    """Returns the known values of (field of the plan, format): ``read`` gives None for an unknown one."""
    values = ((read(dig(records.plan, field)), form) for field, form in parts)
    return [form.format(value) for value, form in values if value is not None]


def _plural(records: RunRecords, field: str, noun: str, nouns: str = "") -> str | None:
    value = whole(dig(records.plan, field))
    return None if value is None else plural(value, noun, nouns)


def _model(records: RunRecords) -> Iterable[str | None]:
    name, dtype = dig(records.plan, "recipe.model.name"), dig(records.plan, "compute_dtype")
    yield network_title(name) if name else None
    yield _plural(records, "num_classes", "class", "classes")
    yield from _known(whole, records, ("image_size", "{:,} px"))
    yield f"{dtype} convolutions" if dtype else None


def _data(records: RunRecords) -> Iterable[str | None]:
    name = dig(records.plan, "recipe.data.name")
    yield str(name) if name else None
    yield from _known(whole, records, ("num_train", "{:,} images to train"), ("num_eval", "{:,} to evaluate"))


def _devices(records: RunRecords) -> Iterable[str | None]:
    yield devices_text(*device_of(records))
    yield _plural(records, "num_hosts", "host")
    devices, replicas = (whole(records.plan.get(name)) for name in ("num_devices", "num_replicas"))
    if devices and replicas and replicas > devices:
        parts = _plural(records, "micro_batches", "micro-batch", "micro-batches")
        yield f"{plural(replicas, 'replica')}{f' in {parts} a step' if parts else ''}"


def _batch(records: RunRecords) -> Iterable[str]:
    per_host, per_replica = ("host_batch", "{:,} per host"), ("per_replica_batch", "{:,} per replica")
    return _known(whole, records, ("recipe.global_batch", "{:,} global"), per_host, per_replica)


def _batch_norm(records: RunRecords) -> Iterable[str | None]:
    yield from _known(whole, records, ("bn_batch", "{:,} images together"))
    group = _plural(records, "recipe.bn_group_size", "replica")
    yield f"groups of {group}" if group else None


def _beginning(records: RunRecords) -> Iterable[str | None]:
    """Yields where the weights are from, and which layers are not trained, or more slowly."""
    init = table_of(dig(records.plan, "recipe.init"))
    if not init.get("weights"):
        return
    yield f"weights of {init['weights']}"
    frozen = [str(layer) for layer in list_of(init.get("frozen"))]
    yield f"not trained: {', '.join(frozen)}" if frozen else None
    if factors := list_of(init.get("lr_factors")):
        rates = ", ".join(f"{layer or 'all else'} × {factor:g}" for layer, factor in factors)
        yield f"learning rate of {rates}"
    yield f"BN statistics: {init['bn_statistics']}" if init.get("bn_statistics") else None


def _steps(records: RunRecords) -> Iterable[str | None]:
    yield _plural(records, "total_steps", "step")
    yield from _known(
        number, records, ("recipe.epochs", "{:,.6g} epochs"), ("steps_per_epoch", "{:,.2f} steps an epoch")
    )


def _phases(records: RunRecords) -> Iterable[str]:
    if not list_of(dig(records.plan, "recipe.phases")):
        return
    for phase in filter(None, map(table_of, list_of(records.plan.get("phases")))):
        first, last = whole(phase.get("first_step")), whole(phase.get("last_step"))
        size = whole(phase.get("image_size"))
        steps = f"step {first + 1:,} to {last:,}" if first is not None and last is not None else None
        yield f"{phase.get('name')}: {' at '.join(filter(None, (steps, f'{size:,} px' if size else None)))}"


def _optimizer(records: RunRecords) -> Iterable[str]:
    settings = table_of(dig(records.plan, "recipe.optimizer"))
    if settings:
        yield optimizer_title(settings.get("name", ""))
    for name, setting in settings.items():
        if (value := number(setting)) is not None:
            yield f"{name.replace('_', ' ')} {significant(value, 6)}"


def _schedule(records: RunRecords) -> Iterable[str | None]:
    peak, power = number(records.plan.get("peak_lr")), number(dig(records.plan, "recipe.schedule.power"))
    name = dig(records.plan, "recipe.schedule.name")
    warmup = _plural(records, "warmup_steps", "step") if name != "piecewise" else None
    yield f"peak {significant(peak, 6)}" if peak is not None else None
    yield f"after {warmup} of warm-up" if warmup else None
    if name:
        of_power = f" of power {power:g}" if name == "polynomial" and power else ""
        yield f"then {name}{of_power}" if warmup else f"{name}{of_power}"


def _regularisation(records: RunRecords) -> Iterable[str]:
    return _known(
        number,
        records,
        ("dropout", "dropout {:g}"),
        ("recipe.model.survival_probability", "survival probability {:g}"),
        ("recipe.label_smoothing", "label smoothing {:g}"),
        ("recipe.ema_decay", "weights averaged with decay {:g}"),
    )


def _evaluation(records: RunRecords) -> Iterable[str]:
    yield from _known(number, records, ("recipe.eval_epochs", "every {:,.6g} epochs"))
    yield from _known(whole, records, ("eval_batch", "in batches of {:,}"))


_PLAN_ROWS: dict[str, Callable[[RunRecords], Iterable[str | None]]] = {
    "model": _model,
    "begins with": _beginning,
    "data": _data,
    "devices": _devices,
    "batch": _batch,
    "batch norm": _batch_norm,
    "steps": _steps,
    "phases": _phases,
    "optimizer": _optimizer,
    "learning rate": _schedule,
    "regularisation": _regularisation,
    "evaluation": _evaluation,
}


def settings(runs: Sequence[ReportRun]) -> Section:
    """Returns the differences between the configs of runs, or the whole config of a single run, folded."""
    configs = [dict(flatten(run.records.config)) for run in runs]
    names = sorted({name for config in configs for name in config})
    if not names:
        return Section("config", "Config", [Text("There is no config.json.", missing=True)])
    rows = [[name, *(str(config.get(name, "absent")) for config in configs)] for name in names]
    if len(runs) == 1:
        table = PageTable(["field", "value"], rows)
        return Section("config", "Config", [Folded(f"All {len(rows)} fields", table)])
    header = ["field", *(run.name for run in runs)]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    same = [row[:2] for row in rows if len(set(row[1:])) == 1]
    blocks: list[Block] = [
        PageTable(header, differing) if differing else Text("The configs are the same in every field.")
    ]
    if same:
        table = PageTable(["field", "value"], same)
        blocks.append(Folded(f"The same in all runs: {len(same)} fields", table))
    return Section("config", "Config: what differs", blocks)
