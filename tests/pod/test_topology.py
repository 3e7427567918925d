"""BN groups on fake tori: partitions, rectangles, the MLPerf tiles, and the ways back to contiguous order."""

import random
from dataclasses import dataclass, replace

import pytest
from tori import Tpu, tpu_slice

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.topology import (
    bn_device_order,
    check_bn_group_size,
    describe_bn_groups,
    divisors,
    nearest_divisor,
)


@dataclass(frozen=True)
class Cpu:
    id: int
    process_index: int


# Grid of chips (width, height) of every v3 slice by its number of cores.
V3 = {8: (2, 2), 32: (4, 4), 128: (8, 8), 512: (16, 16), 1024: (16, 32), 2048: (32, 32)}
# BN group size in v3 replicas: sides of the tile in chips (rows, columns), as MLPerf has them.
MLPERF_TILES = {8: (2, 2), 16: (2, 4), 32: (4, 4), 64: (4, 8)}

SLICES = {f"v3-{cores}": tpu_slice(*grid, cores=2) for cores, grid in V3.items()} | {
    "v4 4x4x4": tpu_slice(4, 4, 4, cores=1),
    "v4 4x4x4, two cores": tpu_slice(4, 4, 4, cores=2),
    "v4 4x4x12": tpu_slice(4, 4, 12, cores=1),
    "v5p 2x2x16": tpu_slice(2, 2, 16, cores=1),
    "v5e 4x4": tpu_slice(4, 4, cores=1),
    "v5e 8x16": tpu_slice(8, 16, cores=1),
    "v6e 16x16": tpu_slice(16, 16, cores=1),
}


def groups_of(devices: list, size: int) -> list[list]:
    order = bn_device_order(devices, size)
    return [order[start : start + size] for start in range(0, len(order), size)]


def sides(group: list[Tpu]) -> tuple[int, ...]:
    """(depth, rows, columns) of the bounding box of a group."""
    spans = [{device.coords[axis] for device in group} for axis in (2, 1, 0)]
    return tuple(max(span) - min(span) + 1 for span in spans)


def is_connected(chips: set[tuple[int, int, int]]) -> bool:
    """Whether links between neighbours, without the wrap-around, join all these chips."""
    reached, frontier = set(), [min(chips)]
    while frontier:
        x, y, z = chip = frontier.pop()
        if chip in chips and chip not in reached:
            reached.add(chip)
            frontier += [
                (x + 1, y, z),
                (x - 1, y, z),
                (x, y + 1, z),
                (x, y - 1, z),
                (x, y, z + 1),
                (x, y, z - 1),
            ]
    return reached == chips


@pytest.mark.parametrize("name", SLICES)
def test_groups_of_every_size_partition_the_slice_into_connected_rectangles(name: str):
    devices = SLICES[name]
    cores = len({d.core_on_chip for d in devices})
    flat_exists = max(len({d.coords[axis] for d in devices}) for axis in range(3))
    for size in [n for n in range(1, len(devices) + 1) if len(devices) % n == 0]:
        groups = groups_of(devices, size)
        assert sorted(d.id for group in groups for d in group) == list(range(len(devices)))
        shapes = {sides(group) for group in groups}
        assert len(shapes) == 1, (size, shapes)
        depth, rows, columns = shapes.pop()
        for group in groups:
            chips = {d.coords for d in group}
            assert is_connected(chips), size
            assert depth * rows * columns == len(chips) == max(1, size // cores), size
            # Both cores of a chip stand side by side.
            assert all(
                len({d.coords for d in group[i : i + cores]}) == 1 for i in range(0, len(group), cores)
            )
        if size // cores <= flat_exists:  # a row of chips divides the grid, so some rectangle does
            assert 1 in (depth, rows, columns), size


@pytest.mark.parametrize("slice_cores", [32, 128, 512, 1024, 2048])
@pytest.mark.parametrize("size", MLPERF_TILES)
def test_tiles_of_a_v3_are_those_of_mlperf(slice_cores: int, size: int):
    if size > slice_cores // 2:
        return
    rows, columns = MLPERF_TILES[size]
    assert {sides(group) for group in groups_of(SLICES[f"v3-{slice_cores}"], size)} == {(1, rows, columns)}


def test_first_groups_of_128_cores_are_the_published_ones():
    # Cores numbered row-major over 8x8 chips. Source: MLPerf v0.7, tile_group_assignment.
    groups = [[d.id for d in group] for group in groups_of(SLICES["v3-128"], 8)]
    assert groups[0] == [0, 1, 2, 3, 16, 17, 18, 19]
    assert groups[1] == [4, 5, 6, 7, 20, 21, 22, 23]
    assert groups[4] == [32, 33, 34, 35, 48, 49, 50, 51]


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_small_groups_of_a_v3_are_contiguous_runs_of_the_devices_too(size: int):
    devices = SLICES["v3-1024"]
    runs = {frozenset(d.id for d in devices[i : i + size]) for i in range(0, len(devices), size)}
    tiles = {frozenset(d.id for d in group) for group in groups_of(devices, size)}
    # Runs of 4 are rows of a host's 2x2 chips, and so are tiles; the sets are the same, their order is not.
    assert tiles == runs


@pytest.mark.parametrize(
    ("name", "size", "tile"),
    [
        ("v4 4x4x4", 4, (1, 2, 2)),
        ("v4 4x4x4", 8, (1, 2, 4)),  # a rectangle, though 2x2x2 would be rounder
        ("v4 4x4x4", 16, (1, 4, 4)),
        ("v4 4x4x4", 32, (2, 4, 4)),  # no rectangle of 32 chips: a box
        ("v4 4x4x4, two cores", 16, (1, 2, 4)),
        ("v4 4x4x12", 12, (3, 1, 4)),
        ("v5e 8x16", 8, (1, 2, 4)),
        ("v5e 8x16", 32, (1, 4, 8)),
        ("v6e 16x16", 64, (1, 8, 8)),
    ],
)
def test_tiles_of_other_tpus(name: str, size: int, tile: tuple[int, ...]):
    assert {sides(group) for group in groups_of(SLICES[name], size)} == {tile}


@pytest.mark.parametrize("name", ["v3-128", "v4 4x4x4, two cores", "v5e 8x16"])
def test_order_is_the_same_however_the_devices_are_listed(name: str):
    devices = SLICES[name]
    shuffled = random.Random(0).sample(devices, len(devices))
    assert bn_device_order(shuffled, 16) == bn_device_order(devices, 16)
    cpus = [Cpu(d.id, d.process_index) for d in devices]
    assert bn_device_order(cpus[::-1], 16) == bn_device_order(cpus, 16)


def test_a_grid_may_start_anywhere():
    devices = SLICES["v3-32"]
    moved = [replace(d, coords=(d.coords[0] + 3, d.coords[1] + 5, d.coords[2] + 1)) for d in devices]
    for size in (4, 8, 16):
        order = [d.id for d in bn_device_order(devices, size)]
        assert [d.id for d in bn_device_order(moved, size)] == order


def by_process_and_id(devices: list) -> list:
    return sorted(devices, key=lambda d: (d.process_index, d.id))


@pytest.mark.parametrize(
    ("devices", "size", "reason"),
    [
        ([Cpu(i, i // 4) for i in range(8)], 4, "devices have no coordinates"),
        (SLICES["v3-32"][:24], 4, "devices do not fill one grid of chips"),  # an L of chips
        (SLICES["v3-8"] + [replace(d, id=d.id + 8, process_index=1) for d in SLICES["v3-8"]], 8, "one grid"),
        ([d for d in SLICES["v3-8"] if d.id != 3] + [Tpu(9, 0, (0, 0, 0), 0)], 4, "one grid"),
        (tpu_slice(6, 2, cores=2), 3, "3 replicas are not a whole number of 2-core chips"),
    ],
    ids=["cpu", "hole", "two slices", "two in one place", "half a chip"],
)
def test_falls_back_to_contiguous_order_and_says_why(devices: list, size: int, reason: str):
    assert bn_device_order(devices[::-1], size) == by_process_and_id(devices)
    described = describe_bn_groups(devices, size)
    assert "contiguous (" in described and reason in described


@pytest.mark.parametrize(
    ("name", "size", "line"),
    [
        ("v3-1024", 16, "64 groups of 16 replicas, tiles of 2x4 chips"),
        ("v3-2048", 1, "2,048 groups of 1 replica, each on one chip"),
        ("v3-8", 8, "1 group of 8 replicas, tiles of 2x2 chips"),
        ("v4 4x4x4", 32, "2 groups of 32 replicas, tiles of 2x4x4 chips"),
        ("v4 4x4x12", 12, "16 groups of 12 replicas, tiles of 3x1x4 chips"),
    ],
)
def test_description(name: str, size: int, line: str):
    assert describe_bn_groups(SLICES[name], size) == line


def test_description_off_the_torus():
    line = "2 groups of 4 replicas, contiguous (devices have no coordinates)"
    assert describe_bn_groups([Cpu(i, 0) for i in range(8)], 4) == line


@pytest.mark.parametrize(
    ("size", "nearest"),
    [(5, 4), (7, 6), (11, 12), (25, 24), (0, 1), (-4, 1)],
)
def test_a_group_size_that_does_not_divide_is_refused(size: int, nearest: int):
    devices = [Cpu(i, 0) for i in range(24)]
    message = (
        f"^config.bn_group_size={size} does not divide the 24 replicas; the nearest that does: "
        f"--config.bn_group_size={nearest}$"
    )
    for call in (bn_device_order, describe_bn_groups):
        with pytest.raises(UserError, match=message):
            call(devices, size)
    with pytest.raises(UserError, match=message):
        check_bn_group_size(size, 24)


def test_divisors_and_the_nearest_of_them():
    assert divisors(12) == [1, 2, 3, 4, 6, 12] and divisors(1) == [1] and divisors(0) == []
    assert [nearest_divisor(12, wanted) for wanted in (0.2, 5, 5.01, 9, 100)] == [1, 4, 6, 6, 12]
