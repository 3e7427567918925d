"""Axes of a chart: scales from values to pixels, round values at their ticks, a quiet grid."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from efficientnet_pod.report.drawing.svg import Drawing, colour


@dataclass(frozen=True)
class Scale:
    """A map from the values of an axis to pixels.

    Attributes:
      values: values at the two ends, which differ.
      pixels: places of these.
      is_log: whether equal factors are equal distances; values are above 0 then.
    """

    values: tuple[float, float]
    pixels: tuple[float, float]
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Returns the place of a value."""
        first, last, here = (math.log10(v) if self.is_log else v for v in (*self.values, value))
        return self.pixels[0] + (here - first) / (last - first) * (self.pixels[1] - self.pixels[0])

    def ticks(self, most: int, *, least_step: float = 0.0) -> list[float]:
        """Returns round values of a linear scale: multiples of 1, 2 or 5 times a power of ten.

        There are at most ``most`` steps between them, each at least ``least_step``, e.g. 1 for whole numbers.
        """
        low, high = self.values
        rough = max((high - low) / most, least_step, 1e-300)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next((power * n for n in (1, 2, 5) if power * n >= rough * (1 - 1e-9)), power * 10)
        return [step * n for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]

    def log_ticks(self) -> list[float]:
        """Returns powers of ten, and on a narrow scale also 2 and 5 times these; for a logarithmic scale."""
        low, high = self.values
        first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
        apart = max(1, math.ceil((last - first) / 12))
        factors = (1, 2, 5) if high <= 500 * low else (1,)
        ticks = [factor * 10.0**power for power in range(first, last + 1, apart) for factor in factors]
        return [tick for tick in ticks if low <= tick <= high]


def bounds(values: Sequence[float], *, is_log: bool = False) -> tuple[float, float]:
    """Returns the ends of an axis: the lowest and the highest value, with a margin of 5 % of the span."""
    low, high = min(values), max(values)
    if is_log:
        factor = (high / low) ** 0.05
        return low / factor or low, high * factor
    largest = max(abs(low), abs(high))
    span = high - low if high - low > 1e-9 * largest else largest  # of a single value a part of itself
    margin = 0.05 * (span if span > 1e-90 else 1.0)
    return low - margin, high + margin


def draw_x_axis(drawing: Drawing, scale: Scale, ticks: Iterable[float], *, bottom: float, label: str) -> None:
    """Draws the horizontal axis at the height ``bottom``, with its label at the right end."""
    left, right = scale.pixels
    drawing.path(f"M{left} {bottom}H{right}", stroke=colour("muted"), stroke_width=0.8)
    for tick in ticks:
        drawing.text(scale(tick), bottom + 13, f"{tick:,.6g}")
    drawing.text(right, bottom + 31, label, anchor="end")


def draw_y_axis(
    drawing: Drawing, scale: Scale, ticks: Iterable[tuple[float, str]], *, left: float, right: float
) -> None:
    """Draws the grid at ticks (value, text), with the texts to its left."""
    for value, text in ticks:
        drawing.path(f"M{left} {scale(value):.2f}H{right}", stroke=colour("line"))
        drawing.text(left - 6, scale(value), text, anchor="end")
