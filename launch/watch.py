"""Owns the watch over a job: waits for its end, and makes it again when its machines were taken away."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from efficientnet_pod.errors import RunError
from launch.backends.api_errors import QuotaError
from launch.backends.backend import Backend, State
from launch.job.job import Job
from launch.job.remembered import remember
from launch.workdir.progress import Progress, ended_codes, is_cancelled, read_progress
from launch.workdir.storage import Storage

POLL_SECONDS = 10.0
BACKOFF_SECONDS, MOST_BACKOFF_SECONDS = 30.0, 900.0
MOST_MISSES = 20  # looks in a row that the API did not answer
_GONE_LOOKS = 3  # before a resource without a word from its workers counts as taken away


@dataclass(frozen=True)
class Pace:
    """How often to look, and how long to wait before a job is made again: twice as long each time."""

    poll: float = POLL_SECONDS
    backoff: float = BACKOFF_SECONDS
    most: float = MOST_BACKOFF_SECONDS

    def pause(self, failures: int) -> float:
        """Returns the seconds before the next start, after so many without progress."""
        return min(self.backoff * 2**failures, self.most)


class Watch:
    """One job under watch, attempt after attempt."""

    def __init__(
        self,
        job: Job,
        backend: Backend,
        storage: Storage,
        *,
        pace: Pace | None = None,
        report: Callable[[str], None] = lambda line: print(line, flush=True),
        sleep: Callable[[float], None] = time.sleep,
    ):
        """Looks at nothing yet.

        Args:
          job: as it was submitted last.
          backend: that runs it.
          storage: of its workdir.
          pace: of looking and of new starts.
          report: gets a line for each change.
          sleep: waits.
        """
        self.job, self._backend, self._storage = job, backend, storage
        self._pace, self._report, self._sleep = pace or Pace(), report, sleep
        self._restarts = self._failures = 0
        self._best = read_progress(job.workdir, storage).checkpoint

    def run(self) -> int:
        """Returns the exit code of the job when it has ended: 0, 2 for a mistake in it, else 1.

        Raises:
          UserError: the API refuses to make it again, for another reason than the quota.
          RunError: the API does not answer any more.
        """
        while True:
            ended = self._until_it_ends()
            if ended is not None:
                return ended
            if (ended := self._again()) is not None:
                return ended

    def _until_it_ends(self) -> int | None:
        """Returns the exit code of a job that has ended; None for one whose machines are lost."""
        word, gone = "", 0
        while True:
            state = self._state()
            codes = ended_codes(self.job, self._storage)
            if state.word != word:
                word = state.word
                self._say(word + (f": {state.detail}" if state.detail and state.phase == "lost" else ""))
            if is_cancelled(self.job, self._storage):
                self._say("cancelled; it is not made again")
                return 1
            if 2 in codes:
                self._free_machines()
                self._say("its command or recipe must be changed (exit code 2), so it is not made again")
                return 2
            if codes and len(codes) >= self._expected(state):
                if not any(codes):
                    return self._done()
                self._say(f"the run failed with exit code {max(codes)}")
                return None
            gone = gone + 1 if state.phase == "gone" else 0
            if state.phase == "lost" or gone >= _GONE_LOOKS:
                return None
            self._sleep(self._pace.poll)

    def _expected(self, state: State) -> int:
        """Workers that must have ended: all, or those that could say so before the machines went."""
        return 1 if state.phase == "gone" else self.job.hosts

    def _done(self) -> int:
        self._free_machines()
        far = read_progress(self.job.workdir, self._storage)
        top1 = "" if far.top1 is None else f", top-1 {far.top1:.2%}"
        self._say(f"done at step {far.step:,}{top1}; records in {self.job.workdir}")
        return 0

    def _free_machines(self) -> None:
        if not self.job.keep:
            self._backend.cancel(self.job)

    def _again(self) -> int | None:
        """Makes the job again; returns the exit code if it is not to be."""
        far = read_progress(self.job.workdir, self._storage)
        self._say(_lost_work(far))
        self._failures = 0 if far.checkpoint > self._best else self._failures + 1
        self._best = max(self._best, far.checkpoint)
        if self._restarts >= self.job.max_restarts:
            self._backend.cancel(self.job)
            self._say(
                f"not made again: it was {self._restarts} times, and --max-restarts={self.job.max_restarts}; "
                "submit it again to go on"
            )
            return 1
        pause = self._pace.pause(max(0, self._failures - 1))
        self._restarts += 1
        self._say(f"made again in {pause:g} s (restart {self._restarts} of {self.job.max_restarts})")
        self._sleep(pause)
        self._backend.cancel(self.job)
        if is_cancelled(self.job, self._storage):
            self._say("cancelled; it is not made again")
            return 1
        self.job = self.job.again()
        remember(self.job)
        try:
            self._backend.submit(self.job)
        except (QuotaError, RunError) as error:  # of the quota the lost machines may hold a part for a while
            self._say(str(error))
        return None

    def _state(self) -> State:
        for _ in range(MOST_MISSES - 1):
            try:
                return self._backend.state(self.job)
            except RunError as error:
                self._say(str(error))
                self._sleep(self._pace.poll)
        return self._backend.state(self.job)

    def _say(self, line: str) -> None:
        self._report(f"{self.job.name} (attempt {self.job.attempt}): {line}")


def _lost_work(far: Progress) -> str:
    if not far.step:
        return "the machines are gone before its first step; no work is lost"
    of = f" of {far.total:,}" if far.total else ""
    kept = f"checkpoint at step {far.checkpoint:,}" if far.checkpoint else "no checkpoint yet"
    lost = f"{far.lost_steps:,} steps of work are lost" if far.lost_steps else "no work is lost"
    return f"the machines are gone after step {far.step:,}{of}; {kept}: {lost}"
