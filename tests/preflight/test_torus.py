"""Time of a collective and connectedness of its groups on tori, against values by hand and numpy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from efficientnet_pod.pod.topology import bn_device_order
from efficientnet_pod.preflight.torus import (
    Torus,
    collective_seconds,
    connected,
    describe_groups,
    tile_sides,
)

GB = 1e9
LINK, HOP = 100 * GB, 1e-6


@dataclass(frozen=True)
class Tpu:
    id: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    process_index: int = 0


def chips(width: int, height: int, depth: int = 1, *, cores: int = 1) -> list[Tpu]:
    places = np.ndindex(depth, height, width, cores)
    return [Tpu(i, (x, y, z), core) for i, (z, y, x, core) in enumerate(places)]


def torus(width: int, height: int, depth: int = 1, *, cores: int = 1, wrap: bool = True) -> Torus:
    return Torus.of(chips(width, height, depth, cores=cores), (wrap,) * 3)


def seconds(size: float, groups: Sequence[Sequence[int]], on: Torus, **options) -> float:
    return collective_seconds("all-reduce", size, groups, on, link_bandwidth=LINK, hop_seconds=HOP, **options)


def test_a_ring_sends_all_but_an_nth_twice_over_two_links():
    """1 GB on 16 chips: 2 · 15/16 / (2 · 100) s, and twice 8 hops to the farthest."""
    assert seconds(GB, [range(16)], torus(16, 1)) == pytest.approx(2 * 15 / 16 / 200 + 2 * 8e-6)


def test_a_line_has_one_link_and_a_longer_way():
    assert seconds(GB, [range(16)], torus(16, 1, wrap=False)) == pytest.approx(2 * 15 / 16 / 100 + 2 * 15e-6)


def test_two_chips_have_one_link_wrapped_or_not():
    for wrap in (True, False):
        assert seconds(GB, [range(2)], torus(2, 1, wrap=wrap)) == pytest.approx(2 * 1 / 2 / 100 + 2 * 1e-6)


def test_a_whole_torus_uses_all_its_links():
    """v3-1024 without its cores: 16 x 32 chips, four links each; the farthest is 8 + 16 hops away."""
    pod = torus(16, 32)
    assert seconds(GB, [range(512)], pod) == pytest.approx(2 * 511 / 512 / 400 + 2 * 24e-6)
    cube = torus(4, 4, 4)
    assert seconds(GB, [range(64)], cube) == pytest.approx(2 * 63 / 64 / 600 + 2 * 6e-6)


def test_a_tile_has_as_many_links_as_its_corners():
    """2 x 4 chips in a torus of 8 x 8: two links at a corner, 1 + 3 hops to the opposite one."""
    groups = [[y * 8 + x for y in (0, 1) for x in (4, 5, 6, 7)]]
    assert seconds(GB, groups, torus(8, 8)) == pytest.approx(2 * 7 / 8 / 200 + 2 * 4e-6)


def test_a_row_that_closes_a_ring_beats_one_that_does_not():
    groups = [list(range(row * 8, row * 8 + 8)) for row in range(8)]
    assert seconds(GB, groups, torus(8, 8)) == pytest.approx(2 * 7 / 8 / 200 + 2 * 4e-6)
    assert seconds(GB, groups, torus(8, 8, wrap=False)) == pytest.approx(2 * 7 / 8 / 100 + 2 * 7e-6)


def test_every_fourth_chip_shares_its_links_with_three_other_groups():
    """Groups across tiles of 4 x 1 on a ring of 16: 2 / 4 links, twice two steps of four hops."""
    groups = [[first + 4 * i for i in range(4)] for first in range(4)]
    assert seconds(GB, groups, torus(16, 1)) == pytest.approx(2 * 3 / 4 / 50 + 2 * 8e-6)


def test_cores_of_a_chip_reduce_through_its_memory_first():
    """Two cores: half of it twice at 400 GB/s; then as without them."""
    on = torus(4, 4, cores=2)
    alone = seconds(GB, [range(32)], on)
    assert alone == pytest.approx(2 * 15 / 16 / 400 + 2 * 4e-6)
    assert seconds(GB, [range(32)], on, chip_bandwidth=400 * GB) == pytest.approx(alone + 2 * 0.5 / 400)
    assert seconds(GB, [(0, 1)], on, chip_bandwidth=400 * GB) == pytest.approx(2 * 0.5 / 400)
    assert seconds(GB, [(0, 1)], on) == 0.0


def test_the_slowest_group_counts():
    on = torus(8, 8)
    near, far = [0, 1], [0, 4]
    assert seconds(GB, [near, far], on) == max(seconds(GB, [near], on), seconds(GB, [far], on))


def test_a_group_that_is_no_lattice_is_dearer_than_any_that_is():
    on = torus(8, 8, wrap=False)
    scattered = [[0, 3, 17, 62]]
    assert seconds(GB, scattered, on) == pytest.approx(2 * 3 / 4 / 100 + 2 * 14e-6)
    assert seconds(GB, scattered * 4, on) == pytest.approx(2 * 3 / 4 / 25 + 2 * 14e-6)


def test_halves_of_an_all_reduce_take_half():
    on, groups = torus(4, 4), [range(16)]
    for op in ("reduce-scatter", "all-gather"):
        half = collective_seconds(op, GB, groups, on, link_bandwidth=LINK, hop_seconds=HOP)
        assert 2 * half == pytest.approx(seconds(GB, groups, on))
    with pytest.raises(ValueError, match="op='all-to-all' has no model"):
        collective_seconds("all-to-all", GB, groups, on, link_bandwidth=LINK, hop_seconds=HOP)


def simulated_ring(chips: int, size: float) -> float:
    """Returns the seconds that links are busy while a ring all-reduce is played, both ways at once."""
    values = np.arange(chips)[:, None] + np.zeros((chips, 2 * chips))
    busiest = 0.0
    for half, step in ((slice(0, chips), 1), (slice(chips, 2 * chips), -1)):
        part, sent = values[:, half].copy(), np.zeros(chips)
        for phase in ("reduce", "gather"):
            for turn in range(chips - 1):
                before = part.copy()
                for chip in range(chips):
                    chunk = (chip - step * (turn - (phase == "gather"))) % chips
                    target = (chip + step) % chips
                    received = before[chip, chunk]
                    part[target, chunk] = received + (before[target, chunk] if phase == "reduce" else 0)
                    sent[chip] += size / (2 * chips)
        assert np.all(part == np.arange(chips).sum())  # it is an all-reduce
        busiest = max(busiest, sent.max() / LINK)
    return busiest


@pytest.mark.parametrize("length", [3, 4, 8, 16])
def test_a_ring_algorithm_played_out_takes_what_the_formula_says(length):
    without_latency = collective_seconds(
        "all-reduce", GB, [range(length)], torus(length, 1), link_bandwidth=LINK, hop_seconds=0.0
    )
    assert simulated_ring(length, GB) == pytest.approx(without_latency)


# --- groups ----------------------------------------------------------------------------------------------


def test_a_tile_is_connected_and_a_diagonal_is_not():
    on = torus(4, 4)
    assert connected([0, 1, 4, 5], on)
    assert not connected([0, 5], on)
    assert not connected([0, 2], on)
    assert connected([7], on)


def test_connected_may_go_round_the_corner_only_where_the_axis_wraps():
    around = [0, 3, 12, 15]  # the four corners of 4 x 4
    assert connected(around, torus(4, 4)) and tile_sides(around, torus(4, 4)) == (2, 2, 1)
    assert not connected(around, torus(4, 4, wrap=False))
    assert tile_sides(around, torus(4, 4, wrap=False)) is None


def test_cores_of_one_chip_are_one_place():
    on = torus(4, 4, cores=2)
    assert connected([6, 7], on) and tile_sides([6, 7], on) == (1, 1, 1)
    assert connected([0, 1, 8, 9], on) and tile_sides([0, 1, 8, 9], on) == (1, 2, 1)


def test_a_slice_elsewhere_is_moved_to_the_origin():
    devices = [Tpu(i, (x + 4, y + 8, 0)) for i, (y, x) in enumerate(np.ndindex(2, 2))]
    on = Torus.of(devices, (False, False, False))
    assert on.sides == (2, 2, 1) and on.coords[0] == (0, 0, 0) and connected(range(4), on)


@pytest.mark.parametrize("group_size, tile", [(8, "2x2"), (16, "2x4"), (32, "4x4"), (64, "4x8")])
def test_groups_of_a_v3_pod_are_connected_tiles(group_size, tile):
    """Places in the mesh, as the program numbers them: the order is that of `pod/topology.py`."""
    order = bn_device_order(chips(32, 16, cores=2), group_size)
    groups = np.arange(1024).reshape(-1, group_size).tolist()
    line = describe_groups(groups, Torus.of(order, (False, True, False)))
    assert (
        line == f"{1024 // group_size} groups of {group_size} replicas: each a connected tile of {tile} chips"
    )


def test_what_is_not_connected_is_named():
    on = torus(4, 4, wrap=False)
    assert describe_groups([[0, 1], [4, 6], [8, 9]], on) == (
        "3 groups of 2 replicas: one is not connected, first group 1 with chips (0, 1), (2, 1) …"
    )
    assert describe_groups([[0, 5], [4, 6]], on).startswith("2 groups of 2 replicas: 2 are not connected")


def test_other_groups_are_described():
    on = torus(4, 4, cores=2, wrap=False)
    assert describe_groups([[0, 1], [2, 3]], on) == "2 groups of 2 replicas: each on one chip"
    assert describe_groups([list(range(32))], on) == "1 group of 32 replicas: a connected tile of 4x4 chips"
    corner = [[0, 2, 8]]
    assert describe_groups(corner, on) == "1 group of 3 replicas: each connected, 1 of them no tile"
    mixed = [[0, 2], [4, 12]]
    assert describe_groups(mixed, on) == "2 groups of 2 replicas: each a connected tile of 1x2 or 2x1 chips"
    cube = torus(2, 2, 4)
    assert describe_groups([range(8), range(8, 16)], cube).endswith("a connected tile of 2x2x2 chips")
