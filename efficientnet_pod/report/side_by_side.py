"""Owns how runs stand side by side on one page: each with its name, its colour and its column of a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from efficientnet_pod.report.blocks import Key, Table
from efficientnet_pod.report.drawing.svg import SERIES
from efficientnet_pod.report.figures import Evaluation, evaluations
from efficientnet_pod.report.records import Records
from efficientnet_pod.report.state import State, state_of


@dataclass(frozen=True)
class Run:
    """A run on a page: its records, and what every part of the page needs of them.

    Attributes:
      records: of it.
      at: its place on the page, from 0.
      made: its evaluations.
      state: how it stands.
    """

    records: Records
    at: int
    made: tuple[Evaluation, ...]
    state: State

    @property
    def name(self) -> str:
        """Its name on the page."""
        return self.records.name

    @property
    def colour(self) -> str:
        """Colour variable of its curves."""
        return SERIES[self.at % len(SERIES)]


def run_of(records: Records, at: int = 0, *, assume_alive: bool | None = None) -> Run:
    """Returns a run of its records; ``assume_alive`` as for :func:`state_of`."""
    return Run(records, at, tuple(evaluations(records)), state_of(records, assume_alive=assume_alive))


def run_keys(runs: Sequence[Run]) -> list[Key]:
    """Returns the legend that tells runs apart; none for one."""
    return [Key(run.name, run.colour) for run in runs] if len(runs) > 1 else []


def run_cell(run: Run, runs: Sequence[Run]) -> list[str]:
    """Returns the first cell of a row about a run: its name, and nothing where it is the only one."""
    return [run.name] if len(runs) > 1 else []


def table_by_run(
    runs: Sequence[Run], header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str, note: str = ""
) -> Table:
    """Returns a table of numbers whose rows begin with :func:`run_cell`."""
    first = ["run"] if len(runs) > 1 else []
    return Table([*first, *header], rows, frozenset(range(len(first), len(first) + len(header))), title, note)
