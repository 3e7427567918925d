"""One SVG element of the page: shapes and texts in CSS pixels, in the colours of the style sheet."""

from collections.abc import Iterable

from markupsafe import Markup

SERIES = tuple(f"s{n}" for n in range(6))
HEAT = tuple(f"h{n}" for n in range(9))
GROUPS = tuple(f"g{n}" for n in range(6))
# Variables of the style sheet, which has a dark and a light value of each.
VARIABLES = ("ink", "muted", "line", "paper", *SERIES, *HEAT, *GROUPS)
_FONT_SIZE = 12.5


def colour(name: str) -> str:
    """Returns a colour variable as a value of CSS."""
    return f"var(--{name})"


class Drawing:
    """An SVG element to which shapes are added in the order of drawing; y grows downwards.

    Attributes:
      width, height: CSS pixels.
    """

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self._elements: list[Markup] = []

    def path(self, data: str, **style: str | float) -> None:
        """Adds a path, without fill by default; ``style`` holds properties of CSS, with ``_`` for ``-``."""
        style = {"fill": "none"} | style
        css = "; ".join(f"{name.replace('_', '-')}: {value}" for name, value in style.items())
        self._elements.append(Markup('<path d="{}" style="{}"/>').format(data, css))

    def text(self, x: float, y: float, text: str, *, anchor: str = "middle", ink: str = "muted") -> None:
        """Adds a text, vertically centred on ``y``; ``anchor`` is ``start``, ``middle`` or ``end``."""
        template = Markup('<text x="{}" y="{}" dy=".35em" text-anchor="{}" style="fill: {}">{}</text>')
        self._elements.append(template.format(_pixels(x), _pixels(y), anchor, colour(ink), text))

    def svg(self, title: str, *, stretched: bool = False) -> Markup:
        """Returns the element, whose title is read out instead of it.

        A ``stretched`` one fills the height that the style sheet sets; for a drawing without texts.
        """
        if stretched:
            size = Markup('class="bar" preserveAspectRatio="none"')
        else:  # a row of few squares would fill the page
            size = Markup('style="max-width: {}px"').format(round(1.5 * self.width))
        opening = Markup('<svg viewBox="0 0 {} {}" {} font-size="{}" role="img" aria-label="{}">').format(
            _pixels(self.width), _pixels(self.height), size, _FONT_SIZE, title
        )
        return Markup("\n").join([opening, *self._elements, Markup("</svg>")])


def line(points: Iterable[tuple[float, float]]) -> str:
    """Returns a path that joins points."""
    return "M" + "L".join(f"{_pixels(x)} {_pixels(y)}" for x, y in points)


def dots(points: Iterable[tuple[float, float]]) -> str:
    """Returns a path of lines without length: with round caps each is a dot as wide as the stroke."""
    return "".join(f"M{_pixels(x)} {_pixels(y)}h0" for x, y in points)


def rectangles(boxes: Iterable[tuple[float, float, float, float]]) -> str:
    """Returns one path of many rectangles (x, y, width, height), which is far shorter than many paths."""
    return "".join(
        f"M{_pixels(x)} {_pixels(y)}h{_pixels(width)}v{_pixels(height)}h{_pixels(-width)}z"
        for x, y, width, height in boxes
    )


def _pixels(value: float) -> str:
    """Returns a length to a hundredth of a pixel."""
    return f"{round(value, 2):g}"
