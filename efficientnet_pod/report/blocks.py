"""Owns what a page is made of: sections of tables, charts and texts, without a word on how they look."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
      header: of its columns.
      rows: as long as the header.
      numeric: columns whose texts are numbers, by their place.
      title: above it; may be empty.
      note: below it; may be empty.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    title: str = ""
    note: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Key:
    """An entry of a legend.

    Attributes:
      text: what is drawn so.
      colour: name of a colour variable of the style sheet.
      stroke: ``solid``, ``dashed``, ``band`` or ``fill``.
    """

    text: str
    colour: str
    stroke: str = "solid"


@dataclass(frozen=True)
class Chart:
    """A drawing with its title.

    Attributes:
      title: what it shows, with the unit.
      note: in a few words, how to read it.
      svg: the drawing.
      keys: of its legend; none where it needs none.
      wide: whether it takes the whole width.
    """

    title: str
    svg: Markup
    note: str = ""
    keys: Sequence[Key] = ()
    wide: bool = False


@dataclass(frozen=True)
class Charts:
    """Charts of the same data, which is in a table behind them."""

    charts: Sequence[Chart]
    data: Table
    kind: str = "charts"


@dataclass(frozen=True)
class Folded:
    """Tables that are shown when asked for."""

    summary: str
    tables: Sequence[Table]
    kind: str = "folded"


@dataclass(frozen=True)
class Text:
    """A sentence.

    Attributes:
      text: it.
      missing: whether it stands for all that its section would hold.
    """

    text: str
    missing: bool = False
    kind: str = "text"


@dataclass(frozen=True)
class Picture:
    """A sample image and what was predicted of it.

    Attributes:
      image: a ``data:`` URI, empty where there is none.
      label: name of its class.
      is_hit: whether the first prediction is the label.
      predicted: (name, probability in words, width of its bar in percent).
    """

    image: str
    label: str
    is_hit: bool
    predicted: Sequence[tuple[str, str, float]]


@dataclass(frozen=True)
class Pictures:
    """Sample images side by side."""

    pictures: Sequence[Picture]
    note: str = ""
    kind: str = "pictures"


@dataclass(frozen=True)
class RunName:
    """The name of a run, above blocks that are about it alone."""

    name: str
    colour: str
    kind: str = "run"


@dataclass(frozen=True)
class Beside:
    """Columns of blocks, one below the other where there is no room."""

    columns: Sequence[Sequence[Table | Folded]]
    kind: str = "beside"


Block = Beside | Table | Charts | Folded | Text | Pictures | RunName


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Attributes:
      anchor: its id.
      title: heading.
      lead: a sentence below it.
      blocks: in order.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""

    @property
    def missing(self) -> list[str]:
        """What is said instead of its contents, of each run; empty where there is any."""
        texts = [block for block in self.blocks if not isinstance(block, RunName)]
        missing = [block.text for block in texts if isinstance(block, Text) and block.missing]
        return missing if len(missing) == len(texts) else []


@dataclass(frozen=True)
class Fact:
    """One figure of the head: a large value, what it is, and a detail."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Head:
    """What one run is and how it stands.

    Attributes:
      name: of the run.
      colour: of its curves.
      what: a line on network, data and machine.
      state: in a word.
      state_text: in a sentence.
      facts: its figures.
      notes: what is missing or damaged.
    """

    name: str
    colour: str
    what: str
    state: str
    state_text: str
    facts: Sequence[Fact]
    notes: Sequence[str] = field(default=())
