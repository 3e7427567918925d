"""Charts of places: trust ratios by part of the network and time, BN groups on the torus."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from efficientnet_pod.report.drawing.axes import Scale, draw_x_axis
from efficientnet_pod.report.drawing.svg import GROUPS, HEAT, Drawing, colour, rectangles
from efficientnet_pod.workdir.mesh import BNGroups

_WIDTH = 460
_LEFT, _RIGHT, _TOP = 84, 446, 6
_ROW_HEIGHT = 20
_MOST_COLUMNS = 80
_REPLICAS_IN_A_ROW = 32


def heat_map(
    names: Sequence[str], steps: Sequence[int], values: np.ndarray, *, title: str
) -> tuple[Markup, list[float]] | None:
    """Returns values by row and time in nine shades of equal factors, and the ten bounds of the shades.

    Returns None if no value is above 0.

    Args:
      names: names of the rows, from the top.
      steps: steps of the columns, ascending.
      values: (rows, columns); NaN stays blank, a value not above 0 has the first shade.
      title: text that is read out instead of the map.
    """
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return None
    low, high = float(positive.min()), float(positive.max())
    bounds = np.geomspace(low, high if high > low else low * 2, len(HEAT) + 1)
    kept = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _MOST_COLUMNS)).round().astype(int))
    levels = np.where(np.isfinite(values[:, kept]), np.digitize(values[:, kept], bounds[1:-1]), -1)
    edges = _edges([steps[column] for column in kept])
    x_scale = Scale((edges[0], edges[-1]), (_LEFT, _RIGHT))
    places = [x_scale(edge) for edge in edges]
    bottom = _TOP + len(names) * _ROW_HEIGHT
    drawing = Drawing(_WIDTH, bottom + 42)
    for level, shade in enumerate(HEAT):
        # Each shade also lies below all darker ones, so that no paper shows between them.
        boxes = [
            (places[first], _TOP + row * _ROW_HEIGHT, places[end] - places[first], _ROW_HEIGHT)
            for row in range(len(names))
            for first, end in _stretches(levels[row] >= level)
        ]
        if boxes:
            drawing.path(rectangles(boxes), fill=colour(shade), shape_rendering="crispEdges")
    for row, name in enumerate(names):
        drawing.text(_LEFT - 6, _TOP + (row + 0.5) * _ROW_HEIGHT, name[:12], anchor="end")
    draw_x_axis(drawing, x_scale, x_scale.ticks(5, least_step=1), bottom=bottom, label="step")
    return drawing.svg(title), bounds.tolist()


def _edges(steps: Sequence[int]) -> list[float]:
    """Returns the bounds of columns: each reaches from the column before to its own step."""
    first = steps[0] - (steps[1] - steps[0] if len(steps) > 1 else 1)
    return [min(max(first, 0), steps[0] - 1), *steps]


def _stretches(mask: np.ndarray) -> list[tuple[int, int]]:
    """Returns (first, end) of each stretch of neighbours that are True."""
    changes = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(int), [0]))))
    return list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))


@dataclass(frozen=True)
class Cell:
    """A chip, or the part of a chip that is in one group, as a rectangle on the map; the unit is a chip."""

    group: int
    x: float
    y: float
    width: float


@dataclass(frozen=True)
class MeshLayout:
    """Where the devices of a mesh are drawn.

    Attributes:
      cells: rectangles of all chips.
      width, height: size of the map in chips.
      num_groups: number of groups.
      on_torus: whether the devices have coordinates.
      depths: number of layers of a 3-D torus, which are drawn side by side.
    """

    cells: tuple[Cell, ...]
    width: float
    height: float
    num_groups: int
    on_torus: bool
    depths: int


def lay_out(mesh: BNGroups) -> MeshLayout:
    """Returns where the devices of a mesh are drawn: on the torus, in rows if one has no coordinates."""
    devices = [(number, device) for number, group in enumerate(mesh.groups) for device in group]
    places = [device.coords for _, device in devices]
    known = [place for place in places if place is not None]
    if len(known) < len(places):
        width = min(len(devices), _REPLICAS_IN_A_ROW)
        cells = [Cell(group, n % width, n // width, 1) for n, (group, _) in enumerate(devices)]
        return MeshLayout(tuple(cells), width, -(-len(cells) // width), len(mesh.groups), False, 1)
    lowest = [min(place[axis] for place in known) for axis in range(3)]
    size = [max(place[axis] for place in known) - lowest[axis] + 1 for axis in range(3)]
    wide, high = (0, 1) if size[0] >= size[1] or size[2] > 1 else (1, 0)
    chips: dict[tuple[int, int, int], set[int]] = {}  # groups of its cores by chip
    for (group, _), place in zip(devices, known, strict=True):
        chips.setdefault(place, set()).add(group)
    cells = []
    for place, groups in chips.items():
        x, y, z = place[wide] - lowest[wide], place[high] - lowest[high], place[2] - lowest[2]
        cells += [
            Cell(group, x + z * (size[wide] + 0.6) + index / len(groups), y, 1 / len(groups))
            for index, group in enumerate(sorted(groups))
        ]
    width = size[wide] * size[2] + 0.6 * (size[2] - 1)
    return MeshLayout(tuple(cells), width, size[high], len(mesh.groups), True, size[2])


def group_map(layout: MeshLayout, *, title: str) -> Markup:
    """Returns the devices as squares, in colours that tell a group from its neighbours, with its number."""
    side, edge = min(30.0, 936 / layout.width), 2
    drawing = Drawing(layout.width * side + 2 * edge, layout.height * side + 2 * edge)
    colours = group_colours(layout)
    by_colour: dict[int, list[tuple[float, float, float, float]]] = {}
    by_group: dict[int, list[Cell]] = {}
    for cell in layout.cells:
        box = (edge + cell.x * side, edge + cell.y * side, cell.width * side, side)
        by_colour.setdefault(colours[cell.group], []).append(box)
        by_group.setdefault(cell.group, []).append(cell)
    for index, boxes in sorted(by_colour.items()):
        drawing.path(rectangles(boxes), fill=colour(GROUPS[index]), stroke=colour("paper"))
    for group, cells in by_group.items():
        left, right = min(cell.x for cell in cells), max(cell.x + cell.width for cell in cells)
        top, bottom = min(cell.y for cell in cells), max(cell.y + 1 for cell in cells)
        number = str(group)
        fits = (right - left) * side >= 8 * len(number) + 4 and (bottom - top) * side >= 13
        is_rectangle = len(cells) * cells[0].width >= 0.9 * (right - left) * (bottom - top)
        if fits and is_rectangle:
            x, y = edge + side * (left + right) / 2, edge + side * (top + bottom) / 2
            drawing.text(x, y, number, ink="ink")
    return drawing.svg(title)


def group_colours(layout: MeshLayout) -> list[int]:
    """Returns a colour for each group, by number; as long as six suffice, neighbours have different ones."""
    cell_at = {(cell.x, cell.y): cell for cell in layout.cells}
    neighbours: list[set[int]] = [set() for _ in range(layout.num_groups)]
    for cell in layout.cells:
        for dx, dy in ((cell.width, 0), (0, 1)):
            other = cell_at.get((cell.x + dx, cell.y + dy))
            if other and other.group != cell.group:
                neighbours[cell.group].add(other.group)
                neighbours[other.group].add(cell.group)
    colours: list[int] = []
    for group, others in enumerate(neighbours):
        taken = {colours[other] for other in others if other < group}
        # In turn, so that far groups differ, too.
        in_turn = [(group + n) % len(GROUPS) for n in range(len(GROUPS))]
        colours.append(next((index for index in in_turn if index not in taken), in_turn[0]))
    return colours
