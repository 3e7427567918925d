"""Owns the page: the order of its sections, and one HTML file that asks for nothing beside itself."""

from collections.abc import Sequence
from pathlib import Path

import jinja2
from etils import epath
from markupsafe import Markup

from efficientnet_pod import __version__
from efficientnet_pod.report.blocks import Section, Table
from efficientnet_pod.report.head import head_of
from efficientnet_pod.report.records import Records, read_records
from efficientnet_pod.report.sections import (
    accuracy as accuracy_sections,
)
from efficientnet_pod.report.sections import (
    run as run_sections,
)
from efficientnet_pod.report.sections import (
    settings as settings_sections,
)
from efficientnet_pod.report.sections import (
    training as training_sections,
)
from efficientnet_pod.report.side_by_side import Run, run_of
from efficientnet_pod.workdir.files import is_remote, write_whole

_FOLDER = Path(__file__).parent


def render(runs: Sequence[Run], *, refresh_seconds: int | None = None) -> str:
    """Returns the page of one run, or of several side by side; the same runs give the same page.

    Args:
      runs: from :func:`run_of`.
      refresh_seconds: after so many seconds a browser reads the file anew; None: it does not.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    complete = all(run.state.kind == "complete" for run in runs)
    title = " and ".join(run.name for run in runs) if len(runs) < 3 else f"{len(runs)} runs"
    return environment.get_template("page.html").render(
        title=title,
        style=Markup((_FOLDER / "style.css").read_text()),
        refresh_seconds=refresh_seconds,
        heads=[head_of(run, all_complete=complete) for run in runs],
        sections=sections(runs),
        version=__version__,
    )


def sections(runs: Sequence[Run]) -> list[Section]:
    """Returns the sections of a page in their order; those without contents are one, the last."""
    of_each = run_sections.of_each
    made = [
        accuracy_sections.accuracy(runs),
        accuracy_sections.time_to_accuracy(runs),
        training_sections.training(runs),
        training_sections.time_spent(runs),
        of_each(runs, "trust-ratios", "Trust ratios", run_sections.trust_ratios),
        of_each(runs, "bn-groups", "Batch-norm groups", run_sections.bn_groups),
        of_each(runs, "predictions", "Predictions", run_sections.predictions),
        of_each(runs, "faults", "Faults survived", run_sections.faults),
        settings_sections.plan(runs),
        settings_sections.settings(runs),
        of_each(runs, "records", "Records", run_sections.records),
    ]
    rows = [[each.title, " ".join(dict.fromkeys(each.missing))] for each in made if each.missing]
    shown = [each for each in made if not each.missing]
    if rows:
        shown.insert(-1, Section("not-recorded", "Not recorded", [Table(["", ""], rows)]))
    return shown


def read_runs(workdirs: Sequence[epath.PathLike]) -> list[Records]:
    """Returns the records of each workdir; of folders with the same name, the name says where they are.

    Raises:
      UserError: one of them cannot be read.
    """
    return [read_records(path, name=name) for path, name in zip(workdirs, _names(workdirs), strict=True)]


def _names(workdirs: Sequence[epath.PathLike]) -> list[str]:
    paths = [epath.Path(path) for path in workdirs]
    # Of `.` and `..` the name is the folder's; a gs:// path is absolute, though epath denies it.
    parts = [(path if is_remote(path) else path.absolute().resolve()).parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def write_report(
    workdirs: Sequence[epath.PathLike], out: epath.PathLike, *, refresh_seconds: int | None = None
) -> None:
    """Writes the page of these workdirs, whole or not at all.

    Raises:
      UserError: a workdir cannot be read.
      Exception: the file cannot be written; an OSError, where it is local.
    """
    runs = [run_of(each, at) for at, each in enumerate(read_runs(workdirs))]
    write_whole(epath.Path(out), render(runs, refresh_seconds=refresh_seconds).encode())
