"""Owns the tables of what the programs need: memory, time, the most expensive layers, communication."""

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from efficientnet_pod.pod.chips import GIB, Chip
from efficientnet_pod.preflight.estimate import Estimate, StepEstimate
from efficientnet_pod.preflight.figures import DASH, duration, number, percent, size, table
from efficientnet_pod.preflight.links import about, describe
from efficientnet_pod.preflight.program.buffers import Buffer
from efficientnet_pod.preflight.remedy import remedy

_MOST_LAYERS, _MOST_BUFFERS = 10, 8


def memory(found: Estimate) -> RenderableType:
    """Returns what each program needs of a replica, the largest buffers, and what to do if it is too much."""
    chip = found.target.chip
    rows = table("program", "needs", "temporaries", "arguments", "outputs", "code", "beside it")
    for step in found.steps:
        said = step.compiled.said.memory
        cells = [DASH] * 4
        if said:
            cells = [
                size(b) for b in (said.temporaries, said.arguments, said.outputs - said.aliased, said.code)
            ]
        style = "" if found.has_room(step) else "bold red"
        rows.add_row(step.name, Text(size(step.hbm_bytes), style=style), *cells, size(step.waiting_bytes))
    parts: list[RenderableType] = [rows]
    if found.hbm_limit is not None:
        limit = f"{found.hbm_limit / GIB:,.2f} GiB a {chip.replica}"
        if chip.hbm_bytes:
            limit += f" of {chip.hbm_bytes / chip.devices / GIB:,.2f}: {chip.sources['hbm_usable']}"
        parts.append(
            f"limit {limit}; outputs are those that take no argument's place; beside a step wait the next "
            "batches, beside an evaluation the rest of the state too"
        )
    if found.train.program.memory:
        parts += ["", _buffers(found.train.program.memory.buffers)]
    if not found.fits:
        parts.append(Text(f"to make it fit: {remedy(found)}", style="bold"))
    return Group(*parts)


def _buffers(buffers: tuple[Buffer, ...]) -> RenderableType:
    rows = table("held at the fullest moment", "part", "direction", "array", "size", left=4)
    for buffer in buffers[:_MOST_BUFFERS]:
        names = (buffer.layer, buffer.part or buffer.kind, buffer.direction, buffer.array)
        rows.add_row(*map(escape, names), size(buffer.bytes))
    return rows


def time(found: Estimate) -> RenderableType:
    """Returns the seconds of each program, of what they are made, and what the chip could do at best."""
    chip = found.target.chip
    measured = ["measured"] if found.measured else []
    names = ("estimate", "computing", "communication", "memory floor", "FLOP floor", "optimum")
    rows = table("program", *measured, *names)
    for step in found.steps:
        seconds = found.seconds_of(step)
        cells = [duration(found.measured.get(step.name))] if measured else []
        cells += [("≥ " if step.basis == "roofline" else "") + duration(step.seconds)]
        cells += [duration(step.compute_seconds), _with_share(step.communication_seconds or None, seconds)]
        cells += [_with_share(floor, seconds) for floor in (step.hbm_seconds, step.flop_seconds)]
        rows.add_row(step.name, *cells, duration(step.optimal_seconds))
    return Group(rows, _how(found.train, chip))


def _with_share(part: float | None, whole: float | None) -> str:
    return f"{duration(part)} {percent(part, whole)}" if part is not None and whole else duration(part)


def _how(step: StepEstimate, chip: Chip) -> str:
    """Returns where the times come from, or why there are none."""
    if step.compiled.said.is_too_large:
        return "no estimate of what the compiler refuses"
    cycles = step.program.estimated_cycles
    images = step.flops and f"; {step.flops * step.replicas / step.images / 1e9:,.2f} GFLOPs an image"
    floors = (
        f"floors: bytes at {number((chip.hbm_bandwidth or 0) / 1e9)} GB/s and FLOPs at "
        f"{number((chip.flops or 0) / 1e12)} TFLOP/s a chip; optimum: the compiler's own bound{images or ''}"
    )
    match step.basis:
        case "cycles":
            mhz = number((chip.clock_hz or 0) / 1e6)
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
    if not step.program.layers or not total:
        return DASH
    rows = table("most expensive", "part", "direction", "Mcycles", "share", left=3)
    costly = sorted(step.program.layers, key=lambda layer: layer.cycles or 0, reverse=True)
    for layer in costly[:_MOST_LAYERS]:
        names = (escape(str(name)) for name in (layer.layer, layer.part, layer.direction))
        rows.add_row(*names, f"{layer.cycles / 1e6:,.2f}", percent(layer.cycles, total))
    return rows


def communication(found: Estimate) -> RenderableType:
    """Returns the collectives of the train step, those of a purpose and group size together."""
    step, chip = found.train, found.target.chip
    folded: dict[tuple[str, str, int], tuple[int, int, float]] = {}
    groups: dict[str, tuple[set[str], str]] = {}
    for each, seconds in zip(step.program.collectives, step.collective_seconds, strict=True):
        key = (each.purpose, each.op, each.group_size)
        calls, moved, spent = folded.get(key, (0, 0, 0.0))
        folded[key] = (calls + each.count, moved + each.count * each.bytes, spent + (seconds or 0.0))
        groups.setdefault(each.groups_text, (set(), describe(each, step.torus)))[0].add(each.purpose)
    if not folded:
        return DASH if step.compiled.said.is_too_large else "none"
    rows = table("purpose", "collective", "group", "calls", "operands", "estimate", "of the step", left=2)
    whole = found.seconds_of(step)
    for (purpose, op, group), (calls, moved, spent) in sorted(folded.items(), key=lambda item: -item[1][2]):
        times = (duration(spent or None), percent(spent or None, whole))
        rows.add_row(purpose, op, f"{group:,}", f"{calls:,}", size(moved), *times)
    where = [f"{', '.join(sorted(purposes))}: {text}" for purposes, text in groups.values() if text]
    return Group(rows, *where, about(chip))
