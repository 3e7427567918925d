"""The order of the devices: which replicas normalise together, given where they sit on the torus."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import plural

# A device is any object with `id` and `process_index`; on a TPU also `coords` (x, y, z) and `core_on_chip`.
Device = Any
Coords = tuple[int, ...]


def divisors(n: int) -> list[int]:
    """Returns the divisors of a whole number above 0 in order."""
    return [divisor for divisor in range(1, n + 1) if n % divisor == 0]


def nearest_divisor(n: int, wanted: float) -> int:
    """Returns the divisor of a whole number above 0 that is nearest to a number, the lower of two."""
    return min(divisors(n), key=lambda divisor: abs(divisor - wanted))


def check_bn_group_size(bn_group_size: int, replicas: int) -> None:
    """Returns if BN groups of this many replicas partition all replicas, else raises `UserError`."""
    if bn_group_size < 1 or replicas % bn_group_size:
        raise UserError(
            f"config.bn_group_size={bn_group_size} does not divide the {plural(replicas, 'replica')}; the "
            f"nearest that does: --config.bn_group_size={nearest_divisor(replicas, bn_group_size)}"
        )


def bn_device_order(devices: Sequence[Device], bn_group_size: int) -> list[Device]:
    """Returns the devices in an order whose consecutive runs of `bn_group_size` are the BN groups.

    On a TPU each group is a compact rectangle of chips, so that its all-reduce stays on short links:

        16 replicas of a v3 (two cores to a chip), 8 x 8 chips, the first four groups:

            a a a a b b b b
            a a a a b b b b
            c c c c d d d d
            c c c c d d d d

    The sides of a tile divide those of the grid and have the least sum; of equal tiles the one longer in x is
    taken. These are the MLPerf tiles, in replicas of a v3: 8 -> 2x2, 16 -> 2x4, 32 -> 4x4, 64 -> 4x8 chips. A
    box with three sides is taken only where no rectangle divides a 3-D torus. JAX lists devices host by host,
    and a host of a v3 holds 2x2 chips. Tiles of up to 16 replicas of a v3 are therefore contiguous runs of
    `jax.devices()`; longer runs would be strips two chips high.

    The order is contiguous in (process, id) where devices have no coordinates (CPU, GPU), do not fill one
    grid, or a group would split a chip unevenly. Inside a tile the order is row-major, the cores of a chip
    side by side. It follows from the devices alone, so it is the same on every host.

    Raises `UserError` if the group size does not divide the number of devices.

    Source: MLPerf v0.7 ResNet-50 in TensorFlow, `image_util.tile_group_assignment` (tile sizes). That
    arXiv 2011.00071 tiles above 16 replicas is recalled, not read there.
    """
    check_bn_group_size(bn_group_size, len(devices))
    tiling = _lay_tiles(devices, bn_group_size)
    if isinstance(tiling, str):
        return sorted(devices, key=lambda d: (d.process_index, d.id))
    origin, (width, height, depth) = tiling

    def tile_then_place(device: Device) -> tuple[int, ...]:
        x, y, z = (coordinate - low for coordinate, low in zip(device.coords, origin, strict=True))
        return (z // depth, y // height, x // width, z, y, x, device.core_on_chip)

    return sorted(devices, key=tile_then_place)


def describe_bn_groups(devices: Sequence[Device], bn_group_size: int) -> str:
    """Returns one line for the printed plan, such as ``64 groups of 16 replicas, tiles of 2x4 chips``.

    Where the order is contiguous for want of tiles, the line ends with the reason. Raises `UserError` if the
    group size does not divide the number of devices.
    """
    check_bn_group_size(bn_group_size, len(devices))
    match _lay_tiles(devices, bn_group_size):
        case str(reason):
            place = f"contiguous ({reason})"
        case _, (1, 1, 1):
            place = "each on one chip"
        case _, tile:
            place = f"tiles of {tile_name(tile)} chips"
    return f"{plural(len(devices) // bn_group_size, 'group')} of {plural(bn_group_size, 'replica')}, {place}"


def tile_name(tile: Coords) -> str:
    """Returns the sides of a tile, given as (x, y, z), as rows x columns; a box has z in front."""
    return "x".join(str(side) for side in reversed(tile if tile[2] > 1 else tile[:2]))


def _lay_tiles(devices: Sequence[Device], bn_group_size: int) -> tuple[Coords, Coords] | str:
    """Returns the grid's first (x, y, z) and the sides of a BN group's tile, or why there are no tiles."""
    # Described GPUs that are not here have coordinates, but no cores.
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
    return origin, _tile(grid, max(1, bn_group_size // cores))


def _tile(grid: Coords, chips: int) -> Coords:
    """Returns the most compact tile of so many chips whose sides divide the grid's.

    There always is one if `chips` divides the grid: each side takes a factor of it.
    """
    tiles = [tile for tile in product(*map(divisors, grid)) if math.prod(tile) == chips]
    # Rectangles come before boxes, and of equal sums the longer one in x.
    return min(tiles, key=lambda tile: (1 not in tile, sum(tile), [-side for side in tile]))
