"""The checkpoints of a run: host 0 writes them, and the other hosts wait where they must."""

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
    """A place in a run. Together with the train state it decides everything from here on.

    Attributes:
      step: number of updates done.
      image_offset: number of training images left out on the way here, by rewinding.
      rewinds: number of rewinds since the last evaluation.
      best_top1: best top-1 of all evaluations so far.
      best_step: step of the first evaluation with it; 0 before any.
    """

    step: int
    image_offset: int = 0
    rewinds: int = 0
    best_top1: float = 0.0
    best_step: int = 0

    def evaluated(self, top1: float) -> "Position":
        """Returns the position after its evaluation."""
        position = dataclasses.replace(self, rewinds=0)
        if self.best_step and top1 <= self.best_top1:
            return position
        return dataclasses.replace(position, best_top1=top1, best_step=self.step)


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
        """Starts at the newest checkpoint.

        Args:
          run: recipe and devices.
          log: log of the run; its rows are complete up to each checkpoint.
          watchdog: hears that a save takes time.
          checkpoints: checkpoints of the workdir; None on other hosts than host 0.
          owner: lock on the workdir; None on other hosts than host 0.
          step: step of the newest checkpoint.
        """
        self._run, self._log, self._watchdog = run, log, watchdog
        self._checkpoints, self._owner = checkpoints, owner
        self._saved_step, self._saved_at = step, time.monotonic()

    def require_workdir(self) -> None:
        """Raises the error of a save that failed, and RunError if another run has taken over the workdir."""
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
            "best_top1": position.best_top1,
            "best_step": position.best_step,
            "skipped_steps": self._log.skipped_steps,
            "replicas": self._run.plan.num_replicas,
            "devices": len(runtime.devices),
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
        """Starts to save if it is time. Only host 0 takes part, so hosts need not agree on the time."""
        minutes = self._run.plan.recipe.checkpoint_minutes
        if not self._checkpoints or not minutes or time.monotonic() - self._saved_at < 60 * minutes:
            return
        outcome = outcome.read()
        if outcome.updated and not outcome.stops:
            self._log.take(position.step, outcome)
            self._log.flush()  # no step is in two rows, whichever checkpoint is resumed
            self.save(state, position)

    def finish(self, state: TrainState, position: Position) -> int:
        """Saves the state; returns the number of steps done, once all hosts know that they are saved."""
        self._log.flush()
        step = int(state.step)
        if step > self._saved_step:
            self.save(state, position)
        self.wait()
        return step

    def wait(self) -> None:
        """Blocks until all saves are written, on all hosts together."""
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
        """Returns the state of the checkpoint at ``position.step``; the run goes on from that position.

        Later checkpoints belong to the path that the run leaves; they are removed.
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
