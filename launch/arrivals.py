"""Whether the workers of an attempt have begun: each one leaves a log in the workdir."""

from collections.abc import Callable

from efficientnet_pod.errors import RunError
from efficientnet_pod.pod.terminal import duration
from launch.job.job import Job
from launch.workdir.progress import workers_with_a_log
from launch.workdir.storage import Storage


class Arrivals:
    """The workers of one attempt after another, as far as they have begun."""

    def __init__(self, storage: Storage, seconds: float, clock: Callable[[], float]):
        """Takes the workdir's storage, the seconds that a worker has for its first log, and a clock."""
        self._storage, self._seconds, self._clock = storage, seconds, clock
        self.begin()

    def begin(self) -> None:
        """Forgets the attempt before."""
        self._runs_since: float | None = None
        self._are_complete = False

    def missing(self, job: Job) -> list[int]:
        """Returns the workers that have left no log in their time; the job must have its machines."""
        now = self._clock()
        if self._runs_since is None:
            self._runs_since = now
        if self._are_complete or now - self._runs_since < self._seconds:
            return []
        missing = sorted(set(range(job.hosts)) - self._logs(job))
        self._are_complete = not missing
        return missing

    def is_traceless(self, job: Job) -> bool:
        """Returns whether the job had machines, and none of its workers has left a log."""
        return self._runs_since is not None and not self._logs(job)

    def line(self, job: Job, missing: list[int]) -> str:
        """Returns why workers may be missing, in one line."""
        each = "each worker" if len(missing) == job.hosts else f"worker {missing[0]}"
        more = f" and {len(missing) - 1} more" if 1 < len(missing) < job.hosts else ""
        have = "have" if more else "has"
        return (
            f"{each}{more} of {job.hosts} {have} left no log within {duration(self._seconds)}: the host is "
            "missing, its start-up script does not run, or it cannot write to the workdir; the machines are "
            "given back"
        )

    def _logs(self, job: Job) -> set[int]:
        try:
            return workers_with_a_log(job, self._storage)
        except RunError:  # that nothing can be read says nothing of the workers
            return set(range(job.hosts))
