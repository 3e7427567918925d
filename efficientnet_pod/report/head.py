"""The head of a page: for each run one line of description, its state, and its figures."""

from dataclasses import replace

from efficientnet_pod.pod.prices import age_note, price_of, price_source
from efficientnet_pod.pod.terminal import duration, percent, plural, significant
from efficientnet_pod.report.blocks import Fact, Head
from efficientnet_pod.report.figures import (
    Accuracy,
    Cost,
    TimedEvaluation,
    cost_of,
    goodput_in,
    images_per_second,
    peak,
    run_seconds,
)
from efficientnet_pod.report.records import RunRecords
from efficientnet_pod.report.side_by_side import ReportRun
from efficientnet_pod.report.state import device_of
from efficientnet_pod.report.words import (
    NOT_RECORDED,
    NOT_YET,
    devices_text,
    joined,
    network_title,
    optimizer_title,
)
from efficientnet_pod.workdir.values import dig, number, whole


def head_of(run: ReportRun, *, all_complete: bool = True) -> Head:
    """Returns the head of a run; its last evaluation is final if all runs of the page are complete."""
    records = run.records
    last, which = run.evaluations[-1] if run.evaluations else None, "final" if all_complete else "last"
    facts = [
        _accuracy(f"Top-1, {which}", last, "top1"),
        _best(run),
        *([_accuracy(f"Top-5, {which}", last, "top5")] if records.counts_top5 else []),
        _time(records),
        _rate(records),
        *_goodput(records),
        *_costs(cost_of(records)),
    ]
    if run.state.kind == "in progress":
        facts = [replace(fact, value=NOT_YET) if fact.value == NOT_RECORDED else fact for fact in facts]
    return Head(
        run.name, run.colour, description(records), run.state.kind, run.state.text, facts, records.notes
    )


def description(records: RunRecords) -> str:
    """Returns e.g. ``"EfficientNet-B0 on digits, 8 × cpu, 1 host; LARS, 128 images a step, 28 epochs"``."""
    config = records.config
    model, data = dig(config, "model.name"), dig(config, "data.name") or records.data.get("name")
    hosts, optimizer = whole(records.plan.get("num_hosts")), dig(config, "optimizer.name")
    batch, epochs = whole(config.get("global_batch")), number(config.get("epochs"))
    machine = joined(
        network_title(model) + (f" on {data}" if data else "") if model else None,
        devices_text(*device_of(records)),
        plural(hosts, "host") if hosts else None,
    )
    recipe = joined(
        optimizer_title(optimizer) if optimizer else None,
        f"{batch:,} images a step" if batch else None,
        f"{epochs:,.6g} epochs" if epochs else None,
    )
    return "; ".join(filter(None, (machine, recipe))) or "Network, data and machine are not recorded"


def _accuracy(name: str, evaluation: TimedEvaluation | None, kind: Accuracy) -> Fact:
    rate = getattr(evaluation, kind) if evaluation else None
    if evaluation is None or rate is None:
        return Fact(name, NOT_RECORDED)
    images = evaluation.images
    return Fact(name, percent(rate), f"{round(rate * images):,} of {images:,} images" if images else "")


def _best(run: ReportRun) -> Fact:
    best = peak(run.evaluations)
    if best is None:
        return Fact("Top-1, best", NOT_RECORDED)
    after = f", after {duration(best.with_evaluation)}" if best.with_evaluation is not None else ""
    return Fact("Top-1, best", percent(best.top1), f"first at epoch {best.epoch:.2f}{after}")


def _time(records: RunRecords) -> Fact:
    seconds, compiling = run_seconds(records), number(records.summary.get("compile_seconds"))
    if seconds is None:
        return Fact("Time", NOT_RECORDED)
    more = f", after {duration(compiling)} of compilation" if compiling is not None else ""
    return Fact("Time", duration(seconds), f"training and evaluation{more}")


def _rate(records: RunRecords) -> Fact:
    rate, (devices, _) = images_per_second(records), device_of(records)
    if rate is None:
        return Fact("Images a second", NOT_RECORDED)
    waiting = number(records.summary.get("input_wait"))
    detail = joined(
        f"{significant(rate / devices, 3)} per device" if devices else None,
        f"{percent(waiting, 1)} of the time without input" if waiting is not None else None,
    )
    return Fact("Images a second", significant(rate, 4 if rate < 1000 else 3), detail)


def _goodput(records: RunRecords) -> list[Fact]:
    goodput = goodput_in(records)
    if goodput is None or goodput.share is None:
        return []
    detail = f"of {duration(goodput.total)}; lost to {goodput.lost_to}" if goodput.lost_to else ""
    return [Fact("Goodput", percent(goodput.share, 1), detail)]


def _costs(cost: Cost) -> list[Fact]:
    hours = cost.device_hours
    if hours is None:
        return [Fact("Device-hours", NOT_RECORDED), Fact("Price", NOT_RECORDED)]
    detail = f"{cost.devices:,} × {cost.kind or 'device'} for {duration(cost.seconds)}: {cost.basis}"
    return [Fact("Device-hours", significant(hours, 3), detail), _price(cost)]


def _price(cost: Cost) -> Fact:
    if cost.chip is None:
        return Fact("Price", "none known", f"no '{cost.kind or 'device'}' is in the table of chips")
    if cost.usd is None or cost.chips is None:
        return Fact("Price", "none known", f"the price list has none for {cost.chip.title}")
    detail = f"{significant(cost.chips, 6)} × {cost.chip.title} on demand at "
    detail += f"{price_of(cost.chip, cost.chips)} a chip-hour"
    if cost.usd_spot is not None:
        detail += f"; {cost.usd_spot} on spot at {price_of(cost.chip, cost.chips, spot=True)}"
    about = filter(None, (detail, price_source(cost.chip), age_note(cost.chip)))
    return Fact("Price", str(cost.usd), ". ".join(about))
