"""Charts of what changes during a run: curves over epochs or time, and a bar of shares."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from efficientnet_pod.report.drawing.axes import Scale, bounds, draw_x_axis, draw_y_axis
from efficientnet_pod.report.drawing.svg import Drawing, colour, dots, line, rectangles
from efficientnet_pod.report.words import thinned

_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 446, 10, 210
_MOST_POINTS = 400
_MARKED_POINTS = 40
# Values that span more than this factor may be drawn on a logarithmic scale.
_WIDE_SPAN = 15


@dataclass(frozen=True)
class Curve:
    """Points to be joined by a line.

    Attributes:
      x, y: coordinates, equally many; points with a None are left out.
      colour: name of a colour variable.
      dashed: whether the line is dashed.
      quiet: whether the line is thin, behind the others.
      marked: whether each point has a mark: for values measured there, not for means of windows.
    """

    x: Sequence[float | None]
    y: Sequence[float | None]
    colour: str
    dashed: bool = False
    quiet: bool = False
    marked: bool = False

    @property
    def points(self) -> list[tuple[float, float]]:
        """The points that are drawn."""
        return [(x, y) for x, y in zip(self.x, self.y, strict=True) if x is not None and y is not None]


@dataclass(frozen=True)
class Band:
    """An area between two curves over the same x, with gaps where one is NaN."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: str


def curves(
    drawn: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    bands: Sequence[Band] = (),
    log_if_wide: bool = False,
    percent: bool = False,
    from_zero: bool = False,
) -> Markup | None:
    """Returns curves as SVG, None if none has a point.

    Args:
      drawn: curves in the order of drawing.
      title: text that is read out instead of the chart.
      x_label: name of the horizontal axis, with its unit.
      bands: areas behind the curves.
      log_if_wide: use a logarithmic vertical axis where the values span a wide range.
      percent: show y, which are rates, in percent.
      from_zero: begin the vertical axis at 0.
    """
    points = [point for curve in drawn for point in curve.points]
    if not points:
        return None
    values = [y for _, y in points]
    values += [y for band in bands for y in (*band.low, *band.high) if math.isfinite(y)]
    is_log = log_if_wide and min(values) > 0 and max(values) > _WIDE_SPAN * min(values)
    last = max(x for x, _ in points)
    x_scale = Scale((min(0.0, *(x for x, _ in points)), last * 1.02 if last > 0 else 1.0), (_LEFT, _RIGHT))
    low, high = bounds(values, is_log=is_log)
    if from_zero or (percent and min(values) < 0.5):
        low = min(0.0, *values)
    if percent and max(values) > 0.9:
        high = max(1.02, *values)
    y_scale = Scale((low, high), (_BOTTOM, _TOP), is_log)

    drawing = Drawing(_WIDTH, _HEIGHT)
    ticks = y_scale.log_ticks() if is_log else y_scale.ticks(6)
    y_ticks = [(tick, f"{tick * 100:.6g}" if percent else _tick_text(tick)) for tick in ticks]
    draw_y_axis(drawing, y_scale, y_ticks, left=_LEFT, right=_RIGHT)
    draw_x_axis(drawing, x_scale, x_scale.ticks(6), bottom=_BOTTOM, label=x_label)
    for band in bands:
        _draw_band(drawing, band, x_scale, y_scale)
    for curve in sorted(drawn, key=lambda curve: not curve.quiet):
        kept, _ = thinned(curve.points, _MOST_POINTS)
        _draw_curve(drawing, curve, [(x_scale(x), y_scale(y)) for x, y in kept])
    return drawing.svg(title)


def _draw_curve(drawing: Drawing, curve: Curve, places: list[tuple[float, float]]) -> None:
    stroke = colour(curve.colour)
    if len(places) > 1:
        style = {"stroke_dasharray": "8 5"} if curve.dashed else {"stroke_linecap": "round"}
        width = 1.2 if curve.quiet else 2
        drawing.path(line(places), stroke=stroke, stroke_width=width, stroke_linejoin="round", **style)
    if len(places) == 1 or (curve.marked and len(places) <= _MARKED_POINTS):
        drawing.path(dots(places), stroke=stroke, stroke_width=4.5, stroke_linecap="round")


def _draw_band(drawing: Drawing, band: Band, x_scale: Scale, y_scale: Scale) -> None:
    lower: list[tuple[float, float]] = []
    upper: list[tuple[float, float]] = []
    for x, low, high in (*zip(band.x, band.low, band.high, strict=True), (0.0, math.nan, math.nan)):
        if math.isfinite(low) and math.isfinite(high):
            lower.append((x_scale(x), y_scale(low)))
            upper.append((x_scale(x), y_scale(high)))
        elif lower:
            drawing.path(line(lower + upper[::-1]) + "z", fill=colour(band.colour), opacity=0.18)
            lower, upper = [], []


def _tick_text(value: float) -> str:
    """Returns e.g. ``20k``, ``0.05``, ``1e-05``."""
    return f"{value / 1000:,.6g}k" if abs(value) >= 10_000 else f"{value:,.4g}"


def stacked_bar(pieces: Sequence[tuple[float, str]], *, title: str) -> Markup:
    """Returns a horizontal bar, as wide as its place: from the left, shares (size, colour variable).

    The title is read out instead of the bar.
    """
    drawing = Drawing(940, 30)
    unit, x = drawing.width / (sum(size for size, _ in pieces) or 1.0), 0.0
    for size, piece in pieces:
        drawing.path(rectangles([(x, 0, size * unit, drawing.height)]), fill=colour(piece))
        x += size * unit
    return drawing.svg(title, stretched=True)
