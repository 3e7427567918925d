"""Tables of the programs: memory, time, the most expensive layers, communication."""

from rich.console import Group, RenderableType
from rich.text import Text

from efficientnet_pod.pod.chips import GIB, Chip
from efficientnet_pod.pod.terminal import NOT_KNOWN, byte_size, share, short_duration, table, three_digits
from efficientnet_pod.preflight.estimate import CPU_PROCESS, Estimate, StepEstimate
from efficientnet_pod.preflight.links import describe_links
from efficientnet_pod.preflight.program.buffers import Buffer
from efficientnet_pod.preflight.remedy import remedy
from efficientnet_pod.preflight.torus import describe_groups

_MOST_LAYERS, _MOST_BUFFERS = 10, 8


def memory(estimate: Estimate) -> RenderableType:
    """Returns the memory that each program needs, the largest buffers, and a remedy if it is too much."""
    chip = estimate.target.chip
    rows = table("program", "needs", "temporaries", "arguments", "outputs", "code", "waiting")
    for step in estimate.steps:
        totals = step.compiled.output.memory
        cells = [NOT_KNOWN] * 4
        if totals:
            new_outputs = totals.outputs - totals.aliased
            cells = [*map(byte_size, (totals.temporaries, totals.arguments, new_outputs, totals.code))]
        style = "" if estimate.has_room(step) else "bold red"
        rows.add_row(
            step.name, Text(byte_size(step.hbm_bytes), style=style), *cells, byte_size(step.waiting_bytes)
        )
    parts: list[RenderableType] = [rows]
    if estimate.hbm_limit is not None:
        limit = f"{estimate.hbm_limit / GIB:,.2f} GiB a {chip.replica}"
        if chip.hbm_bytes:
            limit += f" of {chip.hbm_bytes / chip.devices / GIB:,.2f}: {chip.sources['hbm_usable']}"
        elif chip.platform == "cpu":
            limit += f", beside {byte_size(CPU_PROCESS)} that the process takes"
        parts.append(
            f"limit {limit}; outputs are those that take no argument's place; during a step the next "
            "batches wait on the device, during an evaluation the rest of the state too"
        )
    if estimate.train.program.buffers:
        parts += ["", _buffers(estimate.train.program.buffers)]
    if not estimate.fits:
        parts.append(Text(f"to make it fit: {remedy(estimate)}", style="bold"))
    return Group(*parts)


def _buffers(buffers: tuple[Buffer, ...]) -> RenderableType:
    rows = table("held at the fullest moment", "part", "direction", "array", "size", left=4)
    for buffer in buffers[:_MOST_BUFFERS]:
        place = buffer.place
        names = (place.layer, place.part or buffer.kind, place.direction, buffer.array)
        rows.add_row(*names, byte_size(buffer.bytes))
    return rows


def time(estimate: Estimate) -> RenderableType:
    """Returns the seconds of each program, their parts, and lower bounds."""
    chip = estimate.target.chip
    measured = ["measured"] if estimate.measured else []
    names = ("estimate", "computing", "communication", "memory floor", "FLOP floor", "optimum")
    rows = table("program", *measured, *names)
    for step in estimate.steps:
        seconds = estimate.seconds_of(step)
        cells = [short_duration(estimate.measured.get(step.name))] if measured else []
        at_least = "≥ " if step.basis == "roofline" else ""
        cells += [at_least + short_duration(step.seconds), short_duration(step.compute_seconds)]
        parts = (step.communication_seconds or None, step.hbm_seconds, step.flop_seconds)
        cells += [_with_share(part, seconds) for part in parts]
        rows.add_row(step.name, *cells, short_duration(step.optimal_seconds))
    return Group(rows, _basis(estimate.train, chip))


def _with_share(part: float | None, whole: float | None) -> str:
    text = short_duration(part)
    return f"{text} {share(part, whole)}" if part is not None and whole else text


def _basis(step: StepEstimate, chip: Chip) -> str:
    """Returns one line on where the times come from, or why there are none."""
    if step.compiled.output.is_too_large:
        return "no estimate of a program that the compiler refuses"
    cycles = step.program.estimated_cycles
    images = step.flops and f"; {step.flops * step.replicas / step.images / 1e9:,.2f} GFLOPs an image"
    bandwidth, rate = three_digits((chip.hbm_bandwidth or 0) / 1e9), three_digits((chip.flops or 0) / 1e12)
    floors = (
        f"floors: bytes at {bandwidth} GB/s and FLOPs at {rate} TFLOP/s a chip; "
        f"optimum: the compiler's own bound{images or ''}"
    )
    match step.basis:
        case "cycles":
            mhz = three_digits((chip.clock_hz or 0) / 1e6)
            return f"computing: the compiler's estimate of {cycles:,} cycles, at {mhz} MHz; {floors}"
        case "roofline":
            return (
                f"the clock is {chip.sources['clock_hz']}, so cycles ({cycles or 0:,}) are no time; {floors}"
            )
    return {
        "gpu": "no estimate: XLA's GPU compiler reports neither cycles nor FLOPs; --measure runs it there",
        "cpu": "no estimate: XLA's CPU compiler reports no cycles; --measure runs it here",
        "tpu": "no estimate: the compiler reported no cycles",
    }[chip.platform]


def layers(step: StepEstimate) -> RenderableType:
    """Returns the layers of a step that take the most cycles."""
    total = step.program.estimated_cycles
    if not total:
        return NOT_KNOWN
    rows = table("most expensive", "part", "direction", "Mcycles", "share", left=3)
    for place, cycles in [*step.program.cycles.items()][:_MOST_LAYERS]:
        names = (place.layer, place.part, place.direction, f"{cycles / 1e6:,.2f}", share(cycles, total))
        rows.add_row(*names)
    return rows


def communication(estimate: Estimate) -> RenderableType:
    """Returns the collectives of the train step, one row for each purpose, operation and group size."""
    step, chip = estimate.train, estimate.target.chip
    folded: dict[tuple[str, str, int], tuple[int, int, float]] = {}
    groups: dict[tuple[tuple[int, ...], ...], tuple[set[str], str]] = {}
    for collective, seconds in zip(step.program.collectives, step.collective_seconds, strict=True):
        key = (collective.purpose, collective.op, collective.group_size)
        calls, moved, spent = folded.get(key, (0, 0, 0.0))
        moved += collective.count * collective.bytes
        folded[key] = (calls + collective.count, moved, spent + (seconds or 0.0))
        lie = describe_groups(collective.groups, step.torus) if step.torus else ""
        groups.setdefault(collective.groups, (set(), lie))[0].add(collective.purpose)
    if not folded:
        return NOT_KNOWN if step.compiled.output.is_too_large else "none"
    rows = table("purpose", "collective", "group", "calls", "operands", "estimate", "of the step", left=2)
    whole = estimate.seconds_of(step)
    for (purpose, op, group), (calls, moved, spent) in sorted(folded.items(), key=lambda item: -item[1][2]):
        times = (short_duration(spent or None), share(spent or None, whole))
        rows.add_row(purpose, op, f"{group:,}", f"{calls:,}", byte_size(moved), *times)
    where = [f"{', '.join(sorted(purposes))}: {text}" for purposes, text in groups.values() if text]
    return Group(rows, *where, describe_links(chip))
