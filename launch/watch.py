"""The command `watch`: it waits for the end of a job, and starts the job again when its machines are lost."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import cast

from absl import flags

from efficientnet_pod.errors import RunError, UserError
from launch.arrivals import Arrivals
from launch.backends.api_errors import QuotaError
from launch.backends.backend import Backend, Restarted, State, backend_named
from launch.elastic import Wishes, define_wishes, wishes_of
from launch.flags import PROGRAM, parse_job_name
from launch.hooks import Hooks, define_hooks
from launch.job.job import Job
from launch.job.remembered import remember
from launch.news import News, lost_work
from launch.pace import Pace, define_pace, pace_of
from launch.workdir.job_file import write_job
from launch.workdir.progress import (
    Progress,
    ask_to_stop,
    attempt_label,
    exit_codes,
    facts,
    give_turn,
    is_asked_to_stop,
    is_cancelled,
    next_attempt,
    read_progress,
)
from launch.workdir.reason import reason_of
from launch.workdir.storage import Storage, storage_of
from launch.workdir.watcher import WatcherMark

MOST_MISSES = 20  # attempts in a row to learn the state, before the API's error ends the watch
_GONE_LOOKS = 3  # looks at a missing resource whose workers left no exit code, before it counts as lost
# For workers that were asked to save and end, before their machines are taken in any case.
_STOP_SECONDS = 900.0
_MOST_TRACELESS = 2  # attempts in a row of which no worker left a log, after which the job is given up
_LONGEST_REST = 60.0  # seconds without a look at the mark of this watch


def run_watch(arguments: Sequence[str]) -> int:
    """Returns the exit code of the job once it has ended."""
    values, job = parse_job_name("watch", arguments, _define)
    backend = backend_named(job.backend)
    if backend.restarts != "watch":
        raise UserError(f"{job.name} needs no watch: {backend.restarts}; see: {PROGRAM} status {job.name}")
    hooks = Hooks(values.on_event, values.webhook)
    minutes, return_minutes = values.elastic_minutes, values.return_minutes
    restarted = cast(Restarted, backend)
    wishes = wishes_of(job, restarted, values.elastic, minutes=minutes, return_minutes=return_minutes)
    if values.elastic is not None:
        job = replace(job, wishes=tuple(wishes.numbers))
    remember(job)
    storage = storage_of(job.workdir)
    return Watch(job, backend, storage, pace=pace_of(values), wishes=wishes, hooks=hooks).run()


class Watch:
    """One job under watch, attempt after attempt, on one machine or on each of several in turn.

    A machine that trains is never given up before a preferred one is granted. The preferred one is a second
    resource, `Job.beside`. Its workers are held until the other workers have saved and ended and their
    machines are gone, for two runs must not share a workdir. A workdir resumes on any of the machines.
    """

    def __init__(
        self,
        job: Job,
        backend: Backend,
        storage: Storage,
        *,
        pace: Pace,
        wishes: Wishes | None = None,
        hooks: Hooks | None = None,
        write_line: Callable[[str], None] = lambda line: print(line, flush=True),
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Reads the progress of the job, as it was last submitted.

        Args:
          job: what is watched.
          backend: its backend.
          storage: of its workdir.
          pace: waiting times.
          wishes: machines to choose from; None: its own alone.
          hooks: are told of events; None: nobody is.
          write_line: prints each change.
          sleep: waits for a number of seconds.
          clock: returns a time in seconds.
        """
        self.job, self._backend, self._storage = job, backend, storage
        self._pace, self._write_line, self._sleep, self._clock = pace, write_line, sleep, clock
        self._wishes, self._hooks = wishes or Wishes({job.tpu: ""}), hooks or Hooks()
        self._told_attempt, self._is_restarted = 0, False  # of the events `started` and `recovered`
        self._restarts = self._failures = self._traceless = 0
        self._mark = WatcherMark(job, storage, self._say)
        self._best = read_progress(job.workdir, storage).checkpoint
        now = clock()
        self._waits_since = self._beside_since = now  # when the request was made, and the one beside it
        self._returns_at = now + 60 * self._wishes.return_minutes  # when a preferred machine is asked for
        self._was_granted = True  # of an attempt that began before this watch it is not known
        self._is_refused = False
        self._arrivals = Arrivals(storage, pace.start, clock)
        self._news = News(storage, self._say, clock, tells_waits=not self._wishes.is_choice)
        is_moving = job.beside is not None and is_asked_to_stop(job, storage)
        self._stops_by = now + _STOP_SECONDS if is_moving else None

    def run(self) -> int:
        """Returns the exit code of the job when it has ended: 0, 2 for a mistake of the user's, else 1.

        Raises:
          UserError: another watch has the job, or the API refuses to start it again, for another reason than
            the quota.
          RunError: the API no longer answers, or another watch has taken the job.
        """
        self._mark.take()
        try:
            while True:
                then = self._until_something_is_to_be_done()
                code = then if isinstance(then, int) else then()
                if code is not None:
                    return code
        except (UserError, RunError) as error:
            self._tell("failed", f"the watch has ended: {error}")
            raise
        finally:
            self._mark.release()

    def _until_something_is_to_be_done(self) -> "int | Callable[[], int | None]":
        """Returns the exit code of a job that has ended, or else the method that goes on with it."""
        word, gone, ran = "", 0, False
        while True:
            if self._is_refused and self._wishes.is_choice:
                return partial(self._take_next, is_refused=True)
            state, codes, is_stopped = self._look()
            if state.word != word:
                word = state.word
                self._say(f"{word}: {state.detail}" if state.detail and state.phase == "lost" else word)
            if state.phase == "running" and self._told_attempt != self.job.attempt:
                self._told_attempt = self.job.attempt
                event = "recovered" if self._is_restarted else "started"
                self._tell(event, f"{self.job.machines} is here ({state.word})")
            if is_stopped:
                return self._cancelled()
            if 2 in codes.values():
                return self._mistaken(codes)
            if codes:
                self._news.tell_notes(self.job)
            # Of machines that are gone, perhaps one worker alone had the time to leave its exit code.
            if codes and len(codes) >= (1 if state.phase == "gone" else self.job.hosts):
                if not any(codes.values()):
                    return self._done()
                if self._stops_by is not None:
                    return self._move
                why = reason_of(self.job, self._storage, codes) or f"see: {PROGRAM} logs {self.job.name}"
                why = f"the run failed with exit code {max(codes.values())}: {why}"
                self._say(why)
                return partial(self._start_again, why=why)
            gone, ran = gone + 1 if state.phase == "gone" else 0, ran or state.phase == "running"
            is_lost = state.phase == "lost" or gone >= _GONE_LOOKS
            if self.job.flex_hours and (is_lost or ran and state.phase == "waiting"):
                return self._flex_start_is_over()
            if is_lost:
                # A resource that is gone was not refused: the API failed, or somebody has deleted it.
                is_refused = state.phase == "lost" and not self._was_granted and self._wishes.is_choice
                if is_refused:
                    return partial(self._take_next, is_refused=True)
                is_traceless = state.phase == "gone" and self._arrivals.is_traceless(self.job)
                return partial(self._start_again, is_traceless=is_traceless)
            if then := self._other_machine(state):
                return then
            self._news.tell(self.job, state)
            self._rest(self._pace.poll)

    def _other_machine(self, state: State) -> "Callable[[], int | None] | None":
        """Returns the method that takes another machine, if it is time for that."""
        now = self._clock()
        if state.phase == "running" and not self._was_granted:
            self._was_granted, self._returns_at = True, now + 60 * self._wishes.return_minutes
        if state.phase == "running" and (missing := self._arrivals.missing(self.job)):
            why = self._arrivals.line(self.job, missing)
            self._say(why)
            return partial(self._start_again, why=why, is_traceless=len(missing) == self.job.hosts)
        if state.phase != "waiting":
            self._waits_since = now
        elif self._wishes.is_choice and now - self._waits_since >= 60 * self._wishes.minutes:
            return partial(self._take_next, is_refused=False)
        if self._stops_by is not None and now >= self._stops_by:
            self._say(f"its workers have not ended within {_STOP_SECONDS / 60:g} minutes")
            return self._move
        if state.phase == "running" and self._stops_by is None:
            try:
                self._look_beside()
            except RunError as error:  # the run itself goes on
                self._say(str(error))
        return None

    def _take_next(self, *, is_refused: bool) -> int | None:
        """Asks for the next machine; once the API has refused the last one, after a pause for the first."""
        following = self._wishes.after(self.job.tpu)
        time_over = "" if is_refused else f" within {self._wishes.minutes:g} minutes"
        numbers = self._wishes.numbers[following]
        self._say(f"{self.job.tpu} was not granted{time_over}; {following} is asked for: {numbers}")
        return self._start_again() if is_refused and following == self._wishes.first else self._ask(following)

    def _look_beside(self) -> None:
        """Asks for a preferred machine when it is time; once it is granted, lets the workers save and end."""
        preferred, beside = self._wishes.preferred_to(self.job.tpu), self.job.beside
        if not preferred or not self._wishes.return_minutes:
            return self._drop_beside()
        if beside is None:
            return self._ask_beside(preferred[0]) if self._clock() >= self._returns_at else None
        state, waited = self._backend.state(beside), self._clock() - self._beside_since
        if state.phase == "running":
            self._say(f"{beside.tpu} is granted again: the run goes back to it")
            ask_to_stop(self.job, self._storage)
            self._stops_by = self._clock() + _STOP_SECONDS
        elif state.phase in ("lost", "gone"):
            self._say(f"{beside.tpu} was not granted ({state.word}); {self.job.tpu} goes on")
            self._drop_beside()
        elif len(preferred) > 1 and waited >= 60 * self._wishes.minutes and beside.tpu in preferred:
            self._drop_beside()
            self._ask_beside(self._wishes.after(beside.tpu, before=self.job.tpu))

    def _ask_beside(self, machine: str) -> None:
        attempt = self._free_attempt()
        beside = self.job.again(tpu=machine, attempt=attempt, held=True, suffix=f"-{attempt_label(attempt)}")
        self._keep(replace(self.job, beside=beside))  # first, so that `cancel` deletes it in any case
        self._beside_since = self._clock()
        self._say(f"{machine} is asked for again; {self.job.tpu} goes on until it is granted")
        try:
            self._backend.submit(beside)
        except (UserError, RunError) as error:  # the run goes on where it is
            self._say(str(error))
            self._drop_beside()

    def _drop_beside(self) -> None:
        if self.job.beside:
            self._backend.cancel(self.job.beside)
            self._keep(replace(self.job, beside=None))
            self._returns_at = self._clock() + 60 * self._wishes.return_minutes

    def _move(self) -> int | None:
        """Goes on with the preferred machine; the workers here have ended, or their machines are lost."""
        beside = self.job.beside
        assert beside
        self._backend.cancel(self.job)
        if is_cancelled(self.job, self._storage):
            return self._cancelled()
        self._keep(beside)
        give_turn(self.job, self._storage)
        self._is_asked()
        return None

    def _done(self) -> int:
        self._free_machines()
        progress = read_progress(self.job.workdir, self._storage)
        top1 = "" if progress.top1 is None else f", top-1 {progress.top1:.2%}"
        self._say(f"done at step {progress.step:,}{top1}; records in {self.job.workdir}", event="done")
        return 0

    def _mistaken(self, codes: Mapping[int, int]) -> int:
        why = reason_of(self.job, self._storage, codes)
        self._free_machines()
        why = f"{why}; change the command or recipe" if why else "its command or recipe must be changed"
        self._say(f"not started again: {why}, and submit it again (exit code 2)", event="failed")
        return 2

    def _cancelled(self) -> int:
        self._drop_beside()
        self._say("cancelled; it is not started again")
        return 1

    def _flex_start_is_over(self) -> int:
        """Ends the watch: nobody has asked for more hours than these."""
        self._free_machines()
        hours = f"{self.job.flex_hours} h of flex-start"
        line = f"its {hours} are over, or were not granted; submit it again to go on where it was saved"
        self._say(line, event="failed")
        return 1

    def _free_machines(self) -> None:
        self._drop_beside()
        if not self.job.keep:
            self._backend.cancel(self.job)

    def _start_again(self, *, why: str = "", is_traceless: bool = False) -> int | None:
        """Starts the next attempt; returns an exit code instead if there is to be none.

        `why` says why the run failed; empty: its machines are gone. `is_traceless` says that no worker could
        leave a log.
        """
        progress = read_progress(self.job.workdir, self._storage)
        lost = lost_work(progress)
        self._say(lost)
        self._tell("failed" if why else "preempted", f"{why}; {lost}" if why else lost)
        self._failures = 0 if progress.checkpoint > self._best else self._failures + 1
        self._best = max(self._best, progress.checkpoint)
        limit, self._traceless = self.job.max_restarts, self._traceless + 1 if is_traceless else 0
        if self._traceless == _MOST_TRACELESS:
            return self._give_up(
                f"in {_MOST_TRACELESS} attempts no worker could write to {self.job.folder}; let the workers "
                "write there (of a bucket: the role Storage Object User for their service account), and "
                "submit it again"
            )
        if self._restarts >= limit:
            return self._give_up(f"--max-restarts={limit} are used up; submit it again to go on")
        self._restarts += 1
        if self.job.beside:
            self._say(f"it goes on with {self.job.beside.tpu} (restart {self._restarts} of {limit})")
            return self._move()
        machine, pause = self._wishes.first, self._pace.pause(max(0, self._failures - 1))
        where = "" if machine == self.job.tpu else f" on {machine}"
        self._say(f"it starts again{where} in {pause:g} s (restart {self._restarts} of {limit})")
        self._rest(pause)
        return self._ask(machine)

    def _give_up(self, why: str) -> int:
        self._drop_beside()
        self._backend.cancel(self.job)
        self._say(f"not started again: {why}", event="failed")
        return 1

    def _rest(self, seconds: float) -> None:
        """Waits, and keeps the mark of this watch meanwhile."""
        while seconds > 0:
            part = min(seconds, _LONGEST_REST)
            self._mark.keep()
            self._sleep(part)
            seconds -= part

    def _ask(self, machine: str) -> int | None:
        """Frees the machines of this attempt, and asks for a machine for the next attempt."""
        self._backend.cancel(self.job)
        if is_cancelled(self.job, self._storage):
            return self._cancelled()
        self._keep(self.job.again(tpu=machine, attempt=self._free_attempt()))
        self._is_asked()
        try:
            self._backend.submit(self.job)
        except (QuotaError, RunError) as error:  # the lost machines may still count against the quota
            self._say(str(error))
            self._is_refused = isinstance(error, QuotaError)
        return None

    def _is_asked(self) -> None:
        """Begins to count the time that the machines of a new attempt take to come."""
        self._waits_since, self._was_granted, self._is_refused = self._clock(), False, False
        self._is_restarted = True
        self._stops_by = None
        self._arrivals.begin()

    def _free_attempt(self) -> int:
        """Returns a number that no worker has used: one of other machines may have left files."""
        return max(self.job.attempt + 1, next_attempt(self.job, self._storage))

    def _keep(self, job: Job) -> None:
        self.job = job
        remember(job)
        try:
            write_job(job, self._storage)
        except RunError as error:  # other machines then know an earlier start of it
            self._say(str(error))

    def _look(self) -> tuple[State, dict[int, int], bool]:
        """Returns the state, the exit codes by worker, and whether the job was cancelled."""
        for _ in range(MOST_MISSES - 1):
            try:
                return self._look_once()
            except RunError as error:
                self._say(str(error))
                self._rest(self._pace.poll)
        return self._look_once()

    def _look_once(self) -> tuple[State, dict[int, int], bool]:
        state = self._backend.state(self.job)
        return state, exit_codes(self.job, self._storage), is_cancelled(self.job, self._storage)

    def _say(self, line: str, *, event: str = "") -> None:
        self._write_line(f"{self.job.name} (attempt {self.job.attempt}): {line}")
        if event:
            self._tell(event, line)

    def _tell(self, event: str, text: str) -> None:
        progress = Progress()
        with suppress(RunError):  # of the storage
            progress = read_progress(self.job.workdir, self._storage)
        self._hooks.tell(event, text, facts(self.job, progress), self._say)


def _define(values: flags.FlagValues) -> None:
    define_pace(values)
    define_wishes(values)
    define_hooks(values)
