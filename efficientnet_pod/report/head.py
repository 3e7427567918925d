"""Owns the head of a page: what each run is, how it stands, and its figures."""

from efficientnet_pod.report.blocks import Fact, Head
from efficientnet_pod.report.figures import (
    Cost,
    Evaluation,
    cost_of,
    images_per_second,
    peak,
    run_seconds,
)
from efficientnet_pod.report.records import Records
from efficientnet_pod.report.side_by_side import Run
from efficientnet_pod.report.state import device_of
from efficientnet_pod.report.values import (
    NOT_RECORDED,
    count,
    duration,
    figure,
    joined,
    network_title,
    optimizer_name,
    percent,
    plural,
)
from efficientnet_pod.workdir.values import dig, number, whole


def head_of(run: Run, *, all_complete: bool = True) -> Head:
    """Returns what a run is, how it stands, and its figures; of complete runs the last one is final."""
    records = run.records
    last, which = run.made[-1] if run.made else None, "final" if all_complete else "last"
    facts = [
        _accuracy(f"Top-1, {which}", last, "top1"),
        _best(run),
        _accuracy(f"Top-5, {which}", last, "top5"),
        _time(records),
        _rate(records),
        *_costs(cost_of(records)),
    ]
    return Head(
        name=run.name,
        colour=run.colour,
        what=what_is(records),
        state=run.state.kind,
        state_text=run.state.text,
        facts=facts,
        notes=records.notes,
    )


def what_is(records: Records) -> str:
    """Returns e.g. ``"EfficientNet-B0 on digits, 8 × cpu, 1 host; LARS, 128 images a step, 28 epochs"``."""
    config = records.config
    model, data = dig(config, "model.name"), dig(config, "data.name") or records.data.get("name")
    devices, kind = device_of(records)
    hosts = whole(records.plan.get("num_hosts"))
    batch, epochs = whole(config.get("global_batch")), number(config.get("epochs"))
    machine = joined(
        (
            network_title(model) + (f" on {data}" if data else "") if model else None,
            f"{devices:,} × {kind or 'device'}" if devices else None,
            plural(hosts, "host") if hosts else None,
        )
    )
    recipe = joined(
        (
            optimizer_name(name) if (name := dig(config, "optimizer.name")) else None,
            f"{batch:,} images a step" if batch else None,
            f"{epochs:,.6g} epochs" if epochs else None,
        )
    )
    return "; ".join(filter(None, (machine, recipe))) or "What it is, is not recorded"


def _accuracy(name: str, made: Evaluation | None, which: str) -> Fact:
    value = getattr(made, which) if made else None
    if made is None or value is None:
        return Fact(name, NOT_RECORDED)
    hits = f"{round(value * made.images):,} of {made.images:,} images" if made.images else ""
    return Fact(name, percent(value), hits)


def _best(run: Run) -> Fact:
    best = peak(run.made)
    if best is None:
        return Fact("Top-1, best", NOT_RECORDED)
    after = f", after {duration(best.with_evaluation)}" if best.with_evaluation is not None else ""
    return Fact("Top-1, best", percent(best.top1), f"first at epoch {best.epoch:.2f}{after}")


def _time(records: Records) -> Fact:
    seconds, compiling = run_seconds(records), number(records.summary.get("compile_seconds"))
    if seconds is None:
        return Fact("Time", NOT_RECORDED)
    more = f", after {duration(compiling)} of compilation" if compiling is not None else ""
    return Fact("Time", duration(seconds), f"training and evaluation{more}")


def _rate(records: Records) -> Fact:
    rate, (devices, _) = images_per_second(records), device_of(records)
    if rate is None:
        return Fact("Images a second", NOT_RECORDED)
    waiting = number(records.summary.get("input_wait"))
    detail = joined(
        (
            f"{figure(rate / devices, 3)} per device" if devices else None,
            f"{percent(waiting, 1)} of the time without input" if waiting is not None else None,
        )
    )
    return Fact("Images a second", figure(rate, 4 if rate < 1000 else 3), detail)


def _costs(cost: Cost) -> list[Fact]:
    hours = cost.device_hours
    if hours is None:
        return [Fact("Device-hours", NOT_RECORDED), Fact("Price", NOT_RECORDED)]
    held = f"{cost.devices:,} × {cost.kind or 'device'} for {duration(cost.seconds)}: {cost.basis}"
    return [Fact("Device-hours", figure(hours, 3), held), _price(cost)]


def _price(cost: Cost) -> Fact:
    if cost.chip is None:
        return Fact("Price", "none known", f"no '{cost.kind or 'device'}' is in the table of chips")
    if cost.usd is None or cost.chips is None:
        return Fact("Price", "none known", f"the table of chips has none for {cost.chip.title}")
    chips = figure(cost.chips, 6)
    spot = f"; {usd(cost.usd_spot)} on spot at ${cost.chip.usd_spot:.2f}" if cost.usd_spot is not None else ""
    detail = f"{chips} × {cost.chip.title} on demand at ${cost.chip.usd:.2f} a chip-hour{spot}"
    return Fact("Price", usd(cost.usd), detail)


def usd(value: float | None) -> str:
    """Returns e.g. ``"$0.42"``, ``"$1,234"``."""
    if value is None:
        return "none known"
    return f"${value:,.2f}" if value < 100 else f"${count(value)}"
