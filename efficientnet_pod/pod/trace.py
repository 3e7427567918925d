"""Traces of JAX's profiler: how they are taken, and which operations of a trace take the time."""

import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

_TPU_LINE = "XLA Ops"  # of a TPU's plane; elsewhere each operation names itself

_NO_OPERATIONS = ("end: ", "ThreadpoolListener")  # half of what a CPU's trace has


class Trace:
    """A trace under way on this host. Only one can be: JAX refuses a second one."""

    def __init__(self) -> None:
        """Begins to record.

        Raises:
          RuntimeError: something else in this process takes a trace.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="efficientnet-pod-trace-"))
        options: Any = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # each call of Python would fill the trace and slow the host down
        options.host_tracer_level = 1
        try:
            jax.profiler.start_trace(str(self.folder), profiler_options=options)
        except BaseException:
            self.forget()
            raise

    def step(self, step: int) -> AbstractContextManager[Any]:
        """Returns a context that viewers show as a step of training."""
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def stop(self) -> list[Path]:
        """Ends the recording and returns its files, below ``folder``; takes about a second."""
        jax.profiler.stop_trace()
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file()]

    def forget(self) -> None:
        """Deletes the files."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Operation:
    """An operation of the compiled programs in a trace.

    Attributes:
      name: its name in the program, such as ``fusion.12``.
      program: name of the program; empty where the trace has none.
      calls: how often it ran, on all devices of the host.
      seconds: time that it took by itself, without operations inside it; summed over the devices.
    """

    name: str
    program: str
    calls: int
    seconds: float


class Span(NamedTuple):
    """A stretch of time of one operation on one thread or device; nanoseconds."""

    start: float
    end: float
    name: str
    program: str


def operations_in(file: Path) -> list[Operation]:
    """Returns the operations of a trace's ``.xplane.pb``, those that took most time first."""
    profile: Any = jax.profiler.ProfileData.from_file(str(file))
    return operations_of(_spans(line) for plane in profile.planes for line in plane.lines)


def operations_of(lines: Iterable[Iterable[Span]]) -> list[Operation]:
    """Returns the operations in the spans of threads and devices; a span has the time of those inside it."""
    seconds, calls = defaultdict[tuple[str, str], float](float), defaultdict[tuple[str, str], int](int)
    for spans in lines:
        around: list[Span] = []
        for span in sorted(spans, key=lambda span: (span.start, -span.end)):
            while around and around[-1].end <= span.start:
                around.pop()
            took = span.end - span.start
            seconds[span.name, span.program] += took / 1e9
            calls[span.name, span.program] += 1
            if around:
                seconds[around[-1].name, around[-1].program] -= min(took, around[-1].end - span.start) / 1e9
            around.append(span)
    found = [Operation(*key, calls[key], max(taken, 0.0)) for key, taken in seconds.items()]
    return sorted(found, key=lambda operation: (-operation.seconds, operation.name))


def kinds_of(operations: Iterable[Operation]) -> list[Operation]:
    """Returns the operations summed by their name without its number: ``fusion`` for ``fusion.12``."""
    seconds, calls = defaultdict[str, float](float), defaultdict[str, int](int)
    for operation in operations:
        kind = re.sub(r"(\.\d+)+(\.clone)?$", "", operation.name)
        seconds[kind] += operation.seconds
        calls[kind] += operation.calls
    found = [Operation(kind, "", calls[kind], taken) for kind, taken in seconds.items()]
    return sorted(found, key=lambda operation: (-operation.seconds, operation.name))


def _spans(line: Any) -> Iterator[Span]:
    """Yields the operations of compiled programs on a line of a trace, which has many other events."""
    for event in line.events:
        name = str(event.name)
        if name.startswith(_NO_OPERATIONS):
            continue
        stats: dict[str, str] = {}
        for key, value in event.stats:
            if key in ("hlo_op", "hlo_module"):
                stats[key] = str(value)
                if len(stats) == 2:
                    break
        if "hlo_op" in stats or line.name == _TPU_LINE:
            # A TPU gives the whole instruction.
            short = stats.get("hlo_op", name).partition(" = ")[0].removeprefix("%")
            start = event.start_ns
            yield Span(start, start + event.duration_ns, short, stats.get("hlo_module", ""))
