"""The command `watch`: it waits for the end of a job, and starts the job again when its machines are lost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from absl import flags

from efficientnet_pod.cli.flags import define_number
from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.optim.ranges import Range
from launch.backends.api_errors import QuotaError
from launch.backends.backend import Backend, State, backend_named
from launch.flags import PROGRAM, parse_job_name
from launch.job.job import Job
from launch.job.remembered import remember
from launch.workdir.progress import Progress, exit_codes, is_cancelled, read_progress
from launch.workdir.storage import Storage, storage_of

MOST_MISSES = 20  # attempts in a row to learn the state, before the API's error ends the watch
_GONE_LOOKS = 3  # looks at a missing resource whose workers left no exit code, before it counts as lost


@dataclass(frozen=True)
class Pace:
    """Waiting times in seconds.

    Attributes:
      poll: time between looks.
      backoff: time before the first restart; it doubles with each restart without progress.
      most: longest time before a restart.
    """

    poll: float = 10.0
    backoff: float = 30.0
    most: float = 900.0

    def pause(self, failures: int) -> float:
        """Returns the seconds before the next start, after this number of failures without progress."""
        return min(self.backoff * 2**failures, self.most)


def run_watch(arguments: Sequence[str]) -> int:
    """Returns the exit code of the job once it has ended."""
    values, job = parse_job_name("watch", arguments, _define)
    backend = backend_named(job.backend)
    if backend.restarts != "watch":
        raise UserError(f"{job.name} needs no watch: {backend.restarts}; see: {PROGRAM} status {job.name}")
    pace = Pace(poll=values.poll_seconds, backoff=values.backoff_seconds)
    return Watch(job, backend, storage_of(job.workdir), pace=pace).run()


class Watch:
    """One job under watch, attempt after attempt."""

    def __init__(
        self,
        job: Job,
        backend: Backend,
        storage: Storage,
        *,
        pace: Pace,
        write_line: Callable[[str], None] = lambda line: print(line, flush=True),
        sleep: Callable[[float], None] = time.sleep,
    ):
        """Reads the progress of the job, as it was last submitted; `write_line` prints each change."""
        self.job, self._backend, self._storage = job, backend, storage
        self._pace, self._write_line, self._sleep = pace, write_line, sleep
        self._restarts = self._failures = 0
        self._best = read_progress(job.workdir, storage).checkpoint

    def run(self) -> int:
        """Returns the exit code of the job when it has ended: 0, 2 for a mistake of the user's, else 1.

        Raises:
          UserError: the API refuses to start the job again, for another reason than the quota.
          RunError: the API no longer answers.
        """
        while True:
            code = self._until_it_ends()
            if code is None:
                code = self._start_again()
            if code is not None:
                return code

    def _until_it_ends(self) -> int | None:
        """Returns the exit code of a job that has ended; None for one whose machines are lost."""
        word, gone = "", 0
        while True:
            state = self._state()
            codes = exit_codes(self.job, self._storage)
            if state.word != word:
                word = state.word
                self._say(f"{word}: {state.detail}" if state.detail and state.phase == "lost" else word)
            if is_cancelled(self.job, self._storage):
                return self._cancelled()
            if 2 in codes:
                self._free_machines()
                self._say("not started again: its command or recipe must be changed (exit code 2)")
                return 2
            # Of machines that are gone, perhaps one worker alone had the time to leave its exit code.
            if codes and len(codes) >= (1 if state.phase == "gone" else self.job.hosts):
                if not any(codes):
                    return self._done()
                self._say(f"the run failed with exit code {max(codes)}")
                return None
            gone = gone + 1 if state.phase == "gone" else 0
            if state.phase == "lost" or gone >= _GONE_LOOKS:
                return None
            self._sleep(self._pace.poll)

    def _done(self) -> int:
        self._free_machines()
        progress = read_progress(self.job.workdir, self._storage)
        top1 = "" if progress.top1 is None else f", top-1 {progress.top1:.2%}"
        self._say(f"done at step {progress.step:,}{top1}; records in {self.job.workdir}")
        return 0

    def _cancelled(self) -> int:
        self._say("cancelled; it is not started again")
        return 1

    def _free_machines(self) -> None:
        if not self.job.keep:
            self._backend.cancel(self.job)

    def _start_again(self) -> int | None:
        """Starts the next attempt; returns an exit code instead if there is to be none."""
        progress = read_progress(self.job.workdir, self._storage)
        self._say(_lost_work(progress))
        self._failures = 0 if progress.checkpoint > self._best else self._failures + 1
        self._best = max(self._best, progress.checkpoint)
        limit = self.job.max_restarts
        if self._restarts >= limit:
            self._backend.cancel(self.job)
            self._say(f"not started again: --max-restarts={limit} are used up; submit it again to go on")
            return 1
        pause = self._pace.pause(max(0, self._failures - 1))
        self._restarts += 1
        self._say(f"it starts again in {pause:g} s (restart {self._restarts} of {limit})")
        self._sleep(pause)
        self._backend.cancel(self.job)
        if is_cancelled(self.job, self._storage):
            return self._cancelled()
        self.job = self.job.again()
        remember(self.job)
        try:
            self._backend.submit(self.job)
        except (QuotaError, RunError) as error:  # the lost machines may still count against the quota
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
        self._write_line(f"{self.job.name} (attempt {self.job.attempt}): {line}")


def _lost_work(progress: Progress) -> str:
    if not progress.step:
        return "the machines are gone before its first step; no work is lost"
    kept = f"checkpoint at step {progress.checkpoint:,}" if progress.checkpoint else "no checkpoint yet"
    steps = progress.step - progress.checkpoint
    lost = f"{steps:,} steps of work are lost" if steps > 0 else "no work is lost"
    return f"the machines are gone after step {progress.step_of_total}; {kept}: {lost}"


def _define(values: flags.FlagValues) -> None:
    define_number(values, "poll_seconds", Pace.poll, "Time between looks.", Range(0.05, 86_400))
    about = "Time before the first restart; it doubles with each restart without progress."
    define_number(values, "backoff_seconds", Pace.backoff, about, Range(0, 86_400))
