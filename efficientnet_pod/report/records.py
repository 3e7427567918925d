"""Everything that a workdir holds about a run, with notes on what is missing or damaged."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.terminal import plural
from efficientnet_pod.workdir.files import contents_of, is_remote, reason
from efficientnet_pod.workdir.journal import is_event
from efficientnet_pod.workdir.json_lines import Row, parse_lines
from efficientnet_pod.workdir.mesh import BNGroups, read_mesh
from efficientnet_pod.workdir.metrics_log import is_metrics_row
from efficientnet_pod.workdir.owner_record import Holder, holder_of
from efficientnet_pod.workdir.predictions import EvaluationPredictions, read_predictions
from efficientnet_pod.workdir.profile import FOLDER, TRACES, TraceRecord, traces_in
from efficientnet_pod.workdir.trust_ratios import TrustRatios, read_trust_ratios
from efficientnet_pod.workdir.values import dig, number, parse_table, whole

# A page can be made of any of these.
_ESSENTIAL = ("config.json", "plan.json", "metrics.jsonl", "summary.json")
# Files that come and go without a change of the run; the page must not change with them.
_NOT_OF_THE_RUN = {"report.html", "owner.json"}
_KNOWN_FIELDS = {
    "config.json": ("model.name", "data.name", "epochs", "global_batch"),
    "plan.json": ("total_steps", "num_replicas", "num_train", "num_eval", "per_replica_batch"),
    "summary.json": ("final.top1", "best.top1", "total_seconds"),
}


@dataclass(frozen=True)
class RunRecords:
    """The contents of one run's workdir; without a file, its table is empty or its value None.

    Attributes:
      name: name of the run.
      path: path of the workdir.
      config: the recipe, from ``config.json``.
      plan: the resolved numbers, from ``plan.json``.
      data: description of the images, from ``data.json``.
      summary: results of a complete run, from ``summary.json``.
      train: rows of training metrics, in the order of the file.
      evals: rows of evaluation metrics, in the order of the file.
      journal: events of the journal, in the order of the file.
      trust: LARS factors by step.
      mesh: devices by BN group.
      predictions: predictions of the last evaluation.
      traces: traces of the profiler that were taken, or failed.
      holder: process that holds the workdir.
      notes: sentences on what is missing or damaged.
      files: names of the files, without the report itself.
    """

    name: str
    path: str
    config: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    train: tuple[Row, ...] = ()
    evals: tuple[Row, ...] = ()
    journal: tuple[Row, ...] | None = None
    trust: TrustRatios | None = None
    mesh: BNGroups | None = None
    predictions: EvaluationPredictions | None = None
    traces: tuple[TraceRecord, ...] = ()
    holder: Holder | None = None
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def last_step(self) -> int:
        """The last step with a record, 0 if there is none."""
        rows = [*self.train[-1:], *self.evals[-1:], *(self.journal or ())[-1:]]
        return max((whole(row.get("step")) or 0 for row in rows), default=0)

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run."""
        return whole(self.plan.get("total_steps"))

    @property
    def counts_top5(self) -> bool:
        """Whether top-5 says something: of five classes or fewer it is always 100 %."""
        return (whole(self.plan.get("num_classes")) or 6) > 5


def read_run_records(path: epath.PathLike, *, name: str | None = None) -> RunRecords:
    """Returns the contents of a workdir, local or remote, with notes on what is missing or damaged.

    The name of the run is by default the name of the folder.

    Raises:
      UserError: there is no such folder, it has no records of a run, or a file cannot be read.
    """
    folder = epath.Path(path)
    names = _names(folder)
    if names.isdisjoint(_ESSENTIAL):
        raise UserError(
            f"no run in '{folder}': it has none of {', '.join(_ESSENTIAL)}; give the folder that train was "
            "given as --workdir"
        )
    reader = _Reader(folder, names)
    config, plan, summary = (_known_table(reader, file) for file in _KNOWN_FIELDS)
    rows = _metrics(reader)
    events = reader.lines("journal.jsonl", is_event)
    predictions = reader.table("predictions.json")
    return RunRecords(
        name=name or folder.name or str(path),
        path=str(path),
        config=config,
        plan=plan,
        data=reader.table("data.json") or {},
        summary=summary,
        train=tuple(row for row in rows if row["split"] == "train"),
        evals=tuple(row for row in rows if row["split"] == "eval"),
        journal=None if events is None else tuple(events),
        trust=read_trust_ratios(reader.lines("trust_ratios.jsonl") or ()),
        mesh=read_mesh(reader.table("mesh.json") or {}),
        predictions=read_predictions(predictions, reader.contents) if predictions is not None else None,
        traces=tuple(traces_in(reader.contents(TRACES))) if FOLDER in names else (),
        holder=holder_of(folder) if "owner.json" in names else None,
        notes=tuple(reader.notes),
        files=tuple(sorted(file for file in names - _NOT_OF_THE_RUN if not file.startswith("."))),
    )


def _names(folder: epath.Path) -> set[str]:
    try:
        if folder.is_dir():
            return {path.name for path in folder.iterdir()}
        problem = "is a file, no folder" if folder.exists() else "is not there"
    except Exception as error:  # an OSError, or an error of the library of an object store
        raise UserError(
            f"workdir '{folder}' cannot be read: {reason(error)}; correct that or give a copy of it"
        ) from error
    raise UserError(f"workdir '{folder}' {problem}; give the folder that train was given as --workdir")


def _known_table(reader: "_Reader", file: str) -> dict[str, Any]:
    """Returns one of the files of ``_KNOWN_FIELDS``, with a note on the fields that it lacks."""
    table = reader.table(file)
    missing = [name for name in _KNOWN_FIELDS[file] if dig(table, name) is None]
    if table is not None and missing:
        reader.notes.append(f"{file} is of another version: it has no {', '.join(missing)}.")
    return table or {}


def _metrics(reader: "_Reader") -> list[Row]:
    rows = reader.lines("metrics.jsonl", is_metrics_row)
    if rows is None:
        reader.notes.append("There is no metrics.jsonl: the run has not recorded a step.")
        return []
    usable = [
        row for row in rows if row["split"] in ("train", "eval") and number(row.get("epoch")) is not None
    ]
    if len(usable) < len(rows):
        count = plural(len(rows) - len(usable), "row")
        reader.notes.append(f"metrics.jsonl is of another version: {count} without epoch or split left out.")
    elif not rows:
        reader.notes.append("metrics.jsonl has no rows yet.")
    return usable


class _Reader:
    """The files of one folder, and notes on those that are damaged."""

    def __init__(self, folder: epath.Path, names: set[str]):
        self._folder, self._names = folder, names
        self.notes: list[str] = []

    def table(self, name: str) -> dict[str, Any] | None:
        """Returns a JSON table, None if there is none."""
        stored = self._bytes(name)
        if stored is None:
            return None
        table = parse_table(stored)
        if table is None:
            self.notes.append(f"{name} is damaged, it is not a table in JSON, and left out.")
        return table

    def lines(self, name: str, is_row: Callable[[Row], bool] = lambda row: True) -> list[Row] | None:
        """Returns the rows of a file of JSON lines, None if there is no file."""
        stored = self._bytes(name)
        if stored is None:
            return None
        rows, damaged = parse_lines(stored, is_row)
        if damaged:
            count = plural(len(damaged), "damaged line")
            self.notes.append(f"{name} has {count}, left out; the first is line {damaged[0]:,}.")
        return rows

    def contents(self, name: str) -> bytes | None:
        """Returns the contents of a file below the folder, None where there is none.

        A path that leads out of the folder is not read: a page is passed on, and a workdir may be foreign.
        """
        parts = name.replace("\\", "/").split("/")
        if "://" in name or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
            return None
        file = self._folder.joinpath(*parts)
        try:
            if not is_remote(file):  # epath's own `resolve` does not follow links
                folder = os.path.realpath(self._folder)
                if not os.path.realpath(file).startswith(os.path.join(folder, "")):
                    return None
            return contents_of(file)
        except Exception:  # the page can do without it
            return None

    def _bytes(self, name: str) -> bytes | None:
        if name not in self._names:
            return None
        file = self._folder / name
        try:
            return contents_of(file)
        except Exception as error:
            raise UserError(
                f"'{file}' cannot be read: {reason(error)}; correct that or give a copy of the workdir"
            ) from error
