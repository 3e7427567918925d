"""The training loop, in the order things happen: step, log, evaluate, save; and what ends it early."""

import dataclasses
import time
from contextlib import ExitStack, closing
from enum import Enum
from typing import NoReturn

import jax

from efficientnet_pod.errors import Preempted, RunError
from efficientnet_pod.evaluate.confusions import Findings
from efficientnet_pod.evaluate.evaluate import evaluate
from efficientnet_pod.pod import hosts, inject
from efficientnet_pod.pod.interrupt import Interrupt
from efficientnet_pod.pod.watchdog import Watchdog
from efficientnet_pod.recipe.phases import Phase
from efficientnet_pod.run.feed import Feed, allowed_skips, enters_by_reading, nothing, train_batches
from efficientnet_pod.run.programs import Programs, TrainProgram
from efficientnet_pod.run.run import Run
from efficientnet_pod.run.state import TrainState
from efficientnet_pod.run.train_step import ABANDON, GO, STOP, Outcome, commands, not_halted
from efficientnet_pod.train.log import TrainingLog
from efficientnet_pod.train.saves import Position, Saves

MAX_SKIPS = 10  # steps in a row that may be not finite, where they are skipped
MAX_REWINDS = 3  # to one checkpoint
COMPILE_SECONDS = 3600  # a host waits for another one to have a program


class _Verdict(Enum):
    """What a step's outcome means for the run; all hosts come to the same."""

    GO_ON = "go on"
    STOP = "stop"
    NOT_FINITE = "not finite"


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
    ):
        """Takes what the run needs.

        Args:
          run: what is trained.
          programs: compiled.
          log: takes the outcomes.
          interrupt: says that this host was told to stop.
          watchdog: is told of progress.
          saves: what is done.
        """
        self._run, self._plan, self._programs, self._log = run, run.plan, programs, log
        self._interrupt, self._watchdog, self._saves = interrupt, watchdog, saves
        self._commands = commands(run.mesh)
        self._skips = 0

    def run(self, state: TrainState, position: Position, *, evaluated: bool = True) -> None:
        """Returns after the last step, its evaluation and its checkpoint.

        Args:
          state: after ``position.step`` steps; its buffers are taken over.
          position: where the run is.
          evaluated: False if an evaluation is due before the next step.

        Raises:
          Preempted: told to stop; the state is saved.
          RunError: not finite, or a checkpoint cannot be written.
        """
        if not evaluated:
            position = self._evaluate(state, position)
        with self._log.journal.spent.on("training"):
            while found := self._train(state, position):
                state, position = self._rewound(*found)
            self._saves.wait()

    def _train(self, state: TrainState, position: Position) -> tuple[int, Position] | None:
        """Runs the steps after ``position``; returns a step that was not finite and where the run is then.

        None at the end of the run.
        """
        self._log.skips = allowed_skips(self._run, self._log.display.warn)
        host_batches = train_batches(
            self._run,
            start_step=position.step,
            image_offset=position.image_offset,
            skips=self._log.skips,
        )
        halted, unread = not_halted(self._run.mesh), None
        with (
            closing(Feed(host_batches, self._run.mesh, first_step=position.step + 1)) as feed,
            ExitStack() as first,
        ):
            # Record files are entered by reading what was before, for as long as that takes.
            watched = self._watchdog.paused if enters_by_reading(self._run) else self._watchdog.doing
            first.enter_context(watched("the first step"))
            for phase in self._plan.phases_after(position.step):
                program = self._enter(phase, state, position)
                for step in range(max(position.step, phase.first_step) + 1, phase.last_step + 1):
                    inject.at("step", step)
                    batch = self._next_batch(feed, phase)
                    if hosts.count() == 1 and self._interrupt.requested:
                        self._stop(state, position, unread)  # alone, nobody has to be asked
                    state, outcome = program(state, batch, halted)
                    halted = outcome.halted
                    self._log.input_wait.dispatched(halted)
                    # The step before: this one is running, and the devices do not wait for the host.
                    verdict, unread = self._judge(unread, first), (step, outcome)
                    position = dataclasses.replace(position, step=step)
                    is_eval_due = self._plan.is_eval_due(step)
                    if verdict is _Verdict.GO_ON and (is_eval_due or step == phase.last_step):
                        verdict, unread = self._judge(unread, first), None
                    if verdict is _Verdict.STOP:
                        self._stop(state, position, unread)
                    if verdict is _Verdict.NOT_FINITE:
                        return self._not_finite(state, position), position
                    if is_eval_due:
                        position = self._evaluate(state, position)
                    else:
                        self._saves.save_by_the_clock(state, position, outcome)
        return None

    def _enter(self, phase: Phase, state: TrainState, position: Position) -> TrainProgram:
        """Returns the program of a phase, and says how long the training has waited for it."""
        self._log.flush()
        began = time.monotonic()
        begins = position.step == phase.first_step > 0
        if (begins and hosts.count() > 1) or not self._programs.is_ready(phase):
            # What is still compiled on one host keeps all waiting, for minutes: with nothing to lose.
            self._saves.finish(state, position)
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
        """Returns the next batch with what this host has to tell, one to abandon if it waits in vain."""
        batch = self._log.input_wait.next(lambda: feed.next(self._is_stopping))
        if batch is None:
            shape = (phase.recipe.global_batch, phase.image_size, phase.image_size, 3)
            return nothing(shape, self._run, mask=False) | {"command": self._commands[ABANDON]}
        return batch | {"command": self._commands[STOP if self._is_stopping() else GO]}

    def _is_stopping(self) -> bool:
        return self._interrupt.requested

    def _judge(self, unread: tuple[int, Outcome] | None, first: ExitStack) -> _Verdict:
        """Reads the outcome of a step, which waits for the devices; all hosts read the same ones in turn.

        Closes ``first``, for the first step has ended.
        """
        if unread is None:
            return _Verdict.GO_ON
        step, outcome = unread[0], unread[1].read()
        first.close()
        self._watchdog.step_ended()
        self._programs.raise_failure()
        self._saves.require_workdir()
        if not outcome.halted:
            self._log.take(step, outcome)
            self._skips = 0 if outcome.updated else self._skips + 1
        if outcome.stops:
            return _Verdict.STOP
        if outcome.halted:
            return _Verdict.NOT_FINITE
        if self._skips > MAX_SKIPS:
            raise RunError(
                f"steps {step - MAX_SKIPS:,} to {step:,} were not finite, more than the {MAX_SKIPS} in a row "
                "that config.on_non_finite=skip allows; lower the base learning rate or warm up longer"
            )
        return _Verdict.GO_ON

    def _evaluate(self, state: TrainState, position: Position) -> Position:
        """Evaluates, writes the row and starts to save; returns where the run is then."""
        self._log.flush()
        variables = state.variables if self._plan.recipe.eval_raw else state.eval_variables
        findings = Findings(self._plan.num_classes) if position.step == self._plan.total_steps else None
        began = time.monotonic()
        with (
            self._log.display.phase("evaluating"),
            self._log.journal.spent.on("evaluating"),
            self._watchdog.doing("evaluating"),
        ):
            result = evaluate(
                self._run,
                self._programs.eval_step,
                variables,
                stop=self._is_stopping,
                progress=self._watchdog.alive,
                collect=findings.add if findings else None,
            )
        if result is None:
            self._stop(state, position, None)
        self._saves.require_workdir()
        seconds = time.monotonic() - began
        with self._log.journal.spent.on("evaluating"):
            self._log.evaluation(position.step, result, seconds=seconds, findings=findings)
        position = dataclasses.replace(position, rewinds=0)
        self._saves.save(state, position, metrics={"top1": result.top1, "loss": result.loss})
        return position

    def _stop(self, state: TrainState, position: Position, unread: tuple[int, Outcome] | None) -> NoReturn:
        """Saves what is done and raises `Preempted`, or `KeyboardInterrupt` for Ctrl-C on a lone host."""
        if unread:
            outcome = unread[1].read()
            if not outcome.halted:
                self._log.take(unread[0], outcome)
        step = self._saves.finish(state, position)
        self._interrupt.all_is_saved()
        reason = self._interrupt.reason or "another host"
        if reason == "SIGINT" and hosts.count() == 1:
            raise KeyboardInterrupt
        raise Preempted(
            f"{reason}: stopped after step {step:,} of {self._plan.total_steps:,}, which is saved; "
            "start the same command again to go on"
        )

    def _not_finite(self, state: TrainState, position: Position) -> int:
        """Returns the step that was not finite, for a run that rewinds; ends any other."""
        if self._plan.recipe.on_non_finite == "rewind":
            return int(state.step) + 1
        step = self._saves.finish(state, position)
        raise RunError(
            f"step {step + 1:,} is not finite, its loss or gradient, at learning rate "
            f"{float(self._run.learning_rate(step)):.4g}; the state before it is untouched and saved as step "
            f"{step:,}; go on with --config.on_non_finite=skip or rewind, or lower the base learning rate or "
            "warm up longer in a new workdir"
        )

    def _rewound(self, fault: int, position: Position) -> tuple[TrainState, Position]:
        """Returns the state of the last evaluated checkpoint, and a position behind the images since.

        Only those: when others are saved is for the clock to say, and a run must not depend on it.
        """
        target = self._saves.last_evaluated()
        if not target or position.rewinds == MAX_REWINDS:
            tried = f"after {MAX_REWINDS} rewinds to step {target:,}" if target else "before any evaluation"
            raise RunError(
                f"step {fault:,} is not finite, its loss or gradient, {tried}; lower the base learning rate "
                "or warm up longer"
            )
        left_out = self._plan.images_seen(fault) - self._plan.images_seen(target)
        position = Position(target, position.image_offset + left_out, position.rewinds + 1)
        self._log.journal.write("rewound", fault, to=target)
        state = self._saves.rewind(position)
        self._log.display.warn(
            f"step {fault:,} is not finite: back to step {target:,}, and on with other images than the "
            f"{left_out:,} since"
        )
        return state, position
