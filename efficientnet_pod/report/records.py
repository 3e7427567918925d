"""Owns the reading of a workdir for its report: what is there, with notes on what is missing or damaged."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from efficientnet_pod.errors import UserError
from efficientnet_pod.report.values import plural
from efficientnet_pod.workdir.files import is_remote, reason
from efficientnet_pod.workdir.journal import is_event
from efficientnet_pod.workdir.json_lines import Row, parse_lines
from efficientnet_pod.workdir.mesh import BNGroups, read_mesh
from efficientnet_pod.workdir.metrics_log import is_metrics_row
from efficientnet_pod.workdir.owner import Holder, holder_of
from efficientnet_pod.workdir.predictions import EvaluationPredictions, read_predictions
from efficientnet_pod.workdir.trust_ratios import TrustRatios, read_trust_ratios
from efficientnet_pod.workdir.values import dig, number, whole

# Of these a page shows at least something.
_ESSENTIAL = ("config.json", "plan.json", "metrics.jsonl", "summary.json")
# Whether they are there says nothing of the run, and the page must not change when it is written.
_OF_NO_RUN = {"report.html", "owner.json"}
_KNOWN_FIELDS = {
    "config.json": ("model.name", "data.name", "epochs", "global_batch"),
    "plan.json": ("total_steps", "num_replicas", "num_train", "num_eval", "per_replica_batch"),
    "summary.json": ("final.top1", "best.top1", "total_seconds"),
}


@dataclass(frozen=True)
class Records:
    """What the workdir of one run holds; tables are empty, and other values None, where nothing is recorded.

    Attributes:
      name: of the run: that of its folder.
      path: of the folder.
      config: the recipe, as JSON has it.
      plan: the resolved numbers.
      data: what the images are.
      summary: of a run that is complete.
      train: rows of metrics of training, in the order of the file.
      evals: likewise of evaluation.
      journal: events.
      trust: the LARS factors.
      mesh: ``mesh.json``.
      predictions: of the last evaluation.
      holder: who holds the workdir.
      notes: sentences on what is missing or damaged.
      files: names of those that are there, the report itself left out.
    """

    name: str
    path: str
    config: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    train: tuple[Row, ...] = ()
    evals: tuple[Row, ...] = ()
    journal: tuple[dict[str, Any], ...] | None = None
    trust: TrustRatios | None = None
    mesh: BNGroups | None = None
    predictions: EvaluationPredictions | None = None
    holder: Holder | None = None
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def last_step(self) -> int:
        """The last step of which anything is recorded, 0 if none is."""
        rows = [*self.train[-1:], *self.evals[-1:], *(self.journal or ())[-1:]]
        return max((whole(row.get("step")) or 0 for row in rows), default=0)

    @property
    def total_steps(self) -> int | None:
        """Steps of the whole run."""
        return whole(self.plan.get("total_steps"))

    @property
    def num_classes(self) -> int | None:
        """Classes of the data."""
        return whole(self.plan.get("num_classes"))


def read_records(path: epath.PathLike, *, name: str | None = None) -> Records:
    """Returns what a workdir holds; what is missing or damaged is in its notes.

    Args:
      path: of the workdir, local or remote.
      name: of the run; by default that of the folder.

    Raises:
      UserError: there is no such folder, it has no records of a run, or a file cannot be read.
    """
    folder = epath.Path(path)
    there = _names(folder)
    if not any(each in there for each in _ESSENTIAL):
        raise UserError(
            f"no run in '{folder}': it has none of {', '.join(_ESSENTIAL)}; give the folder that train was "
            "given as --workdir"
        )
    reader = _Reader(folder, there)
    tables = {name: reader.table(name) for name in _ESSENTIAL if name != "metrics.jsonl"}
    for file, known in _KNOWN_FIELDS.items():
        missing = [each for each in known if tables[file] is not None and dig(tables[file], each) is None]
        if missing:
            reader.notes.append(f"{file} is of another version: it has no {', '.join(missing)}.")
    rows = _metrics(reader)
    events = reader.lines("journal.jsonl", is_event)
    predictions = reader.table("predictions.json")
    return Records(
        name=name or epath.Path(path).name or str(path),
        path=str(path),
        config=tables["config.json"] or {},
        plan=tables["plan.json"] or {},
        data=reader.table("data.json") or {},
        summary=tables["summary.json"] or {},
        train=tuple(row for row in rows if row["split"] == "train"),
        evals=tuple(row for row in rows if row["split"] == "eval"),
        journal=None if events is None else tuple(events),
        trust=read_trust_ratios(reader.lines("trust_ratios.jsonl") or ()),
        mesh=read_mesh(reader.table("mesh.json") or {}),
        predictions=read_predictions(predictions, reader.image) if predictions is not None else None,
        holder=holder_of(folder) if "owner.json" in there else None,
        notes=tuple(reader.notes),
        files=tuple(sorted(each for each in there - _OF_NO_RUN if not each.startswith("."))),
    )


def _names(folder: epath.Path) -> set[str]:
    """Returns the names in a folder."""
    try:
        if not folder.is_dir():
            what = "is a file, no folder" if folder.exists() else "is not there"
            raise UserError(f"workdir '{folder}' {what}; give the folder that train was given as --workdir")
        return {each.name for each in folder.iterdir()}
    except UserError:
        raise
    except Exception as error:  # an OSError, or what the library of an object store raises
        raise UserError(
            f"workdir '{folder}' cannot be read: {reason(error)}; mend that or give a copy of it"
        ) from error


def _metrics(reader: "_Reader") -> list[Row]:
    rows = reader.lines("metrics.jsonl", is_metrics_row)
    if rows is None:
        reader.notes.append("There is no metrics.jsonl: the run has not recorded a step.")
        return []
    usable = [
        row for row in rows if row["split"] in ("train", "eval") and number(row.get("epoch")) is not None
    ]
    if len(usable) < len(rows):
        left = plural(len(rows) - len(usable), "row")
        reader.notes.append(f"metrics.jsonl is of another version: {left} without epoch or split left out.")
    elif not rows:
        reader.notes.append("metrics.jsonl has no rows yet.")
    return usable


class _Reader:
    """Reads the files of one folder and collects what is wrong with them."""

    def __init__(self, folder: epath.Path, there: set[str]):
        self._folder, self._there = folder, there
        self.notes: list[str] = []

    def table(self, name: str) -> dict[str, Any] | None:
        """Returns a JSON table, None if there is none."""
        stored = self._bytes(name)
        if stored is None:
            return None
        try:
            found = json.loads(stored)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
        self.notes.append(f"{name} is damaged, it is not a table in JSON, and left out.")
        return None

    def lines(self, name: str, is_row: Callable[[Row], bool] = lambda row: True) -> list[Row] | None:
        """Returns the rows of a file of JSON lines, None if there is no file."""
        stored = self._bytes(name)
        if stored is None:
            return None
        rows, damaged = parse_lines(stored, is_row)
        if damaged:
            what = plural(len(damaged), "damaged line")
            self.notes.append(f"{name} has {what}, left out; the first is line {damaged[0]:,}.")
        return rows

    def image(self, name: str) -> bytes | None:
        """Returns the contents of a file below the folder, None where there is none.

        What leads out of the folder is not read: a page is passed on, and a workdir may be another's.
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
            return file.read_bytes() if file.exists() else None
        except Exception:  # a picture less is no reason for no page
            return None

    def _bytes(self, name: str) -> bytes | None:
        if name not in self._there:
            return None
        file = self._folder / name
        try:
            return file.read_bytes()
        except FileNotFoundError:  # removed since the folder was listed
            return None
        except Exception as error:
            raise UserError(
                f"'{file}' cannot be read: {reason(error)}; mend that or give a copy of the workdir"
            ) from error
