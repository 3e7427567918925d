"""The training loop, in the order things happen: step, log, evaluate, save; and what ends it early."""

import dataclasses
import time
from contextlib import closing
from enum import Enum
from functools import partial
from typing import NoReturn

import jax

from efficientnet_pod.errors import Preempted, RunError
from efficientnet_pod.evaluate.confusions import Confusions
from efficientnet_pod.evaluate.evaluate import EvalBatches, evaluate
from efficientnet_pod.pod import hosts, inject
from efficientnet_pod.pod.agreement import ABANDON, GO, STOP, host_signals, not_halted
from efficientnet_pod.pod.interrupt import Interrupt
from efficientnet_pod.pod.pace import Pace
from efficientnet_pod.pod.watchdog import Watchdog
from efficientnet_pod.recipe.phases import Phase
from efficientnet_pod.run.feed import Feed, allowed_skips, enters_by_reading, nothing, train_batches
from efficientnet_pod.run.programs import COMPILE_SECONDS, Programs, TrainProgram
from efficientnet_pod.run.run import Run
from efficientnet_pod.run.state import TrainState
from efficientnet_pod.run.train_step import Outcome
from efficientnet_pod.train.early_end import ended_by
from efficientnet_pod.train.log import TrainingLog
from efficientnet_pod.train.profile import Profile
from efficientnet_pod.train.saves import Position, Saves

MAX_SKIPS = 10  # steps in a row that may be not finite, where they are skipped
MAX_REWINDS = 3  # to one checkpoint


class _Verdict(Enum):
    """What a step's outcome means for the run; all hosts come to the same."""

    GO_ON = "go on"
    STOP = "stop"
    NOT_FINITE = "not finite"


class Lagged:
    """The outcome of the newest step, kept unread while the next step runs.

    To read an outcome is to wait for its step. Read one step late, the devices always have work.
    """

    def __init__(self) -> None:
        self._unread: tuple[int, Outcome] | None = None

    def put(self, step: int, outcome: Outcome) -> tuple[int, Outcome] | None:
        """Keeps the outcome of a step that was just dispatched; returns that of the step before, read."""
        before, self._unread = self.settle(), (step, outcome)
        return before

    def settle(self) -> tuple[int, Outcome] | None:
        """Returns the kept step and its outcome, read; waits for the devices. None if there is none."""
        if self._unread is None:
            return None
        (step, outcome), self._unread = self._unread, None
        return step, outcome.read()


class Training:
    """The steps of a run on this host."""

    def __init__(
        self,
        run: Run,
        programs: Programs,
        log: TrainingLog,
        interrupt: Interrupt,
        watchdog: Watchdog,
        saves: Saves,
        profile: Profile,
    ):
        """Takes the parts of a started run."""
        self._run, self._plan, self._programs, self._log = run, run.plan, programs, log
        self._interrupt, self._watchdog, self._saves, self._profile = interrupt, watchdog, saves, profile
        self._signals = host_signals(run.mesh)
        self._pace, self._outcomes = Pace(run.mesh), Lagged()
        self._eval_batches = EvalBatches(run)
        self._skips_in_a_row = 0

    def run(self, state: TrainState, position: Position, *, evaluated: bool = True) -> Position:
        """Returns the position after the last step, its evaluation and its checkpoint.

        The last step is the plan's, or one whose evaluation ends the run, see :func:`.ended_by`.

        Args:
          state: after ``position.step`` steps; its buffers are taken over.
          position: of the run.
          evaluated: False if an evaluation is due before the next step.

        Raises:
          Preempted: told to stop; the state is saved.
          RunError: a step was not finite, or a checkpoint cannot be written.
        """
        self._state, self._position = state, position
        if not evaluated:
            self._evaluate()
        with self._log.journal.spent.on("training"):
            while not (ended_by(self._plan, self._position) or self._train_to_the_end()):
                self._rewind()
            self._saves.wait()
        return self._position

    def _train_to_the_end(self) -> bool:
        """Runs the steps after the position; returns False at a step that was not finite."""
        halted, self._outcomes = not_halted(self._run.mesh), Lagged()
        # Record files are read from their start up to the position, for as long as that takes.
        self._watchdog.await_first_step(however_long=enters_by_reading(self._run))
        with closing(self._open_feed()) as feed:
            for phase in self._plan.phases_after(self._position.step):
                program = self._enter(phase)
                for step in range(max(self._position.step, phase.first_step) + 1, phase.last_step + 1):
                    inject.at("step", step)
                    next_batch = partial(self._next_batch, feed, phase)
                    with self._profile.around(step):
                        ended = program(self._state, next_batch, halted, self._log.input_wait.dispatched)
                    if ended is None:
                        self._stop()
                    self._state, outcome = ended
                    halted = outcome.halted
                    self._position = dataclasses.replace(self._position, step=step)
                    verdict = self._judge(self._outcomes.put(step, outcome))
                    is_eval_due = self._plan.is_eval_due(step)
                    if verdict is _Verdict.GO_ON and (is_eval_due or step == phase.last_step):
                        verdict = self._judge(self._outcomes.settle())
                    if verdict is _Verdict.STOP:
                        self._stop()
                    if verdict is _Verdict.NOT_FINITE:
                        return False
                    if is_eval_due:
                        self._evaluate()
                        if ended_by(self._plan, self._position):
                            return True
                    else:
                        self._saves.save_by_the_clock(self._state, self._position, outcome)
        return True

    def _open_feed(self) -> Feed:
        """Returns the feed of the batches from the position on."""
        position = self._position
        self._log.skips = allowed_skips(self._run, self._log.display.warn)
        host_batches = train_batches(
            self._run,
            start_step=position.step,
            image_offset=position.image_offset,
            skips=self._log.skips,
        )
        return Feed(
            host_batches,
            self._run.mesh,
            first_step=position.step + 1,
            micro_batches=self._plan.micro_batches,
        )

    def _enter(self, phase: Phase) -> TrainProgram:
        """Returns the program of a phase, and logs how long the training has waited for it."""
        self._log.flush()
        began = time.monotonic()
        begins = self._position.step == phase.first_step > 0
        if (begins and hosts.count() > 1) or not self._programs.is_ready(phase):
            # A host that still compiles keeps all others waiting, for minutes: save first.
            self._saves.finish(self._state, self._position)
            with (
                self._log.display.phase("compiling"),
                self._log.journal.spent.on("compiling"),
                self._watchdog.paused("compiling"),
                self._interrupt.nothing_to_lose(),
            ):
                self._programs.train_step(phase)
                hosts.barrier("the next phase", seconds=COMPILE_SECONDS)
        self._log.phase(phase, waited=time.monotonic() - began)
        return self._programs.train_step(phase)

    def _next_batch(self, feed: Feed, phase: Phase) -> dict[str, jax.Array]:
        """Returns the next batch with this host's signal; without input, a batch that all hosts abandon."""
        batch = self._log.input_wait.next(lambda: feed.next(self._is_stopping))
        if hosts.count() == 1 and self._interrupt.requested:
            self._stop()  # alone, nobody has to be asked
        signal = STOP if self._is_stopping() else GO
        if batch is None:
            shape = (phase.micro_batch, phase.image_size, phase.image_size, 3)
            batch, signal = nothing(shape, self._run, mask=False), ABANDON
        return batch | {"command": self._signals[signal]} | self._pace.of(*self._log.input_wait.newest)

    def _is_stopping(self) -> bool:
        return self._interrupt.requested

    def _judge(self, ended: tuple[int, Outcome] | None) -> _Verdict:
        """Logs the outcome of a step that ended, and returns what it means; all hosts judge alike."""
        if ended is None:
            return _Verdict.GO_ON
        step, outcome = ended
        self._watchdog.step_ended()
        self._programs.raise_failure()
        self._saves.require_workdir()
        if not outcome.halted:
            self._log.take(step, outcome)
            self._skips_in_a_row = 0 if outcome.updated else self._skips_in_a_row + 1
        if outcome.stops:
            return _Verdict.STOP
        if outcome.halted:
            return _Verdict.NOT_FINITE
        if self._skips_in_a_row > MAX_SKIPS:
            raise RunError(
                f"steps {step - MAX_SKIPS:,} to {step:,} were not finite, more than the {MAX_SKIPS} in a row "
                "that config.on_non_finite=skip allows; lower the base learning rate or warm up longer"
            )
        return _Verdict.GO_ON

    def _evaluate(self) -> None:
        """Evaluates, writes the row and starts to save."""
        self._log.flush()
        state, step = self._state, self._position.step
        variables = state.variables if self._plan.recipe.eval_raw else state.eval_variables
        stop = self._plan.recipe.stop
        may_be_last = step == self._plan.total_steps or stop.at_top1 or stop.patience_epochs
        confusions = Confusions(self._plan.num_classes) if may_be_last else None
        began = time.monotonic()
        with (
            self._log.display.phase("evaluating"),
            self._log.journal.spent.on("evaluating"),
            self._watchdog.doing("evaluating"),
        ):
            rates = evaluate(
                self._run,
                self._programs.eval_step,
                variables,
                batches=self._eval_batches,
                stop=self._is_stopping,
                progress=self._watchdog.alive,
                collect=confusions.add if confusions else None,
            )
        if rates is None:
            self._stop()
        self._saves.require_workdir()
        seconds = time.monotonic() - began
        self._position = self._position.evaluated(rates.top1)
        if not ended_by(self._plan, self._position):
            confusions = None
        with self._log.journal.spent.on("evaluating"):
            self._log.evaluation(step, rates, seconds=seconds, confusions=confusions)
        self._saves.save(state, self._position, metrics={"top1": rates.top1, "loss": rates.loss})

    def _stop(self) -> NoReturn:
        """Saves the state and raises `Preempted`, or `KeyboardInterrupt` for Ctrl-C on a lone host."""
        if newest := self._outcomes.settle():
            step, outcome = newest
            if not outcome.halted:
                self._log.take(step, outcome)
        step = self._saves.finish(self._state, self._position)
        self._interrupt.all_is_saved()
        reason = self._interrupt.reason or "another host"
        if reason == "SIGINT" and hosts.count() == 1:
            raise KeyboardInterrupt
        raise Preempted(
            f"{reason}: stopped after step {step:,} of {self._plan.total_steps:,}, which is saved; "
            "start the same command again to go on"
        )

    def _rewind(self) -> None:
        """Goes back to the last evaluated checkpoint and leaves out the images since; or ends the run.

        Only to evaluated ones: the clock decides when others are saved, and a run must not depend on it.
        """
        if self._plan.recipe.on_non_finite != "rewind":
            step = self._saves.finish(self._state, self._position)
            raise RunError(
                f"step {step + 1:,} is not finite, its loss or gradient, at learning rate "
                f"{float(self._run.learning_rate(step)):.4g}; the state before it is untouched and saved as "
                f"step {step:,}; go on with --config.on_non_finite=skip or rewind, or lower the base "
                "learning rate or warm up longer in a new workdir"
            )
        fault, position, target = int(self._state.step) + 1, self._position, self._saves.last_evaluated()
        if not target or position.rewinds == MAX_REWINDS:
            tried = f"after {MAX_REWINDS} rewinds to step {target:,}" if target else "before any evaluation"
            raise RunError(
                f"step {fault:,} is not finite, its loss or gradient, {tried}; lower the base learning rate "
                "or warm up longer"
            )
        left_out = self._plan.images_seen(fault) - self._plan.images_seen(target)
        self._position = dataclasses.replace(
            position,
            step=target,
            image_offset=position.image_offset + left_out,
            rewinds=position.rewinds + 1,
        )
        self._log.journal.write("rewound", fault, to=target)
        self._state = self._saves.rewind(self._position)
        self._log.display.warn(
            f"step {fault:,} is not finite: back to step {target:,}, and on with other images than the "
            f"{left_out:,} since"
        )
