"""A drawing of a page: one SVG element in the colours of the page, which a phone shows at its own width."""

from html import escape

WIDTH = 380  # of all drawings, in the CSS pixels of a phone
GROUPS = 8  # colours for groups, g0 to g7, in the style sheet


class Picture:
    """Shapes and texts, in the order of drawing; y grows downwards. Classes are those of the style sheet."""

    def __init__(self, height: float, *, title: str):
        """Begins an empty drawing; the title is read out in its place."""
        self._height, self._title, self._parts = height, title, []

    def box(self, x: float, y: float, width: float, height: float, kind: str = "box") -> None:
        """Adds a rectangle of a class."""
        self._parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3"/>'
        )

    def text(self, x: float, y: float, text: str, *, anchor: str = "middle", kind: str = "ink") -> None:
        """Adds a text, vertically centred on ``y``; ``anchor`` is ``start``, ``middle`` or ``end``."""
        place = f'x="{x:g}" y="{y:g}" dy=".35em" text-anchor="{anchor}"'
        self._parts.append(f'<text class="{kind}" {place}>{escape(text)}</text>')

    def labelled(
        self, x: float, y: float, width: float, height: float, *lines: str, kind: str = "box"
    ) -> None:
        """Adds a rectangle with centred lines of text; the first line is bold where there are several."""
        self.box(x, y, width, height, kind)
        for place, line in enumerate(lines):
            bold = "strong" if len(lines) > 1 and not place else "ink"
            self.text(x + width / 2, y + height / 2 + 16 * (place - (len(lines) - 1) / 2), line, kind=bold)

    def line(self, x: float, y: float, to_x: float, to_y: float, kind: str = "line") -> None:
        """Adds a straight line."""
        self._parts.append(f'<path class="{kind}" d="M{x:g} {y:g}L{to_x:g} {to_y:g}"/>')

    def arrow(self, x: float, y: float, to_x: float, to_y: float, kind: str = "line") -> None:
        """Adds a straight line with a head at its end; it is horizontal or vertical."""
        self.line(x, y, to_x, to_y, kind)
        dx, dy = (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)
        left = f"{to_x - 6 * dx + 4 * dy:g} {to_y - 6 * dy + 4 * dx:g}"
        right = f"{to_x - 6 * dx - 4 * dy:g} {to_y - 6 * dy - 4 * dx:g}"
        self._parts.append(f'<path class="head" d="M{to_x:g} {to_y:g}L{left}L{right}Z"/>')

    def figure(self) -> str:
        """Returns the drawing as a block of HTML without an empty line."""
        size = f'viewBox="0 0 {WIDTH} {self._height:g}" role="img" aria-label="{escape(self._title)}"'
        return "\n".join(['<figure class="drawing">', f"<svg {size}>", *self._parts, "</svg>", "</figure>"])
