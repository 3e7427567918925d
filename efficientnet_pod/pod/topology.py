"""Owns the order of the devices: which replicas normalise together, given where they sit on the torus."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from efficientnet_pod.errors import UserError

# A device is any object with `id` and `process_index`; on a TPU also `coords` (x, y, z) and `core_on_chip`.
Device = Any
Chip = tuple[int, int, int]


def check_bn_group_size(bn_group_size: int, replicas: int) -> None:
    """Returns if BN groups of this many replicas partition all replicas, else raises `UserError`."""
    if bn_group_size > 0 and replicas % bn_group_size == 0:
        return
    divisors = _divisors(replicas)
    nearest = [n for n in divisors if n < bn_group_size][-1:] + [n for n in divisors if n > bn_group_size][:1]
    raise UserError(
        f"BN group size {bn_group_size} does not divide the {replicas} replicas; "
        f"nearest that {'do' if len(nearest) > 1 else 'does'}: {' and '.join(map(str, nearest))}"
    )


def bn_device_order(devices: Sequence[Device], bn_group_size: int) -> list[Device]:
    """Returns the devices in an order whose consecutive runs of `bn_group_size` are the BN groups.

    On a TPU each group is a compact rectangle of chips, so that its all-reduce stays on short links:

        16 replicas of a v3 (two cores to a chip), 8 x 8 chips, the first four groups:

            a a a a b b b b
            a a a a b b b b
            c c c c d d d d
            c c c c d d d d

    Its sides divide those of the grid and have the least sum; of equals it is the one longer in x. These are
    the MLPerf tiles, in replicas of a v3: 8 -> 2x2, 16 -> 2x4, 32 -> 4x4, 64 -> 4x8 chips. A box with three
    sides is taken only where no rectangle divides a 3-D torus. JAX lists devices host by host, and a host of
    a v3 holds 2x2 chips: there, tiles of up to 16 replicas are contiguous runs of `jax.devices()` all the
    same, while longer runs would be strips two chips high.

    The order is contiguous in (process, id) where devices have no coordinates (CPU, GPU), do not fill one
    grid, or a group would split a chip unevenly. Inside a tile the order is row-major, the cores of a chip
    side by side. It depends on nothing but the devices, hence is the same on every host.

    Raises `UserError` if the group size does not divide the number of devices.

    Source: MLPerf v0.7 ResNet-50 in TensorFlow, `image_util.tile_group_assignment` (tile sizes). That
    arXiv 2011.00071 tiles above 16 replicas is recalled, not read there.
    """
    check_bn_group_size(bn_group_size, len(devices))
    layout = _lay_tiles(devices, bn_group_size)
    if isinstance(layout, str):
        return sorted(devices, key=lambda d: (d.process_index, d.id))
    width, height, depth = layout.tile

    def tile_then_place(device: Device) -> tuple[int, ...]:
        x, y, z = (at - low for at, low in zip(device.coords, layout.origin, strict=True))
        return (z // depth, y // height, x // width, z, y, x, device.core_on_chip)

    return sorted(devices, key=tile_then_place)


def describe_bn_groups(devices: Sequence[Device], bn_group_size: int) -> str:
    """Returns one line for the printed plan, such as ``64 groups of 16 replicas, tiles of 2x4 chips``.

    Tiles read rows x columns (y by x), with z in front for a box. Where the order fell back to contiguous,
    the line ends with the reason. Raises `UserError` if the group size does not divide the number of devices.
    """
    check_bn_group_size(bn_group_size, len(devices))
    layout = _lay_tiles(devices, bn_group_size)
    if isinstance(layout, str):
        place = f"contiguous ({layout})"
    elif layout.tile == (1, 1, 1):
        place = "each on one chip"
    else:
        width, height, depth = layout.tile
        sides = [height, width] if depth == 1 else [depth, height, width]
        place = f"tiles of {'x'.join(map(str, sides))} chips"
    return f"{_count(len(devices) // bn_group_size, 'group')} of {_count(bn_group_size, 'replica')}, {place}"


@dataclass(frozen=True)
class _Layout:
    """A grid of chips that starts at `origin`, cut into tiles; all in (x, y, z)."""

    origin: Chip
    tile: Chip


def _lay_tiles(devices: Sequence[Device], bn_group_size: int) -> _Layout | str:
    """Returns the tiles of BN groups on the devices' grid, or the reason why there are none."""
    # GPUs of a topology that is not here have coordinates, all the same, and no cores.
    if any(getattr(d, name, None) is None for d in devices for name in ("coords", "core_on_chip")):
        return "devices have no coordinates"
    xs, ys, zs = ({device.coords[axis] for device in devices} for axis in range(3))
    origin = (min(xs), min(ys), min(zs))
    grid = (max(xs) - min(xs) + 1, max(ys) - min(ys) + 1, max(zs) - min(zs) + 1)
    cores = len({device.core_on_chip for device in devices})
    places = {(*device.coords, device.core_on_chip) for device in devices}
    if not len(places) == len(devices) == math.prod(grid) * cores:
        return "devices do not fill one grid of chips"
    if bn_group_size % cores and cores % bn_group_size:
        return f"{bn_group_size} replicas are not a whole number of {cores}-core chips"
    return _Layout(origin, _tile(grid, max(1, bn_group_size // cores)))


def _tile(grid: Chip, chips: int) -> Chip:
    """Returns the most compact tile of so many chips whose sides divide the grid's.

    There always is one if `chips` divides the grid: take as much of each side as divides what is left.
    """
    width, height, depth = grid
    tiles = [
        (x, y, z)
        for x, y, z in product(_divisors(width), _divisors(height), _divisors(depth))
        if x * y * z == chips
    ]

    def bulk(tile: Chip) -> tuple[bool, int, list[int]]:
        is_box = 1 not in tile
        return (is_box, sum(tile), [-side for side in tile])

    return min(tiles, key=bulk)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
