"""Runs side by side on one page: each has a name, a colour and a column of a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from efficientnet_pod.report.blocks import Key, PageTable
from efficientnet_pod.report.drawing.svg import SERIES
from efficientnet_pod.report.figures import TimedEvaluation, evaluations
from efficientnet_pod.report.records import RunRecords
from efficientnet_pod.report.state import RunState, state_of


@dataclass(frozen=True)
class ReportRun:
    """A run on a page, with what several parts of the page need.

    Attributes:
      records: contents of its workdir.
      colour: colour variable of its curves.
      evaluations: its evaluations, by step.
      state: its state.
    """

    records: RunRecords
    colour: str
    evaluations: tuple[TimedEvaluation, ...]
    state: RunState

    @property
    def name(self) -> str:
        """The name of the run on the page."""
        return self.records.name


def run_of(records: RunRecords, place: int = 0, *, assume_alive: bool | None = None) -> ReportRun:
    """Returns the run at an index of the page; ``assume_alive`` is as for :func:`state_of`."""
    state = state_of(records, assume_alive=assume_alive)
    return ReportRun(records, SERIES[place % len(SERIES)], tuple(evaluations(records)), state)


def run_keys(runs: Sequence[ReportRun]) -> list[Key]:
    """Returns a legend of the runs, empty for a single one."""
    return [Key(run.name, run.colour) for run in runs] if len(runs) > 1 else []


def run_cell(run: ReportRun, runs: Sequence[ReportRun]) -> list[str]:
    """Returns the first cell of a row about a run: its name, and no cell for a single run."""
    return [run.name] if len(runs) > 1 else []


def table_by_run(
    runs: Sequence[ReportRun],
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str,
    note: str = "",
    words: int = 0,
) -> PageTable:
    """Returns a table whose rows begin with :func:`run_cell`, and with ``words`` columns of words."""
    first = ["run"] if len(runs) > 1 else []
    numeric = range(len(first) + words, len(first) + len(header))
    return PageTable([*first, *header], rows, frozenset(numeric), title, note)
