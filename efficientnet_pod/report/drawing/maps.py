"""Owns the charts of places: trust ratios by part of the network and time, BN groups on the torus."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from efficientnet_pod.report.drawing.svg import (
    FONT_SIZE,
    GROUPS,
    HEAT,
    WIDTH,
    axes,
    blank,
    colour,
    label_x,
    rectangles,
    to_svg,
)
from efficientnet_pod.workdir.values import list_of, whole

_MOST_COLUMNS = 80
_ROW = 20  # pixels
_A_ROW_OF_REPLICAS = 32


def heat_map(
    names: Sequence[str], steps: Sequence[int], values: np.ndarray, *, name: str, title: str
) -> tuple[Markup, list[float]] | None:
    """Returns values by row and time in nine shades of equal factors, and the ten bounds of these.

    Args:
      names: of the rows, from the top.
      steps: of the columns, ascending.
      values: (rows, columns); NaN stays blank, what is not above 0 has the first shade.
      name: of the chart on its page.
      title: read out instead of it.

    Returns:
      None if no value is above 0.
    """
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return None
    low, high = float(positive.min()), float(positive.max())
    bounds = np.geomspace(low, high if high > low else low * 2, len(HEAT) + 1)
    kept = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _MOST_COLUMNS)).round().astype(int))
    edges = _edges([steps[at] for at in kept])
    figure = blank(WIDTH, len(names) * _ROW + 48)
    made = axes(figure, left=84, top=6, bottom=42)
    made.grid(visible=False)
    boxes: list[list[tuple[float, float, float, float]]] = [[] for _ in HEAT]
    for row in range(len(names)):
        levels = np.digitize(values[row, kept], bounds[1:-1])
        for level in range(len(HEAT)):
            # Each shade also lies below all darker ones, so that no paper shows between them.
            for first, end in _runs(np.isfinite(values[row, kept]) & (levels >= level)):
                boxes[level].append((edges[first], row, edges[end] - edges[first], 1))
    for level, found in enumerate(boxes):
        if found:
            patch = PathPatch(
                rectangles(found), facecolor=colour(HEAT[level]), linewidth=0, antialiased=False
            )
            made.add_patch(patch)
    made.set_xlim(edges[0], edges[-1])
    made.set_ylim(len(names), 0)
    # Names come from a file: what the font lacks is a question mark.
    texts = [each.encode("ascii", "replace").decode()[:12] for each in names]
    made.set_yticks([row + 0.5 for row in range(len(names))], texts)
    made.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    made.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    label_x(made, "step")
    return to_svg(figure, name=name, title=title), bounds.tolist()


def _edges(steps: Sequence[int]) -> list[float]:
    """Returns the bounds of columns: each reaches from the column before to its own step."""
    first = steps[0] - (steps[1] - steps[0] if len(steps) > 1 else 1)
    return [min(max(first, 0), steps[0] - 1), *steps]


def _runs(wanted: np.ndarray) -> list[tuple[int, int]]:
    """Returns (first, end) of the neighbours that are wanted."""
    steps = np.flatnonzero(np.diff(np.concatenate(([0], wanted.astype(int), [0]))))
    return list(zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True))


@dataclass(frozen=True)
class Cell:
    """A chip, or the part of it that is of one group, as a rectangle on the map."""

    group: int
    x: float
    y: float
    width: float


@dataclass(frozen=True)
class Layout:
    """Where the devices of a mesh are drawn.

    Attributes:
      cells: of all chips.
      width, height: in chips.
      members: names of the devices of each group, as in the file.
      on_torus: whether they have coordinates.
      depths: layers of a 3-D torus, which are drawn side by side.
    """

    cells: tuple[Cell, ...]
    width: float
    height: float
    members: tuple[tuple[str, ...], ...]
    on_torus: bool
    depths: int


def lay_out(mesh: dict[str, Any]) -> Layout | None:
    """Returns where the devices of ``mesh.json`` are drawn: in rows without coordinates; None if none."""
    groups = [
        [device for device in list_of(group) if isinstance(device, dict)]
        for group in list_of(mesh.get("groups"))
    ]
    devices = [(at, device) for at, group in enumerate(groups) for device in group]
    if not devices:
        return None
    places = [_coordinates(device) for _, device in devices]
    members = tuple(tuple(map(_name, group)) for group in groups)
    known = [place for place in places if place is not None]
    if len(known) < len(places):
        cells = [
            Cell(group, at % _A_ROW_OF_REPLICAS, at // _A_ROW_OF_REPLICAS, 1)
            for at, (group, _) in enumerate(devices)
        ]
        rows = -(-len(cells) // _A_ROW_OF_REPLICAS)
        return Layout(tuple(cells), min(len(cells), _A_ROW_OF_REPLICAS), rows, members, False, 1)
    lowest = [min(place[axis] for place in known) for axis in range(3)]
    size = [max(place[axis] for place in known) - lowest[axis] + 1 for axis in range(3)]
    wide, high = (0, 1) if size[0] >= size[1] or size[2] > 1 else (1, 0)
    chips: dict[tuple[int, int, int], list[int]] = {}  # groups of the cores of each
    for (group, _), place in zip(devices, known, strict=True):
        chips.setdefault(place, []).append(group)
    cells = []
    for place, cores in chips.items():
        x, y, z = place[wide] - lowest[wide], place[high] - lowest[high], place[2] - lowest[2]
        parts = sorted(set(cores))
        cells += [
            Cell(group, x + z * (size[wide] + 0.6) + at / len(parts), y, 1 / len(parts))
            for at, group in enumerate(parts)
        ]
    width = size[wide] * size[2] + 0.6 * (size[2] - 1)
    return Layout(tuple(cells), width, size[high], members, True, size[2])


def _coordinates(device: dict[str, Any]) -> tuple[int, int, int] | None:
    numbers = [whole(each) for each in list_of(device.get("coords"))]
    return tuple(numbers) if len(numbers) == 3 and None not in numbers else None  # pyright: ignore


def _name(device: dict[str, Any]) -> str:
    place, core = _coordinates(device), whole(device.get("core"))
    if place is None:
        return str(device.get("id", "?"))
    return f"({', '.join(map(str, place))})" + ("" if core is None else f":{core}")


def group_map(layout: Layout, *, name: str, title: str) -> Markup:
    """Returns the devices as squares, in colours that tell a group from its neighbours, with its number."""
    side = min(30.0, 936 / layout.width)
    figure = blank(layout.width * side + 4, layout.height * side + 4)
    made = axes(figure, left=2, right=2, top=2, bottom=2)
    made.set_axis_off()
    colours = group_colours(layout)
    by_colour: dict[int, list[tuple[float, float, float, float]]] = {}
    for cell in layout.cells:
        by_colour.setdefault(colours[cell.group], []).append((cell.x, cell.y, cell.width, 1))
    for each, boxes in sorted(by_colour.items()):
        made.add_patch(
            PathPatch(
                rectangles(boxes), facecolor=colour(GROUPS[each]), edgecolor=colour("paper"), linewidth=1
            )
        )
    _number_groups(made, layout, side)
    made.set_xlim(0, layout.width)
    made.set_ylim(layout.height, 0)
    return to_svg(figure, name=name, title=title)


def _number_groups(made: Axes, layout: Layout, side: float) -> None:
    for group in range(len(layout.members)):
        cells = [cell for cell in layout.cells if cell.group == group]
        if not cells:
            continue
        left, right = min(cell.x for cell in cells), max(cell.x + cell.width for cell in cells)
        top, bottom = min(cell.y for cell in cells), max(cell.y + 1 for cell in cells)
        text = str(group)
        fits = (right - left) * side >= 8 * len(text) + 4 and (bottom - top) * side >= 13
        inside = len(cells) * cells[0].width >= 0.9 * (right - left) * (bottom - top)  # a full rectangle
        if fits and inside:
            where = ((left + right) / 2, (top + bottom) / 2)
            made.text(*where, text, ha="center", va="center", fontsize=FONT_SIZE, color=colour("ink"))


def group_colours(layout: Layout) -> list[int]:
    """Returns a colour for each group, by number, that none of its neighbours has as long as six suffice."""
    at = {(cell.x, cell.y): cell for cell in layout.cells}
    beside: list[set[int]] = [set() for _ in layout.members]
    for cell in layout.cells:
        for dx, dy in ((cell.width, 0), (0, 1)):
            other = at.get((cell.x + dx, cell.y + dy))
            if other and other.group != cell.group:
                beside[cell.group].add(other.group)
                beside[other.group].add(cell.group)
    found: list[int] = []
    for group, others in enumerate(beside):
        taken = {found[other] for other in others if other < group}
        free = [each for each in range(len(GROUPS)) if each not in taken]
        # In turn, so that far groups differ, too.
        found.append(
            min(free, key=lambda each: (each - group) % len(GROUPS)) if free else group % len(GROUPS)
        )
    return found
