"""The time of collectives: the arithmetic of a ring, and which sides of a slice are rings."""

from types import SimpleNamespace

import pytest

from efficientnet_pod.pod.chips import CHIPS
from efficientnet_pod.preflight.links import describe_links, link_seconds, torus_of
from efficientnet_pod.preflight.program.collectives import Collective
from efficientnet_pod.preflight.torus import describe_groups


def devices(x, y, z=1, cores=1):
    grid = [(i, j, k) for k in range(z) for j in range(y) for i in range(x)]
    return [SimpleNamespace(coords=chip, core_on_chip=core) for chip in grid for core in range(cores)]


def all_reduce(size, group_size, op="all-reduce", count=1):
    groups = (tuple(range(group_size)),)
    return Collective("r", op, size, groups, count, (("gradients", size),))


@pytest.mark.parametrize(
    ("chip", "sides", "wrap"),
    [
        ("v3", (16, 32), (False, True, False)),  # a pod is 32 × 32
        ("v3", (32, 32), (True, True, False)),
        ("v3", (4, 4), (False, False, False)),
        ("v5e", (16, 16), (True, True, False)),  # a pod is 16 × 16
        ("v5e", (4, 16), (False, True, False)),
        ("v4", (4, 4, 8), (True, True, True)),
        ("v5p", (2, 2, 4), (False, False, True)),
    ],
)
def test_sides_that_are_rings(chip, sides, wrap):
    torus = torus_of(devices(*sides), CHIPS[chip])
    assert torus.wrap[: len(sides)] == wrap[: len(sides)]
    assert torus.sides[: len(sides)] == sides


def test_only_tpus_have_a_torus():
    assert torus_of(devices(2, 4), CHIPS["h100"]) is None


@pytest.mark.parametrize(("op", "passes"), [("all-reduce", 2), ("reduce-scatter", 1), ("all-gather", 1)])
def test_a_ring_of_gpus_sends_seven_eighths_of_the_bytes_at_every_pass(op, passes):
    collective = all_reduce(450_000_000, 8, op=op, count=3)
    assert link_seconds(collective, None, CHIPS["h100"]) == pytest.approx(3 * (10e-6 + passes * 7 / 8 * 1e-3))


def test_two_chips_of_a_v3_share_one_link():
    # Two chips, two cores each: half of the message twice over the link of 100 GB/s, each with 1 µs, and half
    # of it twice through the memory of a chip, 900 GB/s.
    torus = torus_of(devices(1, 2, cores=2), CHIPS["v3"])
    size = 10_000_000
    by_hand = 2 * (0.5 * size / 1e11 + 1e-6) + 2 * 0.5 * size / 900e9
    assert link_seconds(all_reduce(size, 4), torus, CHIPS["v3"]) == pytest.approx(by_hand)
    assert (
        describe_groups(all_reduce(size, 4).groups, torus)
        == "1 group of 4 replicas: a connected tile of 2x1 chips"
    )


def test_what_has_no_model_has_no_time():
    torus = torus_of(devices(2, 2), CHIPS["v5e"])
    assert link_seconds(all_reduce(8, 4, op="all-to-all"), torus, CHIPS["v5e"]) is None
    assert link_seconds(all_reduce(8, 8), None, CHIPS["cpu"]) is None
    assert "no model" in describe_links(CHIPS["cpu"])
    assert "100 GB/s a link" in describe_links(CHIPS["v3"]) and "450 GB/s out of each GPU" in describe_links(
        CHIPS["h100"]
    )
