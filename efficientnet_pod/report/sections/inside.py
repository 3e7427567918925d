"""The sections on a run from inside: the host that the others wait for, and traces of the profiler."""

import re
from collections import defaultdict
from typing import Any

from efficientnet_pod.pod.terminal import percent, plural, significant, whole_number
from efficientnet_pod.report.blocks import Block, Folded, PageTable, Text
from efficientnet_pod.report.figures import row_seconds
from efficientnet_pod.report.side_by_side import ReportRun
from efficientnet_pod.report.words import thinned
from efficientnet_pod.workdir.profile import FOLDER, TraceRecord
from efficientnet_pod.workdir.values import number, whole

_MOST_ROWS = 200
_TOP = 12
_OWN_FILE = re.compile(r"plugins/profile/[\w.-]+/[\w.-]+")  # of a trace; a workdir may be foreign


def slowest_host(run: ReportRun) -> list[Block]:
    """Returns how long the steps have waited for single hosts, by row too; nothing of a run with one host."""
    rows, lost, for_input, total = [], defaultdict[int, float](float), defaultdict[int, float](float), 0.0
    for row in run.records.train:
        host, share, seconds = (
            whole(row.get("slowest_host")),
            number(row.get("slowest_host_share")),
            row_seconds(row),
        )
        if host is None or share is None or not seconds:
            continue
        of_input, late = number(row.get("slowest_host_input")) or 0.0, seconds * share / (1 + share)
        total += seconds
        lost[host] += late
        for_input[host] += late * of_input
        cause = _cause(of_input, 1) if share else ""
        rows.append([whole_number(row["step"]), str(host), f"+{percent(share, 1)}", cause])
    if not rows:
        return []
    host = max(lost, key=lambda host: (lost[host], -host))
    share = lost[host] / max(total - lost[host], 1e-9)
    cause = _cause(for_input[host], lost[host])
    text = f"Steps took {percent(share, 1)} longer for the sake of host {host}; the reason is {cause}."
    note = "A device that computes slowly keeps all hosts waiting in the same step, and is not seen here."
    shown, apart = thinned(rows, _MOST_ROWS)
    note += f" One row in {apart} is shown." if apart > 1 else ""
    table = PageTable(["step", "host", "longer by", "reason"], shown, frozenset({0, 1, 2}), note=note)
    return [Text(text), Folded("Slowest host by row of the metrics", table)]


def _cause(for_input: float, lost: float) -> str:
    return "its input" if for_input >= lost / 2 else "its own work"


def profile(run: ReportRun, *, is_linked: bool) -> list[Block]:
    """Returns the place of the newest trace, a link if the page is in the workdir, and what took longest."""
    traces = [trace for trace in run.records.traces if trace.file]
    if not traces:
        failed = [
            f"No trace of steps {trace.first:,} to {trace.last:,}: {trace.error}"
            for trace in run.records.traces
        ]
        return [Text(text) for text in failed[-1:]]
    newest = traces[-1]
    steps = f"steps {newest.first:,} to {newest.last:,} of host {newest.host}"
    folder = newest.file.rpartition("/")[0]
    link = f"{FOLDER}/{folder}/" if is_linked and _OWN_FILE.fullmatch(newest.file) else ""
    blocks: list[Block] = [
        Text(f"Trace of {steps}: {FOLDER}/{newest.file}", link=link),
        Text(f"tensorboard --logdir={run.records.path}/{FOLDER} shows it, with the package xprof."),
    ]
    if newest.seconds > 0 and newest.operations:
        blocks += _operations(newest)
    if len(traces) > 1:
        others = [
            [f"{trace.first:,} to {trace.last:,}", str(trace.host), trace.file] for trace in traces[:-1]
        ]
        blocks.append(
            Folded(f"{plural(len(others), 'earlier trace')}", PageTable(["steps", "host", "file"], others))
        )
    return blocks


def _operations(trace: TraceRecord) -> list[Block]:
    """Returns the kinds of operations and the single ones that took most time."""
    rows = [_row(operation, trace.seconds) for operation in trace.kinds]
    note = "Time of all devices of the host, without the operations inside an operation. "
    note += "Operations between devices (psum, all-reduce) have the wait for the others in them."
    header = ["operations", "calls", "time, s", "share"]
    kinds = PageTable(header, rows[:_TOP], frozenset({1, 2, 3}), "Longest kinds of operations", note)
    single = [_row(operation, trace.seconds) for operation in trace.operations]
    return [kinds, Folded("Longest single operations", PageTable(header, single, frozenset({1, 2, 3})))]


def _row(operation: dict[str, Any], total: float) -> list[str]:
    seconds = number(operation.get("seconds")) or 0.0
    calls = whole_number(whole(operation.get("calls")))
    return [str(operation.get("name")), calls, significant(seconds, 3), percent(seconds / total, 1)]
