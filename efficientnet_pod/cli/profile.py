"""The command ``profile``: asks a running run for a trace of its next steps."""

import time
from collections.abc import Sequence

from absl import flags

from efficientnet_pod.cli.flags import define_number, parse_flags
from efficientnet_pod.cli.help import example_of
from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.optim.ranges import Range
from efficientnet_pod.workdir.files import reason
from efficientnet_pod.workdir.owner_record import FILE, OwnerRecord, read_owner
from efficientnet_pod.workdir.profile import MOST_STEPS, ProfileFolder, Request, TraceRecord
from efficientnet_pod.workdir.workdir import Workdir

_LOOK_SECONDS = 0.5


def run_profile(arguments: Sequence[str]) -> None:
    """Asks the run in a workdir for a trace, waits for it and prints where it is.

    Raises:
      UserError: no run is in progress there, or the request cannot be left.
      RunError: the run has ended or has not answered in time, or the trace failed.
    """
    folders: list[str] = []
    values = parse_flags("profile", arguments, _define, words=folders)
    if len(folders) != 1:
        raise UserError(f"profile needs the workdir of one run, e.g. {example_of('profile')}")
    workdir = Workdir(folders[0])
    folder, owner = ProfileFolder(workdir), _require_owner(workdir)
    try:
        request = folder.ask(owner.run_id or "", values.steps)
    except Exception as error:  # an OSError, or what the library of an object store raises
        raise UserError(f"'{folder.path}' cannot be written: {reason(error)}; ask where it can") from error
    try:
        trace = _wait_for(request, folder, workdir, seconds=values.wait)
    except BaseException:
        folder.withdraw()
        raise
    if trace.error:
        raise RunError(f"the run could not trace steps {trace.first:,} to {trace.last:,}: {trace.error}")
    longest = ", ".join(f"{row['name']} {row['seconds'] / trace.seconds:.0%}" for row in trace.kinds[:3])
    print(
        f"steps {trace.first:,} to {trace.last:,} are traced in {folder.path / trace.file}; "
        f"longest operations: {longest or 'none'}; tensorboard --logdir={folder.path} shows it"
    )


def _define(values: flags.FlagValues) -> None:
    steps, wait = Range(1, MOST_STEPS, whole=True), Range(1, 86_400)
    define_number(values, "steps", 10, "Number of steps to trace.", steps)
    about = "Seconds to wait for the trace; a run that evaluates or compiles answers after that."
    define_number(values, "wait", 600, about, wait)


def _require_owner(workdir: Workdir) -> OwnerRecord:
    """Returns who holds the workdir; UserError where no run is in progress."""
    try:
        record = read_owner(workdir.path / FILE)
    except Exception as error:
        raise UserError(f"workdir '{workdir.path}' cannot be read: {reason(error)}; correct that") from error
    if record is None or record.lives is False or not record.run_id:
        raise UserError(
            f"no run is in progress in '{workdir.path}'; start one, or trace steps of the next: "
            "--config.profile=200:210"
        )
    return record


def _wait_for(request: Request, folder: ProfileFolder, workdir: Workdir, *, seconds: float) -> TraceRecord:
    """Returns the trace of a request."""
    until = time.monotonic() + seconds
    while True:
        if trace := next((each for each in folder.traces() if each.request == request.id), None):
            return trace
        record = read_owner(workdir.path / FILE)
        if record is None or record.run_id != request.run_id or record.lives is False:
            raise RunError(f"the run in '{workdir.path}' has ended before it had {request.steps} more steps")
        if time.monotonic() > until:
            raise RunError(
                f"the run in '{workdir.path}' has not answered in {seconds:g} s; it evaluates, compiles or "
                "hangs: wait longer with --wait"
            )
        time.sleep(_LOOK_SECONDS)
