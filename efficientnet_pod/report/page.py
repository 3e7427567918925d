"""The page of one run or of several: its sections in order, as one HTML file that loads nothing else."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jinja2
from etils import epath
from markupsafe import Markup

from efficientnet_pod.pod.version import VERSION
from efficientnet_pod.report.blocks import PageTable, Section
from efficientnet_pod.report.head import head_of
from efficientnet_pod.report.records import RunRecords, read_run_records
from efficientnet_pod.report.sections.accuracy import accuracy, time_to_accuracy
from efficientnet_pod.report.sections.inside import profile, slowest_host
from efficientnet_pod.report.sections.run import (
    bn_groups,
    faults,
    predictions,
    records,
    section_by_run,
    trust_ratios,
)
from efficientnet_pod.report.sections.settings import plan, settings
from efficientnet_pod.report.sections.training import time_spent, training
from efficientnet_pod.report.side_by_side import ReportRun, run_of
from efficientnet_pod.workdir.files import is_remote, write_whole

_FOLDER = Path(__file__).parent


def render(runs: Sequence[ReportRun], *, refresh_seconds: int | None = None) -> str:
    """Returns the page of one run, or of several side by side; the same runs give the same page.

    A browser loads the file again every ``refresh_seconds``; None: never.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    all_complete = all(run.state.kind == "complete" for run in runs)
    return environment.get_template("page.html").render(
        title=" and ".join(run.name for run in runs) if len(runs) < 3 else f"{len(runs)} runs",
        style=Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),
        refresh_seconds=refresh_seconds,
        heads=[head_of(run, all_complete=all_complete) for run in runs],
        sections=_sections(runs),
        version=VERSION,
    )


def _sections(runs: Sequence[ReportRun]) -> list[Section]:
    """Returns the sections in order; one, the last but one, has a row for each file that is missing."""
    sections = [
        accuracy(runs),
        time_to_accuracy(runs),
        training(runs),
        time_spent(runs),
        section_by_run(runs, "hosts", "Slowest host", slowest_host),
        section_by_run(runs, "profile", "Profile", partial(profile, is_linked=len(runs) == 1)),
        section_by_run(runs, "trust-ratios", "Trust ratios", trust_ratios),
        section_by_run(runs, "bn-groups", "Batch-norm groups", bn_groups),
        section_by_run(runs, "predictions", "Predictions", predictions),
        section_by_run(runs, "faults", "Faults survived", faults),
        plan(runs),
        settings(runs),
        section_by_run(runs, "records", "Records", records),
    ]
    shown = [section for section in sections if section.contents and not section.missing]
    rows = [
        [section.title, " ".join(dict.fromkeys(section.missing))] for section in sections if section.missing
    ]
    if rows:
        shown.insert(-1, Section("not-recorded", "Not recorded", [PageTable(["", ""], rows)]))
    return shown


def read_runs(workdirs: Sequence[epath.PathLike]) -> list[RunRecords]:
    """Returns the records of each workdir; names of runs are as long as it takes to tell folders apart.

    Raises:
      UserError: one of them cannot be read.
    """
    names = _names(workdirs)
    return [read_run_records(path, name=name) for path, name in zip(workdirs, names, strict=True)]


def _names(workdirs: Sequence[epath.PathLike]) -> list[str]:
    paths = [epath.Path(path) for path in workdirs]
    # `.` and `..` get the folder's name; a gs:// path is absolute, though epath denies it.
    parts = [(path if is_remote(path) else path.absolute().resolve()).parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(parts_of_one[-length:]) for parts_of_one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def write_report(workdirs: Sequence[epath.PathLike], out: epath.PathLike) -> None:
    """Writes the page of these workdirs, whole or not at all.

    Raises:
      UserError: a workdir cannot be read.
      Exception: the file cannot be written; an OSError for a local one.
    """
    runs = [run_of(records, place) for place, records in enumerate(read_runs(workdirs))]
    write_whole(epath.Path(out), render(runs).encode())
