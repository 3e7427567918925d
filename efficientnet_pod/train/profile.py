"""Traces of training steps: those that the recipe names, and those that somebody asks a running run for."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from efficientnet_pod.errors import in_one_line
from efficientnet_pod.optim.ranges import steps_in
from efficientnet_pod.pod import hosts
from efficientnet_pod.pod.trace import Trace, kinds_of, operations_in
from efficientnet_pod.run.run import Run
from efficientnet_pod.train.log import TrainingLog
from efficientnet_pod.workdir.files import is_remote
from efficientnet_pod.workdir.owner import Owner
from efficientnet_pod.workdir.profile import ProfileFolder, Request, TraceRecord
from efficientnet_pod.workdir.workdir import Workdir

_LOOK_SECONDS, _LOOK_SECONDS_REMOTE = 0.5, 10.0  # between two looks for a request
_MOST_OPERATIONS = 50  # that the list of a trace has
_KEEP_SECONDS = 60.0  # at the end of a run, for a trace that is being written
_NOTHING: AbstractContextManager[None] = nullcontext()


@dataclass
class _Recording:
    """A trace under way, of the steps ``first`` to ``last``."""

    trace: Trace
    first: int
    last: int
    request: str
    newest: int


class Profile:
    """The profiler of a run, on host 0; on other hosts it does nothing.

    A trace is output: where it cannot be taken or written, that is one warning. It holds the run up for
    about a second. It changes no number of the run.
    """

    def __init__(self, run: Run, workdir: Workdir, log: TrainingLog, owner: Owner | None):
        """Begins to look for requests.

        Args:
          run: the run, whose recipe names steps.
          workdir: of the run.
          log: tells when steps end.
          owner: lock on the workdir, whose id requests name; None on other hosts than host 0.
        """
        self._log, self._owner, self._folder = log, owner, ProfileFolder(workdir)
        steps, total = run.plan.recipe.profile, run.plan.total_steps
        self._due = steps_in(steps) if owner else None
        if self._due and self._due[0] > total:
            log.display.warn(f"warning: config.profile={steps} is after the last step, {total:,}; lower it")
        self._asked: Request | None = None
        self._recording: _Recording | None = None
        self._keeping: threading.Thread | None = None
        self._closed = threading.Event()
        if owner:
            seconds = _LOOK_SECONDS_REMOTE if is_remote(workdir.path) else _LOOK_SECONDS
            looking = threading.Thread(target=self._look, args=(seconds,), name="profile", daemon=True)
            looking.start()

    def around(self, step: int) -> AbstractContextManager[None]:
        """Returns a context for the dispatch of a step, whose trace is taken if it is due."""
        if self._recording is None and self._due is None and self._asked is None:
            return _NOTHING
        return self._around(step)

    def close(self) -> None:
        """Ends a trace under way, with the steps that it has, and waits until it is written."""
        self._closed.set()
        if self._recording:
            self._stop(settled=True)  # what has not ended by now may never do
        if self._keeping:
            self._keeping.join(_KEEP_SECONDS)

    @contextmanager
    def _around(self, step: int) -> Iterator[None]:
        if not self._recording:
            self._start(step)
        recording = self._recording
        if not recording:
            yield
            return
        with recording.trace.step(step):
            yield
        recording.newest = step
        if step >= recording.last:
            self._stop()

    def _start(self, step: int) -> None:
        """Begins a trace if one is due at this step."""
        request, first, last = "", step, 0
        if self._due and self._due[0] <= step:
            (_, last), self._due = self._due, None
        elif self._asked:
            asked, self._asked = self._asked, None
            request, last = asked.id, step + asked.steps - 1
        if last < step:  # nothing is due; or a run that is resumed is past the steps
            return
        self._log.input_wait.settle()  # the steps before are not in the trace
        try:
            self._recording = _Recording(Trace(), first, last, request, step)
        except Exception as error:
            self._fail(TraceRecord(request, first, last), error)

    def _stop(self, *, settled: bool = False) -> None:
        """Ends the trace under way; a thread writes and reads it. Waits for the steps unless ``settled``."""
        recording, self._recording = self._recording, None
        assert recording
        record = TraceRecord(recording.request, recording.first, recording.newest)
        try:
            if not settled:
                self._log.input_wait.settle()
            files = recording.trace.stop()
        except Exception as error:
            self._fail(record, error)
            return
        arguments = (recording.trace, files, record, self._keeping)
        self._keeping = threading.Thread(target=self._keep, args=arguments, name="trace", daemon=True)
        self._keeping.start()

    def _keep(
        self, trace: Trace, files: list[Path], record: TraceRecord, before: threading.Thread | None
    ) -> None:
        """Writes the files of a trace into the workdir, then its operations; one trace after the other."""
        if before:
            before.join()
        try:
            for file in files:
                self._folder.keep(file.relative_to(trace.folder).as_posix(), file.read_bytes())
            (planes,) = (file for file in files if file.name.endswith(".xplane.pb"))
            operations = operations_in(planes)
            name = planes.relative_to(trace.folder).as_posix()
            known = asdict(record) | {"host": hosts.index(), "file": name}
            known["seconds"] = sum(operation.seconds for operation in operations)
            for field, longest in (("kinds", kinds_of(operations)), ("operations", operations)):
                known[field] = [asdict(operation) for operation in longest[:_MOST_OPERATIONS]]
            self._folder.add(TraceRecord(**known))
            self._log.display.print(
                f"steps {record.first:,} to {record.last:,} are traced; look with: tensorboard "
                f"--logdir={self._folder.path}"
            )
        except Exception as error:
            self._fail(record, error)
        finally:
            trace.forget()

    def _fail(self, record: TraceRecord, error: Exception) -> None:
        why = in_one_line(error)[:300]
        steps = f"steps {record.first:,} to {record.last:,}"
        self._log.display.warn(f"warning: there is no trace of {steps}: {why}; the run goes on without it")
        try:
            self._folder.add(TraceRecord(record.request, record.first, record.last, error=why))
        except Exception:  # the warning has said it
            return

    def _look(self, seconds: float) -> None:
        """Takes requests out of the workdir until the run ends; a workdir that cannot be read has none."""
        assert self._owner
        while not self._closed.wait(seconds):
            try:
                if request := self._folder.request():
                    self._folder.withdraw()
                    if request.run_id == self._owner.run_id and request.steps:
                        self._asked = request
            except Exception:  # of a network file system, for a moment; nobody depends on a trace
                continue
