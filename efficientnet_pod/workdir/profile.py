"""The folder ``profile`` of a workdir: traces of JAX's profiler, what is in them, and requests for one."""

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from etils import epath

from efficientnet_pod.workdir.files import contents_of, write_json, write_whole
from efficientnet_pod.workdir.values import list_of, number, parse_table, table_of, whole
from efficientnet_pod.workdir.workdir import Workdir

FOLDER = "profile"
TRACES = f"{FOLDER}/traces.json"
_REQUEST, _TRACES = "request.json", "traces.json"
MOST_STEPS = 1000  # of a request
_MOST_TRACES = 100  # that the list names


@dataclass(frozen=True)
class Request:
    """A request for a trace.

    Attributes:
      id: its own id.
      run_id: id of the process that it is for, by ``owner.json``.
      steps: number of steps to record.
    """

    id: str
    run_id: str
    steps: int


@dataclass(frozen=True)
class TraceRecord:
    """A trace that was taken, or failed.

    Attributes:
      request: id of the request; empty where the config has asked.
      first, last: steps that were recorded, both included.
      host: number of the host.
      file: path of the ``.xplane.pb`` below the folder; empty where it failed.
      error: why it failed; empty where it did not.
      seconds: time of all operations, summed over the devices.
      kinds: kinds of operations, the longest first, each with name, calls and seconds.
      operations: the longest single ones, with their program too.
    """

    request: str
    first: int
    last: int
    host: int = 0
    file: str = ""
    error: str = ""
    seconds: float = 0.0
    kinds: Sequence[dict[str, Any]] = ()
    operations: Sequence[dict[str, Any]] = ()


class ProfileFolder:
    """The folder ``profile`` of a workdir: traces and their list by the run, a request by a command."""

    def __init__(self, workdir: Workdir):
        """Names the folder; nothing is touched."""
        self.path: epath.Path = workdir.path / FOLDER

    def ask(self, run_id: str, steps: int) -> Request:
        """Leaves a request for the run; returns it. Raises what writing raises."""
        request = Request(uuid.uuid4().hex, run_id, steps)
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / _REQUEST, asdict(request))
        return request

    def request(self) -> Request | None:
        """Returns the request that waits; None if there is none. Damaged ones ask for no step."""
        stored = contents_of(self.path / _REQUEST)
        if stored is None:
            return None
        table = parse_table(stored) or {}
        steps = whole(table.get("steps")) or 0
        return Request(str(table.get("id")), str(table.get("run_id")), min(steps, MOST_STEPS))

    def withdraw(self) -> None:
        """Removes the request that waits, if there is one."""
        (self.path / _REQUEST).unlink(missing_ok=True)

    def add(self, record: TraceRecord) -> None:
        """Adds a trace to the list."""
        self.path.mkdir(parents=True, exist_ok=True)
        traces = [asdict(known) for known in [*self.traces(), record][-_MOST_TRACES:]]
        write_json(self.path / _TRACES, {"traces": traces}, indent=1)

    def keep(self, name: str, contents: bytes) -> None:
        """Writes a file of a trace; ``name`` is its path below the folder."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, contents)

    def traces(self) -> list[TraceRecord]:
        """Returns the traces in their order; what is damaged is left out."""
        return traces_in(contents_of(self.path / _TRACES))


def traces_in(stored: bytes | None) -> list[TraceRecord]:
    """Returns the traces in the contents of ``traces.json``; none if there is no such file."""
    table = parse_table(stored) if stored else None
    records = []
    for row in map(table_of, list_of((table or {}).get("traces"))):
        first, last = whole(row.get("first")), whole(row.get("last"))
        if first is None or last is None:
            continue
        request, file, error = (str(row.get(name) or "") for name in ("request", "file", "error"))
        kinds, operations = (
            tuple(each for each in map(table_of, list_of(row.get(name))) if each)
            for name in ("kinds", "operations")
        )
        seconds, host = number(row.get("seconds")) or 0.0, whole(row.get("host")) or 0
        records.append(TraceRecord(request, first, last, host, file, error, seconds, kinds, operations))
    return records
