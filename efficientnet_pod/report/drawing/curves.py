"""Owns the charts of what changes during a run: curves over epochs or time, a bar of where it went."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from efficientnet_pod.report.drawing.svg import axes, blank, colour, label_x, rectangles, to_svg
from efficientnet_pod.report.values import thinned

_MOST_POINTS = 400
_MARKED_POINTS = 40
# Of a value that spans more than this factor, equal factors are equal distances.
_WIDE_SPAN = 15


@dataclass(frozen=True)
class Curve:
    """Points to be joined by a line.

    Attributes:
      x, y: equally long; points with a None are left out.
      colour: name of a colour variable.
      dashed: whether the line is.
      quiet: whether it is thin, behind the others.
      marked: whether each point has a mark: of values measured there, not of windows.
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
    """An area between two curves over the same x."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: str


def curves(
    drawn: Sequence[Curve],
    *,
    name: str,
    title: str,
    x_label: str,
    bands: Sequence[Band] = (),
    scale: str = "linear",
    percent: bool = False,
    from_zero: bool = False,
) -> Markup | None:
    """Returns curves as SVG, None if none has a point.

    Args:
      drawn: in the order of drawing.
      name: of the chart on its page.
      title: read out instead of it.
      x_label: what the horizontal axis is, with its unit.
      bands: behind the curves.
      scale: ``linear``, ``log``, or ``auto``: logarithmic where the values span a wide range.
      percent: whether y are rates, shown in percent.
      from_zero: whether the vertical axis begins at 0.
    """
    values = [y for curve in drawn for _, y in curve.points]
    if not values:
        return None
    values += [y for band in bands for y in (*band.low, *band.high) if math.isfinite(y)]
    figure = blank()
    made = axes(figure)
    for band in bands:
        made.fill_between(band.x, band.low, band.high, color=colour(band.colour), alpha=0.18, linewidth=0)
    for curve in drawn:
        _draw(made, curve)
    if scale == "auto":
        scale = "log" if min(values) > 0 and max(values) > _WIDE_SPAN * min(values) else "linear"
    _scale_y(made, values, scale=scale, percent=percent, from_zero=from_zero)
    made.set_xlim(0, max(x for curve in drawn for x, _ in curve.points) * 1.02 or 1)
    made.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    made.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.6g}"))
    label_x(made, x_label)
    return to_svg(figure, name=name, title=title)


def _draw(made: Axes, curve: Curve) -> None:
    points, _ = thinned(curve.points, _MOST_POINTS)
    if not points:
        return
    x, y = zip(*points, strict=True)
    alone = len(points) == 1  # of which no line can be drawn
    marked = alone or (curve.marked and len(points) <= _MARKED_POINTS)
    made.plot(
        x,
        y,
        color=colour(curve.colour),
        linewidth=1.2 if curve.quiet else 2,
        linestyle=(0, (4, 2.5)) if curve.dashed else "-",
        marker="o" if marked else None,
        markersize=4.5,
        markeredgewidth=0,
        solid_capstyle="round",
        solid_joinstyle="round",
        zorder=2 if curve.quiet else 3,
    )


def _scale_y(made: Axes, values: Sequence[float], *, scale: str, percent: bool, from_zero: bool) -> None:
    axis = made.yaxis
    if scale == "log":
        made.set_yscale("log")
        wide = max(values) > 500 * min(values)
        axis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5), numticks=12))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if percent:
        top, bottom = max(values), min(values)
        # Nothing is above 100 %; what begins low is shown whole.
        made.set_ylim(0 if bottom < 0.5 else None, 1.02 if top > 0.9 else None)
        axis.set_major_formatter(FuncFormatter(lambda y, _: f"{y * 100:.6g}"))
    else:
        axis.set_major_formatter(FuncFormatter(lambda y, _: _tick(y)))
    if from_zero and scale != "log":
        made.set_ylim(bottom=0)


def _tick(value: float) -> str:
    """Returns e.g. ``20k``, ``0.05``, ``1e-05``."""
    return f"{value / 1000:,.6g}k" if abs(value) >= 10_000 else f"{value:,.4g}"


def stacked_bar(pieces: Sequence[tuple[float, str]], *, name: str, title: str) -> Markup:
    """Returns a horizontal bar whose pieces are shares of its whole; it fills the room that it is given.

    Args:
      pieces: (size, colour variable) of each, from the left.
      name: of the chart on its page.
      title: read out instead of it.
    """
    figure = blank(940, 30)
    made = axes(figure, left=0, right=0, top=0, bottom=0)
    made.set_axis_off()
    whole, x = sum(size for size, _ in pieces) or 1.0, 0.0
    for size, piece in pieces:
        path = rectangles([(x, 0, size / whole, 1)])
        made.add_patch(PathPatch(path, facecolor=colour(piece), linewidth=0))
        x += size / whole
    made.set_xlim(0, 1)
    made.set_ylim(0, 1)
    return to_svg(figure, name=name, title=title, stretched=True)
