"""The command ``report``: the records of one run, or of several, as a page and in formats of benchmarks."""

import dataclasses
from collections.abc import Sequence
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from absl import flags
from etils import epath

from efficientnet_pod.cli.flags import parse_flags
from efficientnet_pod.errors import UserError
from efficientnet_pod.workdir.files import reason, write_whole

if TYPE_CHECKING:
    from efficientnet_pod.report.records import Records
    from efficientnet_pod.report.side_by_side import Run

_EXAMPLE = "efficientnet-pod report runs/digits"
_SECONDS = 5
# A run elsewhere is followed as long as its owner file changes: it does every ten seconds.
_SILENCE_SECONDS = 60


def run_report(arguments: Sequence[str]) -> int:
    """Writes the page of the workdirs that are named, once or as long as one of them is in progress."""
    workdirs: list[str] = []
    values = parse_flags("report", arguments, _define, words=workdirs)
    if not workdirs:
        raise UserError(f"report needs the workdir of a run, or several, e.g. {_EXAMPLE}")
    exports = [(flag, value) for flag in ("dawnbench", "mlperf") if (value := values[flag].value)]
    if exports and len(workdirs) > 1:
        raise UserError(f"--{exports[0][0]} is of one run, not of {len(workdirs)}; give one workdir")
    if values.dawnbench and not values.dawnbench.endswith((".tsv", ".json")):
        raise UserError(
            f"--dawnbench={values.dawnbench} must end in .tsv or .json, which say what is written"
        )
    default = epath.Path(workdirs[0]) / "report.html" if len(workdirs) == 1 else epath.Path("report.html")
    out = epath.Path(values.out) if values.out else default
    if values.follow:
        return _follow(workdirs, out, values)
    from efficientnet_pod.report.page import read_runs

    _write(read_runs(workdirs), out, values)
    print(f"the report is {out}")
    return 0


def _define(values: flags.FlagValues) -> None:
    about = "Page to write; by default report.html in the workdir, of several runs here."
    flags.DEFINE_string("out", None, about, flag_values=values)
    about = f"Write it anew every {_SECONDS} s while a run is in progress; a browser that shows it follows."
    flags.DEFINE_bool("follow", False, about, flag_values=values)
    about = "File for DAWNBench: F.tsv of the evaluations, or F.json of the entry."
    flags.DEFINE_string("dawnbench", None, about, flag_values=values)
    flags.DEFINE_string("mlperf", None, "File for the run as lines of an MLPerf log.", flag_values=values)


def _follow(workdirs: Sequence[str], out: epath.Path, values: Any) -> int:
    """Writes the page anew while a run is in progress; returns the exit code, that of Ctrl-C after one."""
    from efficientnet_pod.report.page import read_runs

    shown: list[Records] | None = None  # on the page; without the owner, who changes all the time
    found: list[Records] = []
    heard, beats = monotonic(), None
    try:
        while True:
            found = read_runs(workdirs)
            now = [each.holder for each in found]
            if now != beats:
                heard, beats = monotonic(), now
            alive = monotonic() - heard < _SILENCE_SECONDS
            going = any(run.state.kind == "in progress" for run in _runs(found, alive))
            if not going:
                _write(found, out, values, alive=alive)
                print(f"no run is in progress any more; the report is {out}")
                return 0
            new = [dataclasses.replace(each, holder=None) for each in found]
            if new != shown:
                _write(found, out, values, alive=alive, refresh=True)
                if shown is None:
                    print(f"following; the report is {out}, Ctrl-C ends this", flush=True)
                shown = new
            sleep(_SECONDS)
    except KeyboardInterrupt:
        if shown is not None:
            _write(found, out, values)  # a page that no longer reads itself anew
        print(f"\nno longer following; the report is {out}")
        return 130


def _runs(found: "Sequence[Records]", alive: bool | None) -> "list[Run]":
    from efficientnet_pod.report.side_by_side import run_of

    return [run_of(each, at, assume_alive=alive) for at, each in enumerate(found)]


def _write(
    found: "Sequence[Records]",
    out: epath.Path,
    values: Any,
    *,
    alive: bool | None = None,
    refresh: bool = False,
) -> None:
    """Writes the page and what else is asked for."""
    from efficientnet_pod.report import exports
    from efficientnet_pod.report.page import render

    files = [(out, render(_runs(found, alive), refresh_seconds=_SECONDS if refresh else None))]
    if values.dawnbench:
        as_tsv = values.dawnbench.endswith(".tsv")
        text = exports.dawnbench_tsv(found[0]) if as_tsv else exports.dawnbench_json(found[0])
        files.append((epath.Path(values.dawnbench), text))
    if values.mlperf:
        files.append((epath.Path(values.mlperf), exports.mlperf_log(found[0])))
    for file, text in files:
        try:
            write_whole(file, text.encode())
        except Exception as error:  # an OSError, or what the library of an object store raises
            flag = "" if file is not out else " with --out=FILE"
            raise UserError(
                f"'{file}' cannot be written: {reason(error)}; name another file{flag}"
            ) from error
