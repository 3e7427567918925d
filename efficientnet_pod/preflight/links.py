"""The time of a collective: on the torus of a TPU, in a ring of GPUs, or unknown."""

from collections.abc import Sequence

from efficientnet_pod.pod.chips import Chip
from efficientnet_pod.pod.topology import Device
from efficientnet_pod.preflight.program.collectives import Collective
from efficientnet_pod.preflight.torus import PASSES, Torus, collective_seconds

# Orders of magnitude, not published; they decide the time of batch norm's small sums.
_HOP_SECONDS = 1e-6  # from a TPU to its neighbour
_LAUNCH_SECONDS = 10e-6  # of a collective kernel on GPUs


def torus_of(devices: Sequence[Device], chip: Chip) -> Torus | None:
    """Returns the torus of a program's devices, given in its order; None where the chips form none.

    In two dimensions a side is a ring only if it is as long as the pod; in the switched tori of three
    dimensions, if it is a multiple of four. Source: Cloud TPU documentation of each generation.
    """
    if chip.platform != "tpu":
        return None
    sides = [len({device.coords[axis] for device in devices}) for axis in range(3)]
    if chip.dimensions == 3:
        return Torus.of(devices, [side % 4 == 0 for side in sides])
    pod = round(chip.most_chips**0.5)
    return Torus.of(devices, [side == pod for side in sides])


def link_seconds(collective: Collective, torus: Torus | None, chip: Chip) -> float | None:
    """Returns the seconds of all calls of a collective; None where no model covers it."""
    if collective.op not in PASSES or not chip.link_bandwidth:
        return None
    if torus is None:
        # A ring: (n - 1) / n of the bytes leave each GPU at every pass. Source: NCCL tests, bus bandwidth.
        n = collective.group_size
        moved = PASSES[collective.op] * (n - 1) / n * collective.bytes
        return collective.count * (_LAUNCH_SECONDS + moved / chip.link_bandwidth)
    return collective.count * collective_seconds(
        collective.op,
        collective.bytes,
        collective.groups,
        torus,
        link_bandwidth=chip.link_bandwidth,
        hop_seconds=_HOP_SECONDS,
        chip_bandwidth=chip.hbm_bandwidth or float("inf"),
    )


def describe_links(chip: Chip) -> str:
    """Returns one line on the model behind the times of collectives."""
    bandwidth = f"{(chip.link_bandwidth or 0) / 1e9:,.0f} GB/s"
    if chip.platform == "tpu":
        hop = f"{_HOP_SECONDS * 1e6:g} µs a hop"
        return f"model: rings on all links of the torus, {bandwidth} a link and way, {hop}"
    if chip.platform == "gpu":
        return f"model: a ring, {bandwidth} out of each GPU, {_LAUNCH_SECONDS * 1e6:g} µs a call"
    return "no model of the links between virtual devices"
