"""What is saved on the way: by host 0 alone, and when the other hosts wait for it."""

import dataclasses
import time

from efficientnet_pod.pod import hosts
from efficientnet_pod.pod.mesh import share_from_first_host
from efficientnet_pod.pod.watchdog import Watchdog
from efficientnet_pod.run.run import Run
from efficientnet_pod.run.state import TrainState
from efficientnet_pod.run.train_step import Outcome
from efficientnet_pod.train.log import TrainingLog
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.workdir.owner import Owner

SAVE_SECONDS = 3600  # a host waits for host 0 to write a checkpoint


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run is: with the state, all that decides what it does from here on.

    Attributes:
      step: updates done.
      image_offset: training images left out on the way here, by rewinding.
      rewinds: since the last evaluation.
    """

    step: int
    image_offset: int = 0
    rewinds: int = 0


class Saves:
    """Saves the state of a run; on hosts other than host 0 it only waits."""

    def __init__(
        self,
        run: Run,
        log: TrainingLog,
        watchdog: Watchdog,
        checkpoints: Checkpoints | None,
        owner: Owner | None,
        *,
        step: int,
    ):
        """Takes what host 0 has.

        Args:
          run: what is trained.
          log: whose rows must be complete up to a checkpoint.
          watchdog: is told that something is saved.
          checkpoints: of the workdir; None on the other hosts.
          owner: of the workdir; likewise.
          step: of the newest checkpoint.
        """
        self._run, self._log, self._watchdog = run, log, watchdog
        self._checkpoints, self._owner = checkpoints, owner
        self._saved_step, self._saved_at = step, time.monotonic()

    def require_workdir(self) -> None:
        """Raises what a save has failed with, and RunError where another run has taken the workdir over."""
        if self._checkpoints and self._owner:
            self._checkpoints.raise_failure()
            self._owner.raise_if_lost()

    def save(self, state: TrainState, position: Position, metrics: dict[str, float] | None = None) -> None:
        """Starts to save; ``metrics`` are those of an evaluation."""
        if not self._checkpoints:
            return
        self.require_workdir()
        runtime = self._run.runtime
        record = {
            "image_offset": position.image_offset,
            "rewinds": position.rewinds,
            "skipped_steps": self._log.skipped_steps,
            "replicas": len(runtime.devices),
            "hosts": runtime.host_count,
            "device_kind": runtime.device_kind,
        }
        step, began = int(state.step), time.monotonic()
        with self._watchdog.doing("saving"), self._log.journal.spent.on("saving"):
            self._checkpoints.save(step, state, metrics=metrics or {}, record=record)
        self._saved_step, self._saved_at = step, time.monotonic()
        self._log.journal.write("saved", step, seconds=self._saved_at - began)
        self._log.restart_window()

    def save_by_the_clock(self, state: TrainState, position: Position, outcome: Outcome) -> None:
        """Starts to save if it is time to. Other hosts take no part, hence need not agree on the time."""
        minutes = self._run.plan.recipe.checkpoint_minutes
        if not self._checkpoints or not minutes or time.monotonic() - self._saved_at < 60 * minutes:
            return
        outcome = outcome.read()
        if outcome.updated and not outcome.stops:
            self._log.take(position.step, outcome)
            self._log.flush()  # no step is in two rows, whichever checkpoint is resumed
            self.save(state, position)

    def finish(self, state: TrainState, position: Position) -> int:
        """Returns the steps done, when they are saved and all hosts know it."""
        self._log.flush()
        step = int(state.step)
        if step > self._saved_step:
            self.save(state, position)
        self.wait()
        return step

    def wait(self) -> None:
        """Returns, on all hosts together, when what has been saved is written."""
        with self._watchdog.doing("saving"), self._log.journal.spent.on("saving"):
            if self._checkpoints:
                self._checkpoints.wait()
            hosts.barrier("a save", seconds=SAVE_SECONDS)

    def last_evaluated(self) -> int:
        """Returns the step of the newest checkpoint with an evaluation, on all hosts; 0 without one."""
        step = None
        if self._checkpoints:
            self._checkpoints.wait()
            step = max(self._checkpoints.evaluated_steps, default=0)
        return hosts.from_first("the last evaluation", step)

    def rewind(self, position: Position) -> TrainState:
        """Returns the state of the checkpoint at a position, from which the run goes on with that position.

        What was saved later is of the path that the run leaves, and removed.
        """
        checkpoints, abstract = self._checkpoints, self._run.abstract_state()
        with self._watchdog.doing("rewinding"), self._log.journal.spent.on("saving"):
            restored = checkpoints.restore(position.step, abstract) if checkpoints else None
            state = share_from_first_host(restored, abstract, self._run.mesh)
            if checkpoints:
                checkpoints.forget_after(position.step)
                self.save(state, position)
            self._saved_step = position.step
            self.wait()
            self._log.rewind(position.step)  # after the checkpoints: a start drops rows that have none
        return state
