"""The report on an estimate: the answer first, then where memory, time and money go."""

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from efficientnet_pod.data.host_cores import describe_input
from efficientnet_pod.pod.chips import GIB, Chip
from efficientnet_pod.pod.prices import age_note, price_source, why_no_price
from efficientnet_pod.pod.terminal import NOT_KNOWN, plural, short_duration, three_digits
from efficientnet_pod.preflight.estimate import Estimate
from efficientnet_pod.preflight.show import programs as show_programs
from efficientnet_pod.run.tables import bn_groups_text


def print_report(estimate: Estimate, console: Console) -> None:
    """Prints the whole report; 100 columns are enough."""
    console.print(Text(answer(estimate), style="bold green" if estimate.fits else "bold red"))
    console.print()
    console.print(_sections(estimate))


def answer(estimate: Estimate) -> str:
    """Returns whether it fits, how fast it is and what it costs, in one line."""
    target, train = estimate.target, estimate.train
    parts = [f"{'fits' if estimate.fits else 'does not fit'}: {_room(estimate)}"]
    seconds = estimate.step_seconds()
    if seconds is not None:
        at_least = "at least " if train.basis == "roofline" else "about "
        basis = "measured" if train.name in estimate.measured else "estimate"
        parts.append(f"{at_least}{short_duration(seconds)} a step ({basis})")
    if estimate.images_per_second:
        parts.append(
            f"{estimate.images_per_second:,.0f} images/s of {plural(target.replicas, target.chip.replica)}"
        )
    if estimate.hours is not None:
        parts.append(f"{three_digits(estimate.hours)} hours for {estimate.run.plan.recipe.epochs:g} epochs")
    if (usd := estimate.usd()) is not None:
        parts.append(str(usd))
    return "; ".join(parts)


def _room(estimate: Estimate) -> str:
    limit, step = estimate.hbm_limit, estimate.tightest
    of = "" if limit is None else f" of {limit / GIB:,.2f}"
    used = "more than" if step.hbm_bytes is None else f"{(step.hbm_bytes + step.waiting_bytes) / GIB:,.2f}"
    return f"{used}{of} GiB a {estimate.target.chip.replica}"


def _sections(estimate: Estimate) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    rows: list[tuple[str, RenderableType]] = [
        ("machine", _machine(estimate)),
        ("batch", _batch(estimate)),
        ("memory", show_programs.memory(estimate)),
        ("time", show_programs.time(estimate)),
        ("layers", show_programs.layers(estimate.train)),
        ("communication", show_programs.communication(estimate)),
        ("run", _run(estimate)),
        ("price", _price(estimate)),
        ("sources", _sources(estimate.target.chip)),
        ("compiled", _compiled(estimate)),
    ]
    for name, value in rows:
        table.add_row(name, value)
    chip = estimate.target.chip
    for warning in filter(None, (*estimate.run.plan.warnings, chip.caution, age_note(chip))):
        table.add_row(Text("warning", style="yellow"), warning)
    return table


def _machine(estimate: Estimate) -> str:
    target, chip = estimate.target, estimate.target.chip
    text = f"{target.name}: {plural(target.replicas, chip.replica)}"
    if chip.devices > 1:
        text += f" of {plural(target.chips, 'chip')}"
    if chip.platform != "cpu":
        text += f", {chip.title}"
    return f"{text}; {plural(target.hosts, 'host')}"


def _batch(estimate: Estimate) -> str:
    plan, train = estimate.run.plan, estimate.train
    global_batch = train.images * train.calls
    parts = f" in {plural(train.calls, 'micro-batch', 'micro-batches')}" if train.calls > 1 else ""
    return (
        f"{global_batch:,} global{parts}, {global_batch // plan.num_replicas:,} per replica, "
        f"{plan.bn_batch:,} normalise together: {bn_groups_text(estimate.run)}"
    )


def _run(estimate: Estimate) -> str:
    plan, target = estimate.run.plan, estimate.target
    parts = [
        f"{plan.total_steps:,} steps = {plan.recipe.epochs:g} epochs, "
        f"{estimate.evaluations:,} evaluations of {plural(plan.eval_steps, 'step')}"
    ]
    if estimate.hours is not None:
        train, evaluation = three_digits(estimate.train_hours), three_digits(estimate.eval_hours)
        parts.append(f"{train} h training + {evaluation} h evaluating")
    parts.append(f"peak learning rate {plan.peak_lr:g} after {plan.warmup_steps:,} steps")
    rate = estimate.images_per_second
    text = describe_input(
        plan,
        replica_rate=rate / target.replicas if rate else None,
        replicas_per_host=target.replicas // target.hosts,
    )
    return "; ".join(parts) + (f"\ninput: {text}" if text else "")


def _price(estimate: Estimate) -> str:
    chip, hours = estimate.target.chip, estimate.hours
    if hours is None:
        return f"{NOT_KNOWN} without a time"
    text = f"{three_digits(hours * estimate.target.replicas)} {chip.replica}-hours"
    usd, per_hour = estimate.usd(), estimate.usd_per_chip_hour()
    if usd is None or per_hour is None:
        return f"{text}; {why_no_price(chip, estimate.target.chips, zone=estimate.zone)}"
    where = f" in {estimate.zone}" if estimate.zone else ""
    text += f"; {usd}{where} on demand at {per_hour} a chip-hour"
    spot, per_hour = estimate.usd(spot=True), estimate.usd_per_chip_hour(spot=True)
    if spot and per_hour:
        text += f", {spot} on spot at {per_hour}"
        text += f" (cheapest in {spot.cheapest}; --zone names one)" if spot.cheapest else ""
    return text + "; starts, compilation, checkpoints and waits for input come on top"


def _sources(chip: Chip) -> str:
    if not chip.sources:
        return NOT_KNOWN
    by_source: dict[str, list[str]] = {}
    names = {"clock_hz": "clock", "flops": "peak", "hbm_bytes": "memory", "hbm_bandwidth": "its bandwidth",
             "link_bandwidth": "links", "usd": "price"}  # fmt: skip
    sources = chip.sources | {"usd": price_source(chip)}
    for field, name in names.items():
        if source := sources.get(field):
            by_source.setdefault(source, []).append(name)
    lines = [f"{', '.join(names)}: {source}" for source, names in by_source.items()]
    figures = [f"{chip.flops / 1e12:,.0f} TFLOP/s"] if chip.flops else []
    figures += [f"{chip.hbm_bandwidth / 1e9:,.0f} GB/s"] if chip.hbm_bandwidth else []
    used = f"used here: {' and '.join(figures)} a chip"
    return "\n".join([*lines, f"{used}; {chip.also}" if chip.also else used])


def _compiled(estimate: Estimate) -> str:
    compilation = estimate.compilation
    hits = f"{compilation.from_cache} of {len(compilation.programs)}"
    return f"in {compilation.seconds:,.0f} s; {hits} programs came from the cache {compilation.cache}"
