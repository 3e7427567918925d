"""The command ``report``: the page of one run or of several, and a run in the formats of benchmarks."""

import dataclasses
from collections.abc import Sequence
from time import monotonic, sleep

from absl import flags
from etils import epath

from efficientnet_pod.cli.flags import parse_flags
from efficientnet_pod.cli.help import example_of
from efficientnet_pod.errors import UserError
from efficientnet_pod.report.exports import dawnbench_json, dawnbench_tsv, mlperf_log
from efficientnet_pod.report.page import read_runs, render
from efficientnet_pod.report.records import RunRecords
from efficientnet_pod.report.side_by_side import ReportRun, run_of
from efficientnet_pod.workdir.files import require_output, write_result

_SECONDS = 5
# A run elsewhere is followed while its owner file changes, which it does every ten seconds.
_SILENCE_SECONDS = 60


def run_report(arguments: Sequence[str]) -> int:
    """Writes the page of the given workdirs, once or while a run is in progress; returns the exit code."""
    workdirs: list[str] = []
    values = parse_flags("report", arguments, _define, words=workdirs)
    if not workdirs:
        raise UserError(f"report needs the workdir of a run, or several, e.g. {example_of('report')}")
    exports = [flag for flag in ("dawnbench", "mlperf") if values[flag].value is not None]
    if exports and len(workdirs) > 1:
        raise UserError(f"--{exports[0]} is of one run, not of {len(workdirs)}; give one workdir")
    if values.dawnbench and not values.dawnbench.endswith((".tsv", ".json")):
        raise UserError(f"--dawnbench={values.dawnbench} must end in .tsv or .json, which chooses the format")
    default = epath.Path(workdirs[0]) / "report.html" if len(workdirs) == 1 else epath.Path("report.html")
    out = epath.Path(values.out) if values.out else default
    records = read_runs(workdirs)
    require_output(str(out) if values.out is None else values.out, "--out")
    for flag in exports:
        require_output(values[flag].value or "", f"--{flag}")
    if values.follow:
        return _follow(workdirs, out, values)
    _write(records, out, values)
    print(f"the report is {out}")
    return 0


def _define(values: flags.FlagValues) -> None:
    about = "Page to write; by default report.html in the workdir, for several runs in this folder."
    flags.DEFINE_string("out", None, about, flag_values=values)
    about = f"Write the page anew every {_SECONDS} s while a run is in progress; an open browser reloads it."
    flags.DEFINE_bool("follow", False, about, flag_values=values)
    about = "File for DAWNBench: F.tsv for the evaluations, or F.json for the entry."
    flags.DEFINE_string("dawnbench", None, about, flag_values=values)
    flags.DEFINE_string("mlperf", None, "File for the run as an MLPerf log.", flag_values=values)


def _follow(workdirs: Sequence[str], out: epath.Path, values: flags.FlagValues) -> int:
    """Writes the page anew while a run is in progress; returns the exit code."""
    shown: list[RunRecords] | None = None  # on the page; without the owner, whose heartbeat always changes
    records: list[RunRecords] = []
    last_sign, holders = monotonic(), None
    try:
        while True:
            records = read_runs(workdirs)
            if (now := [of_run.holder for of_run in records]) != holders:
                last_sign, holders = monotonic(), now
            alive = monotonic() - last_sign < _SILENCE_SECONDS
            if all(run.state.kind != "in progress" for run in _runs(records, alive)):
                _write(records, out, values, alive=alive)
                print(f"no run is in progress any more; the report is {out}")
                return 0
            new = [dataclasses.replace(of_run, holder=None) for of_run in records]
            if new != shown:
                _write(records, out, values, alive=alive, refresh=True)
                if shown is None:
                    print(f"following; the report is {out}, Ctrl-C ends this", flush=True)
                shown = new
            sleep(_SECONDS)
    except KeyboardInterrupt:
        if shown is not None:
            _write(records, out, values)  # without the reload
        print(f"\nno longer following; the report is {out}")
        return 130


def _runs(records: Sequence[RunRecords], alive: bool | None) -> list[ReportRun]:
    return [run_of(of_run, place, assume_alive=alive) for place, of_run in enumerate(records)]


def _write(
    records: Sequence[RunRecords],
    out: epath.Path,
    values: flags.FlagValues,
    *,
    alive: bool | None = None,
    refresh: bool = False,
) -> None:
    """Writes the page and the formats that flags ask for."""
    texts = {out: render(_runs(records, alive), refresh_seconds=_SECONDS if refresh else None)}
    if values.dawnbench:
        to_format = dawnbench_tsv if values.dawnbench.endswith(".tsv") else dawnbench_json
        texts[epath.Path(values.dawnbench)] = to_format(records[0])
    if values.mlperf:
        texts[epath.Path(values.mlperf)] = mlperf_log(records[0])
    for file, text in texts.items():
        write_result(str(file), text.encode())
