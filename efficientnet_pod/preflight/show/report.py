"""Owns the report as a person reads it: the answer first, then where memory, time and money go."""

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from efficientnet_pod.data.host_cores import describe_input
from efficientnet_pod.pod.chips import GIB, Chip
from efficientnet_pod.pod.topology import describe_bn_groups
from efficientnet_pod.preflight.estimate import Estimate
from efficientnet_pod.preflight.figures import DASH, count, duration, number
from efficientnet_pod.preflight.show import programs as show_programs


def print_report(found: Estimate, console: Console) -> None:
    """Prints the whole report; 100 columns are enough."""
    console.print(Text(answer(found), style="bold green" if found.fits else "bold red"))
    console.print()
    console.print(_sections(found))


def answer(found: Estimate) -> str:
    """Returns whether it fits, how fast it is and what it costs, in one line."""
    target, train = found.target, found.train
    parts = [f"{'fits' if found.fits else 'does not fit'}: {_room(found)}"]
    seconds = found.seconds_of(train)
    if seconds is not None:
        at_least = "at least " if train.basis == "roofline" else "about "
        how = "measured" if train.name in found.measured else "estimate"
        parts.append(f"{at_least}{duration(seconds)} a step ({how})")
    if found.images_per_second:
        parts.append(
            f"{found.images_per_second:,.0f} images/s of {count(target.replicas, target.chip.replica)}"
        )
    if found.hours is not None:
        parts.append(f"{number(found.hours)} hours for {found.run.plan.recipe.epochs:g} epochs")
    if (usd := found.usd()) is not None:
        parts.append(f"${number(usd)}")
    return "; ".join(parts)


def _room(found: Estimate) -> str:
    limit, step = found.hbm_limit, found.tightest
    of = "" if limit is None else f" of {limit / GIB:,.2f}"
    used = "more than" if step.hbm_bytes is None else f"{(step.hbm_bytes + step.waiting_bytes) / GIB:,.2f}"
    return f"{used}{of} GiB a {found.target.chip.replica}"


def _sections(found: Estimate) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    rows: list[tuple[str, RenderableType]] = [
        ("machine", _machine(found)),
        ("batch", _batch(found)),
        ("memory", show_programs.memory(found)),
        ("time", show_programs.time(found)),
        ("layers", show_programs.layers(found.train)),
        ("communication", show_programs.communication(found)),
        ("run", _run(found)),
        ("price", _price(found)),
        ("sources", _sources(found.target.chip)),
        ("compiled", _compiled(found)),
    ]
    rows += [("[yellow]warning[/]", escape(warning)) for warning in found.run.plan.warnings]
    for name, value in rows:
        table.add_row(name, value)
    return table


def _machine(found: Estimate) -> str:
    target, chip = found.target, found.target.chip
    text = f"{target.name}: {count(target.replicas, chip.replica)}"
    if chip.devices > 1:
        text += f" of {count(target.chips, 'chip')}"
    if chip.platform != "cpu":
        text += f", {chip.title}"
    return f"{text}; {count(target.hosts, 'host')}"


def _batch(found: Estimate) -> str:
    plan, train = found.run.plan, found.train
    groups = describe_bn_groups(found.run.runtime.devices, plan.recipe.bn_group_size)
    return (
        f"{train.images:,} global, {train.images // plan.num_replicas:,} per replica, "
        f"{plan.bn_batch:,} normalise together: {groups}"
    )


def _run(found: Estimate) -> str:
    plan, target = found.run.plan, found.target
    parts = [
        f"{plan.total_steps:,} steps = {plan.recipe.epochs:g} epochs, {found.evaluations:,} evaluations of "
        f"{plan.eval_steps:,} step{'s' * (plan.eval_steps != 1)}"
    ]
    if found.train_hours is not None and found.eval_hours is not None:
        parts.append(f"{number(found.train_hours)} h training + {number(found.eval_hours)} h evaluating")
    parts.append(f"peak learning rate {plan.peak_lr:g} after {plan.warmup_steps:,} steps")
    rate = found.images_per_second
    text = describe_input(
        plan,
        replica_rate=rate / target.replicas if rate else None,
        replicas_per_host=target.replicas // target.hosts,
    )
    return "; ".join(parts) + (f"\ninput: {text}" if text else "")


def _price(found: Estimate) -> str:
    chip, hours = found.target.chip, found.hours
    if hours is None:
        return f"{DASH} without a time"
    text = f"{number(hours * found.target.replicas)} {chip.replica}-hours"
    if chip.usd is None:
        return f"{text}; no price is known ({chip.sources.get('usd', 'this machine')})"
    text += f"; ${number(found.usd() or 0)} on demand at ${chip.usd:.2f} a chip-hour"
    if chip.usd_spot is not None:
        text += f", ${number(found.usd(spot=True) or 0)} on spot at ${chip.usd_spot:.2f}"
    return text + "; starts, compilation, checkpoints and waits for input come on top"


def _sources(chip: Chip) -> str:
    if not chip.sources:
        return DASH
    by_source: dict[str, list[str]] = {}
    names = {"clock_hz": "clock", "flops": "peak", "hbm_bytes": "memory", "hbm_bandwidth": "its bandwidth",
             "link_bandwidth": "links", "usd": "price", "usd_spot": "spot"}  # fmt: skip
    for field, name in names.items():
        if source := chip.sources.get(field):
            by_source.setdefault(source, []).append(name)
    lines = [f"{', '.join(what)}: {source}" for source, what in by_source.items()]
    figures = [f"{chip.flops / 1e12:,.0f} TFLOP/s"] if chip.flops else []
    figures += [f"{chip.hbm_bandwidth / 1e9:,.0f} GB/s"] if chip.hbm_bandwidth else []
    used = f"used here: {' and '.join(figures)} a chip"
    return "\n".join([*lines, f"{used}; {chip.also}" if chip.also else used])


def _compiled(found: Estimate) -> str:
    made = found.compilation
    count = len(made.programs)
    return f"in {made.seconds:,.0f} s; {made.from_cache} of {count} programs came from the cache {made.cache}"
