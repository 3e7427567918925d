"""The parts of a page: sections of tables, charts and texts, without a word on how they look."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class PageTable:
    """A table of texts.

    Attributes:
      header: names of the columns.
      rows: texts, as many a row as the header has.
      numeric: indices of the columns whose texts are numbers.
      title: heading; may be empty.
      note: sentence below the table; may be empty.
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
      text: name of what is drawn.
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
      title: name of the values, with their unit.
      svg: drawing.
      note: sentence on how to read it; may be empty.
      keys: legend; may be empty.
      wide: whether the chart takes the whole width.
    """

    title: str
    svg: Markup
    note: str = ""
    keys: Sequence[Key] = ()
    wide: bool = False


@dataclass(frozen=True)
class Charts:
    """Charts of the same data, and a folded table of the data."""

    charts: Sequence[Chart]
    data: PageTable
    kind: str = "charts"


@dataclass(frozen=True)
class Folded:
    """A table that is shown when its summary is clicked."""

    summary: str
    table: PageTable
    kind: str = "folded"


@dataclass(frozen=True)
class Text:
    """A sentence.

    Attributes:
      text: the sentence.
      missing: whether it says that the contents of its section are not recorded.
      link: address that the sentence leads to, relative to the page; empty for none.
    """

    text: str
    missing: bool = False
    link: str = ""
    kind: str = "text"


@dataclass(frozen=True)
class Picture:
    """A sample image and its predictions.

    Attributes:
      image: ``data:`` URI, empty where there is no image.
      label: name of the true class.
      is_hit: whether the first prediction is the label.
      predicted: (name, probability in words, width of its bar in percent).
    """

    image: str
    label: str
    is_hit: bool
    predicted: Sequence[tuple[str, str, float]]


@dataclass(frozen=True)
class Pictures:
    """Sample images in rows."""

    pictures: Sequence[Picture]
    note: str = ""
    kind: str = "pictures"


@dataclass(frozen=True)
class RunName:
    """The name of a run, above the blocks about that run."""

    name: str
    colour: str
    kind: str = "run"


@dataclass(frozen=True)
class Columns:
    """Columns of blocks; a narrow page shows one below the other."""

    columns: Sequence[Sequence[PageTable | Folded]]
    kind: str = "columns"


Block = Columns | PageTable | Charts | Folded | Text | Pictures | RunName


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Attributes:
      anchor: id of the element.
      title: heading.
      blocks: contents, in order.
      lead: sentence below the heading; may be empty.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]
    lead: str = ""

    @property
    def contents(self) -> list[Block]:
        """The blocks without the names of runs."""
        return [block for block in self.blocks if not isinstance(block, RunName)]

    @property
    def missing(self) -> list[str]:
        """Sentences on what is not recorded, if there is nothing else in the section."""
        missing = [block.text for block in self.contents if isinstance(block, Text) and block.missing]
        return missing if len(missing) == len(self.contents) else []


@dataclass(frozen=True)
class Fact:
    """One figure of the head: its name, a value in large type, and a detail."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Head:
    """The top of the page about one run.

    Attributes:
      name: name of the run.
      colour: colour variable of its curves.
      what: line on network, data and machine.
      state: state in a word.
      state_text: state in a sentence.
      facts: its figures.
      notes: sentences on what is missing or damaged.
    """

    name: str
    colour: str
    what: str
    state: str
    state_text: str
    facts: Sequence[Fact]
    notes: Sequence[str]
