"""Owns the time of a collective: on the torus of a TPU, in a ring of GPUs, or unknown."""

from collections.abc import Sequence
from typing import Any

from efficientnet_pod.pod.chips import Chip
from efficientnet_pod.preflight.program.collectives import Collective
from efficientnet_pod.preflight.torus import PASSES, Torus, collective_seconds, describe_groups

# Orders of magnitude, which decide the time of batch norm's small sums: nobody publishes them.
_HOP_SECONDS = 1e-6  # from a TPU to its neighbour
_LAUNCH_SECONDS = 10e-6  # of a collective kernel on GPUs


def torus_of(devices: Sequence[Any], chip: Chip) -> Torus | None:
    """Returns the torus that the devices of a program, in its order, span; None of what is none.

    A side is a ring only where a slice is as long as the pod, or, of the switched tori of three
    dimensions, a multiple of four. Source: Cloud TPU documentation of each generation.
    """
    if chip.platform != "tpu":
        return None
    sides = [len({device.coords[axis] for device in devices}) for axis in range(3)]
    if chip.dimensions == 3:
        return Torus.of(devices, [side % 4 == 0 for side in sides])
    pod = round(chip.most_chips**0.5)
    return Torus.of(devices, [side == pod for side in sides])


def seconds_of(each: Collective, torus: Torus | None, chip: Chip) -> float | None:
    """Returns the seconds of all calls of a collective; None where there is no model of it."""
    if each.op not in PASSES or not chip.link_bandwidth:
        return None
    if torus is None:
        # A ring: (n - 1) / n of the bytes leave each GPU at every pass. Source: NCCL tests, bus bandwidth.
        moved = PASSES[each.op] * (each.group_size - 1) / each.group_size * each.bytes
        return each.count * (_LAUNCH_SECONDS + moved / chip.link_bandwidth)
    return each.count * collective_seconds(
        each.op,
        each.bytes,
        each.groups,
        torus,
        link_bandwidth=chip.link_bandwidth,
        hop_seconds=_HOP_SECONDS,
        chip_bandwidth=chip.hbm_bandwidth or float("inf"),
    )


def describe(each: Collective, torus: Torus | None) -> str:
    """Returns how a collective's groups lie on the torus and whether they are connected; "" off a torus."""
    return describe_groups(each.groups, torus) if torus else ""


def about(chip: Chip) -> str:
    """Returns what the times of collectives rest on, for a person."""
    bandwidth = f"{(chip.link_bandwidth or 0) / 1e9:,.0f} GB/s"
    if chip.platform == "tpu":
        hop = f"{_HOP_SECONDS * 1e6:g} µs a hop"
        return f"model: rings on all links of the torus, {bandwidth} a link and way, {hop}"
    if chip.platform == "gpu":
        return f"model: a ring, {bandwidth} out of each GPU, {_LAUNCH_SECONDS * 1e6:g} µs a call"
    return "no model of the links between virtual devices"
