"""What `watch` says of a run between its changes of state: progress and long waits, not too often."""

import math
from collections.abc import Callable
from contextlib import suppress

from efficientnet_pod.errors import RunError
from efficientnet_pod.pod.terminal import duration, share, three_digits
from efficientnet_pod.workdir.redact import redact
from launch.backends.backend import State
from launch.flags import PROGRAM
from launch.job.job import Job
from launch.workdir.progress import Progress, notes, read_progress
from launch.workdir.storage import Storage

_LOOKS = 3  # at the state of the job, for each one at the records, which are read whole
_LEAST_SHARE = 0.05  # of all steps, between two lines
_LONGEST_SILENCE = 300.0  # seconds between two lines of a run that goes on
_FIRST_WAIT = (
    300.0  # seconds before the first line on a wait for machines; each further one takes twice as long
)


class News:
    """Lines on a run under watch."""

    def __init__(
        self,
        storage: Storage,
        say: Callable[[str], None],
        clock: Callable[[], float],
        *,
        tells_waits: bool,
    ):
        """Takes the workdir's storage, what prints a line, a clock in seconds, and whether waits are told.

        A watch with several machines to choose from does not wait for long.
        """
        self._storage, self._say, self._clock, self._tells_waits = storage, say, clock, tells_waits
        self._said_at, self._looks = -math.inf, 0
        self._said, self._noted = Progress(), dict[int, str]()
        self._phase, self._since, self._next_wait = "", clock(), _FIRST_WAIT

    def tell(self, job: Job, state: State) -> None:
        """Says what is new of a job in this state, if it is time for a line."""
        now = self._clock()
        if state.phase != self._phase:
            self._phase, self._since, self._next_wait = state.phase, now, _FIRST_WAIT
            self._noted = {}
        if state.phase == "waiting" and self._tells_waits:
            self._tell_wait(job, state, now - self._since)
        elif state.phase == "running":
            self._looks += 1
            if self._looks % _LOOKS != 1:
                return
            self.tell_notes(job)
            with suppress(RunError):  # of the storage; a later look may find it
                self._tell_progress(read_progress(job.workdir, self._storage), now)

    def _tell_wait(self, job: Job, state: State, seconds: float) -> None:
        if seconds < self._next_wait:
            return
        self._next_wait = 2 * seconds
        where = f" in {job.zone}" if job.zone else ""
        self._say(
            f"{state.word} for {duration(seconds)}: no {job.machines} is free{where}, and it goes on "
            f"waiting; or give up: {PROGRAM} cancel {job.name}, then submit it with another --zone or --tpu"
        )

    def tell_notes(self, job: Job) -> None:
        """Says what workers have found wrong with their machines."""
        found: dict[int, str] = {}
        with suppress(RunError):
            found = notes(job, self._storage, known=self._noted)
        for worker, note in sorted(found.items()):
            if note not in self._noted.values():  # a fault of the whole zone is said once
                self._say(f"worker {worker}: {redact(note)}")
            self._noted[worker] = note

    def _tell_progress(self, progress: Progress, now: float) -> None:
        said = self._said
        if progress.step == said.step and progress.top1 == said.top1:
            return
        is_far = abs(progress.share - said.share) >= _LEAST_SHARE or progress.top1 != said.top1
        if is_far or now - self._said_at >= _LONGEST_SILENCE:
            self._said, self._said_at = progress, now
            self._say(progress_line(progress, before=said))


def progress_line(progress: Progress, *, before: Progress) -> str:
    """Returns step, share, rate and time left; the accuracy where it has changed since the line before."""
    parts = [f"step {progress.step_of_total}"]
    if progress.total:
        parts[0] += f" ({share(progress.step, progress.total)})"
    if progress.images_per_second is not None:
        parts.append(f"{three_digits(progress.images_per_second)} images/s")
    if progress.seconds_left:
        parts.append(f"about {duration(progress.seconds_left)} left")
    if progress.top1 is not None and progress.top1 != before.top1:
        parts.append(f"top-1 {progress.top1:.2%}")
    return ", ".join(parts)


def lost_work(progress: Progress) -> str:
    """Returns how far a run was when its machines went, and what of that is lost."""
    if not progress.step:
        return "the machines are gone before its first step; no work is lost"
    kept = f"checkpoint at step {progress.checkpoint:,}" if progress.checkpoint else "no checkpoint yet"
    steps = progress.step - progress.checkpoint
    lost = f"{steps:,} steps of work are lost" if steps > 0 else "no work is lost"
    return f"the machines are gone after step {progress.step_of_total}; {kept}: {lost}"
