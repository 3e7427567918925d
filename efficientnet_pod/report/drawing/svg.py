"""Owns how a figure becomes SVG inside a page: no date, no font, no id twice, the colours of the style."""

import io
import re
from collections.abc import Iterable
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.path import Path

SERIES = tuple(f"s{n}" for n in range(6))
HEAT = tuple(f"h{n}" for n in range(9))
GROUPS = tuple(f"g{n}" for n in range(6))
# Variables of the style sheet, which knows of dark and light. In a figure each has a colour of its own, by
# which it is found in the SVG.
VARIABLES = ("ink", "muted", "line", "paper", *SERIES, *HEAT, *GROUPS)
_MARK = "#0a0b"
WIDTH, HEIGHT = 460, 250
FONT_SIZE = 12.5


def colour(name: str) -> str:
    """Returns what stands for a colour variable in a figure."""
    return f"{_MARK}{VARIABLES.index(name):02x}"


def blank(width: float = WIDTH, height: float = HEIGHT) -> Figure:
    """Returns an empty figure of a size in CSS pixels."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    return figure


def axes(figure: Figure, *, left: float = 46, right: float = 14, top: float = 10, bottom: float = 40) -> Axes:
    """Returns axes that leave these margins, in pixels, with a quiet grid and no frame."""
    width, height = figure.get_size_inches() * 72
    box = (
        left / width,
        bottom / height,
        (width - left - right) / width,
        (height - top - bottom) / height,
    )
    made = figure.add_axes(box)
    made.patch.set_visible(False)
    for side, spine in made.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colour("muted"))
        spine.set_linewidth(0.8)
    made.tick_params(length=0, pad=6, labelsize=FONT_SIZE, labelcolor=colour("muted"))
    made.grid(axis="y", color=colour("line"), linewidth=1)
    made.set_axisbelow(True)
    return made


def label_x(made: Axes, text: str) -> None:
    """Names the horizontal axis, at its right end."""
    made.set_xlabel(text, loc="right", fontsize=FONT_SIZE, color=colour("muted"), labelpad=4)


def rectangles(boxes: Iterable[tuple[float, float, float, float]]) -> Path:
    """Returns one path of many rectangles (x, y, width, height), which is far shorter than many paths."""
    vertices: list[tuple[float, float]] = []
    codes: list[Any] = []
    for x, y, width, height in boxes:
        vertices += [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
        codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return Path(vertices, codes)


def to_svg(figure: Figure, *, name: str, title: str, stretched: bool = False) -> Markup:
    """Returns a figure as an SVG element.

    Args:
      figure: the drawing.
      name: of it on its page: begins each of its ids.
      title: read out instead of the drawing.
      stretched: whether the style sheet sets the height, and the drawing fills it; for one without texts.
    """
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "efficientnet-pod",
        "text.parse_math": False,  # a dollar sign is a dollar sign
        "path.simplify": False,
    }
    with matplotlib.rc_context(settings):
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    opening = re.match(r"<svg[^>]*>", text, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert opening and view_box
    label = Markup(' role="img" aria-label="{}">').format(title)
    if stretched:
        label = Markup(' class="bar" preserveAspectRatio="none"') + label
    else:  # a row of few squares would fill the page
        label = Markup(' style="max-width: {}px"').format(round(figure.get_size_inches()[0] * 108)) + label
    text = f"<svg {view_box[0]}{label}{text[opening.end() :]}"
    text = text.replace("xlink:href", "href")
    named = set(re.findall(r'(?:href="#|url\(#)([^")]*)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in named else "", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"font-family: [^;\"]*;? *", "", text)
    text = re.sub(rf"{_MARK}([0-9a-f]{{2}})", lambda m: f"var(--{VARIABLES[int(m[1], 16)]})", text)
    # Of places, never of texts: two digits after the point are a hundredth of a pixel.
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), text)
    return Markup(re.sub(r"\n\s*", "\n", text).strip())
