"""A model of a collective's time on a torus of chips, and the proof that its groups are connected."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from efficientnet_pod.pod.terminal import plural
from efficientnet_pod.pod.topology import Coords, Device, tile_name

Groups = Sequence[Sequence[int]]

# How often the whole of a message goes round: an all-reduce is a reduce-scatter and an all-gather.
PASSES = {"all-reduce": 2, "reduce-scatter": 1, "all-gather": 1}


@dataclass(frozen=True)
class Torus:
    """A grid of chips.

    Attributes:
      sides: chips along each axis, x first.
      wrap: whether the last chip of an axis is linked with its first.
      coords: coordinates of each device, in the order of the program's device assignment, which is
        ``mesh.devices.flat``. Devices of one chip have the same.
    """

    sides: tuple[int, ...]
    wrap: tuple[bool, ...]
    coords: tuple[Coords, ...]

    @classmethod
    def of(cls, devices: Sequence[Device], wrap: Sequence[bool]) -> "Torus":
        """Returns the torus of JAX devices that have ``coords``, moved to the origin.

        Args:
          devices: devices in the order of the program's device assignment.
          wrap: whether each axis is a ring; axes of one or two chips have no more links for it.
        """
        low = [min(axis) for axis in zip(*(d.coords for d in devices), strict=True)]
        coords = tuple(tuple(c - lo for c, lo in zip(d.coords, low, strict=True)) for d in devices)
        sides = tuple(max(axis) + 1 for axis in zip(*coords, strict=True))
        return cls(sides, tuple(wrap), coords)

    def chips(self, group: Sequence[int]) -> list[Coords]:
        """Returns the distinct chips of a group of devices, sorted."""
        return sorted({self.coords[device] for device in group})

    def neighbours(self, chip: Coords) -> set[Coords]:
        """Returns the chips linked with one."""
        neighbours = set()
        for axis, (side, wrap) in enumerate(zip(self.sides, self.wrap, strict=True)):
            for step in (-1, 1):
                place = chip[axis] + step
                if wrap or 0 <= place < side:
                    neighbours.add((*chip[:axis], place % side, *chip[axis + 1 :]))
        return neighbours - {chip}


@dataclass(frozen=True)
class _Axis:
    """How a group lies along one axis: ``count`` chips, ``gap`` links from one to the next, maybe a ring."""

    count: int
    gap: int
    ring: bool

    @property
    def links(self) -> float:
        """Links' worth of bandwidth out of a chip along this axis, to one side of a line or both of a ring.

        With ``gap`` - 1 chips between two chips of the group, as many other groups share the links.
        """
        if self.count == 1:
            return 0.0
        return (2 if self.ring else 1) / self.gap

    @property
    def reach(self) -> int:
        """Links between the two chips that are farthest apart."""
        return (self.count // 2 if self.ring else self.count - 1) * self.gap


def _axes(chips: Sequence[Coords], torus: Torus) -> list[_Axis] | None:
    """Returns how the chips lie along each axis, or None if they are not a regular lattice."""
    axes = []
    for axis, (side, wrap) in enumerate(zip(torus.sides, torus.wrap, strict=True)):
        places = sorted({chip[axis] for chip in chips})
        gaps = [b - a for a, b in zip(places, places[1:] + [places[0] + side], strict=True)]
        if len(places) == 1:
            axes.append(_Axis(1, 1, False))
        elif len(set(gaps)) == 1:
            # Two chips with a gap of one have one link, wrapped or not.
            axes.append(_Axis(len(places), gaps[0], wrap and side > 2))
        else:  # a line starts behind the widest gap, round the corner if the axis is a ring
            widest = max(range(len(gaps)), key=lambda i: gaps[i]) if wrap else len(gaps) - 1
            steps = set(gaps[:widest] + gaps[widest + 1 :])
            if len(steps) > 1:
                return None
            axes.append(_Axis(len(places), steps.pop(), False))
    return axes if math.prod(axis.count for axis in axes) == len(chips) else None


def collective_seconds(
    op: str,
    size: float,
    groups: Groups,
    torus: Torus,
    *,
    link_bandwidth: float,
    hop_seconds: float,
    chip_bandwidth: float = math.inf,
) -> float:
    """Returns the seconds of the slowest group in a collective that all groups run at once.

    The model is a ring algorithm on all links at once. With n chips in a group, each sends (n−1)/n of the
    message over all its links into the group, once for a reduce-scatter or an all-gather and twice for an
    all-reduce::

        seconds = passes · ((n−1)/n · size / (Σ links_i · link_bandwidth) + Σ reach_i · hop_seconds)

    An axis gives two links where the group closes a ring on it, else one, and none where it has one chip;
    ``reach`` is the number of links to its farthest chip. Where a group has only every g-th chip, messages
    pass g links, and g groups share each: links divide by g. The c devices of a chip first exchange
    passes·(c−1)/c of the message through its memory. A group that is no regular lattice counts one link,
    shared by as many groups as there are, and the reach of the whole torus.

    The model is optimistic: it has no software, no start-up and no barrier.

    Args:
      op: ``all-reduce``, ``reduce-scatter`` or ``all-gather``.
      size: bytes that one device puts in; for an all-gather, bytes of the result.
      groups: groups of devices, as numbers into ``torus.coords``.
      torus: coordinates of the devices.
      link_bandwidth: bytes/s of one link, one way.
      hop_seconds: latency of one link.
      chip_bandwidth: bytes/s between the devices of one chip.

    Raises:
      ValueError: the model does not cover ``op``.

    Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", JPDC
    69 (2009): no algorithm sends less than 2·(n−1)/n; Jain and Sabharwal, "Optimal bucket algorithms for
    large MPI collectives on torus interconnects", ICS 2010: all links of a torus at once.
    """
    if op not in PASSES:
        raise ValueError(f"op={op!r} has no model here; it must be one of {', '.join(PASSES)}")
    known: dict[tuple[int, int, tuple[_Axis, ...] | None], float] = {}
    for group in groups:
        chips = torus.chips(group)
        axes = _axes(chips, torus)
        key = (len(group), len(chips), tuple(axes) if axes else None)
        if key not in known:
            if axes is None:
                links, reach = 1 / len(groups), sum(side - 1 for side in torus.sides)
            else:
                links, reach = sum(axis.links for axis in axes), sum(axis.reach for axis in axes)
            cores = max(1, len(group) // len(chips))
            seconds = (cores - 1) / cores * size / chip_bandwidth
            if len(chips) > 1:
                share = (len(chips) - 1) / len(chips)
                seconds += share * size / (links * link_bandwidth) + reach * hop_seconds
            known[key] = PASSES[op] * seconds
    return max(known.values(), default=0.0)


def connected(group: Sequence[int], torus: Torus) -> bool:
    """Returns whether links between chips of a group alone connect all of them."""
    chips = set(torus.chips(group))
    seen: set[Coords] = set()
    waiting = [next(iter(chips))] if chips else []
    while waiting:
        chip = waiting.pop()
        if chip not in seen:
            seen.add(chip)
            waiting += [other for other in torus.neighbours(chip) if other in chips]
    return seen == chips


def tile_sides(group: Sequence[int], torus: Torus) -> tuple[int, ...] | None:
    """Returns the sides in chips, x first, of the box that a group fills, or None if it fills none.

    On an axis that wraps, a box may lie across the end.
    """
    axes = _axes(torus.chips(group), torus)
    if axes is None or any(axis.count > 1 and axis.gap > 1 for axis in axes):
        return None
    return tuple(axis.count for axis in axes)


def describe_groups(groups: Groups, torus: Torus) -> str:
    """Returns one line that says whether all groups are connected tiles, or which group is not.

    An example is ``64 groups of 16 replicas: each a connected tile of 2x4 chips``.
    """
    sizes = sorted({len(group) for group in groups})
    smallest = f"{sizes[0]:,} to " if len(sizes) > 1 else ""
    who = f"{plural(len(groups), 'group')} of {smallest}{plural(sizes[-1], 'replica')}"
    apart = [i for i, group in enumerate(groups) if not connected(group, torus)]
    if apart:
        chips = torus.chips(groups[apart[0]])[:4]
        first = ", ".join(str(chip if any(chip[2:]) else chip[:2]) for chip in chips)
        number = "one is" if len(apart) == 1 else f"{len(apart):,} are"
        return f"{who}: {number} not connected, first group {apart[0]} with chips {first} …"
    tiles = Counter(tile_sides(group, torus) for group in groups)
    if set(tiles) == {(1,) * len(torus.sides)}:
        return f"{who}: {'each ' if len(groups) > 1 else ''}on one chip"
    if None in tiles:
        return f"{who}: each connected, {tiles[None]:,} of them no tile"
    names = [tile_name(tile) for tile, _ in tiles.most_common() if tile is not None]
    each = "each a" if len(groups) > 1 else "a"
    return f"{who}: {each} connected tile of {' or '.join(names)} chips"
