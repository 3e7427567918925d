"""The compiled programs of a run: made side by side, kept in its workdir."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax

from efficientnet_pod.errors import is_out_of_memory
from efficientnet_pod.pod import hosts
from efficientnet_pod.pod.memory import give_back
from efficientnet_pod.pod.runtime import compilation_cache
from efficientnet_pod.recipe.phases import Phase
from efficientnet_pod.run.memory import Need, need_of, need_of_refused, require_memory
from efficientnet_pod.run.metrics import Counts, TopClasses
from efficientnet_pod.run.run import Run
from efficientnet_pod.run.state import TrainState
from efficientnet_pod.run.train_step import Batch, Outcome
from efficientnet_pod.workdir.workdir import Workdir

COMPILE_SECONDS = 3600  # that a host waits for another one to have a program

EvalStep = Callable[[Any, dict[str, jax.Array]], tuple[Counts, jax.Array, TopClasses]]


@dataclasses.dataclass(frozen=True)
class TrainProgram:
    """The compiled step of a phase; where devices compute several replicas, one micro-batch after the other.

    Attributes:
      step: the whole step; or the sums with one micro-batch more.
      finish: the update from the sums of all micro-batches; None with a whole step.
      zeros: sums of nothing; None with a whole step.
      micro_batches: of a step.
    """

    step: Any
    finish: Callable[..., tuple[TrainState, Outcome]] | None = None
    zeros: Callable[[], Any] | None = None
    micro_batches: int = 1

    def __call__(
        self,
        state: TrainState,
        next_batch: Callable[[], Batch],
        halted: jax.Array,
        dispatched: Callable[[Any], None] = lambda results: None,
    ) -> tuple[TrainState, Outcome] | None:
        """Returns the next state and what becomes of the step, which need not have ended.

        None where a host was told to stop in the midst of the micro-batches: all hosts then leave the step
        after the same one, and the state is still the one before.

        Args:
          state: its buffers are taken over, unless the step is left.
          next_batch: gives one micro-batch.
          halted: of the outcome of the step before.
          dispatched: gets what each micro-batch will give, as soon as the devices are at it.
        """
        if self.finish is None or self.zeros is None:
            ended = self.step(state, next_batch(), halted)
        else:
            sums, stops = self.zeros(), None
            for _ in range(self.micro_batches):
                sums, newest = self.step(state, next_batch(), sums)
                dispatched(newest)
                # Read one late, as outcomes are: the devices always have work.
                if stops is not None and int(stops):
                    return None
                stops = newest
            ended = self.finish(state, sums, halted)
        dispatched(ended[1].halted)
        return ended


@dataclasses.dataclass(frozen=True)
class Programs:
    """The compiled steps.

    Attributes:
      eval_step: of every phase.
      init: the program of the initial state, None in a run that is resumed or begins with given weights.
      seconds: wall time until the training could begin.
      need: memory of the program that takes most.
    """

    eval_step: EvalStep
    init: Callable[[dict[str, Any]], TrainState] | None
    seconds: float
    need: Need
    _train_steps: dict[str, Future[TrainProgram]]
    _compiler: Executor
    _compile: Callable[[Phase], TrainProgram] | None = None

    def train_step(self, phase: Phase) -> TrainProgram:
        """Returns the program of a phase; waits for it."""
        return self._begun(phase).result()

    def is_ready(self, phase: Phase) -> bool:
        """Returns whether the program of a phase is there."""
        return self._begun(phase).done()

    def _begun(self, phase: Phase) -> Future[TrainProgram]:
        """Returns what becomes the program of a phase; a run may rewind into one left out at its start."""
        if phase.name not in self._train_steps:
            assert self._compile
            self._train_steps[phase.name] = self._compiler.submit(self._compile, phase)
        return self._train_steps[phase.name]

    def raise_failure(self) -> None:
        """Raises what has stopped the compilation of a later phase, days before that phase begins."""
        for program in self._train_steps.values():
            if program.done():
                program.result()

    def close(self) -> None:
        """Leaves out what has not begun to be compiled, and does not wait for what has."""
        self._compiler.shutdown(wait=False, cancel_futures=True)


def eval_step_of(run: Run, compiled: Sequence[EvalStep]) -> EvalStep:
    """Returns one evaluation step for batches of all the plan's shapes, given one for each."""
    by_shape: dict[tuple[int, ...], EvalStep] = {
        (h, w, 3): step for (h, w, _), step in zip(run.plan.eval_shapes, compiled, strict=True)
    }
    return lambda variables, batch: by_shape[batch["image"].shape[1:]](variables, batch)


def get_programs(run: Run, workdir: Workdir, *, start_step: int) -> Programs:
    """Returns the programs, from the workdir if an earlier start left them there.

    On an accelerator those of later phases follow in a thread, while the first one trains. Not on a CPU:
    replicas and compiler would take each other's cores.

    Args:
      run: what to compile.
      workdir: claimed by the run.
      start_step: steps done; what only earlier ones need is left out.

    Raises:
      UserError: a step takes more memory than there is.
    """
    began = time.monotonic()
    phases = run.plan.phases_after(start_step)
    first = phases if run.runtime.platform == "cpu" else phases[:1]
    # Tracing holds the interpreter; the compiler does not.
    draws = not start_step and not run.plan.recipe.init.weights
    lowered = [_lowered(run, phase) for phase in first]
    lowered += [run.lower_eval_steps(), [run.lower_init()] if draws else []]
    *steps, evaluation, init = _compile(lowered, workdir)
    needs = [_require_memory(run, phase, programs[0]) for phase, programs in zip(first, steps, strict=True)]
    size, images = run.plan.image_size, run.plan.eval_batch
    needs += [
        require_memory(run, program, "an evaluation step", images=images, image_size=size)
        for program in evaluation
    ]
    train_steps: dict[str, Future[TrainProgram]] = {phase.name: Future() for phase in first}
    for future, programs in zip(train_steps.values(), steps, strict=True):
        future.set_result(TrainProgram(*programs, micro_batches=run.plan.micro_batches))
    background = ThreadPoolExecutor(max_workers=1)
    for phase in phases[len(first) :]:
        train_steps[phase.name] = background.submit(_compile_train_step, run, phase, workdir)
    seconds = time.monotonic() - began
    eval_step = eval_step_of(run, evaluation)
    later = partial(_compile_train_step, run, workdir=workdir)
    need = max(needs, key=lambda need: need.total)
    return Programs(eval_step, next(iter(init), None), seconds, need, train_steps, background, later)


def needs_of(run: Run, workdir: Workdir) -> list[Need | None]:
    """Returns what the steps of all phases and of evaluation take; compiles them, kept in the workdir.

    None stands for a step that the compiler refuses without a number.
    """
    plan, phases = run.plan, run.plan.phases
    lowered = [[run.lower_train_step(phase)] for phase in phases] + [run.lower_eval_steps()]
    try:
        *steps, evaluations = _compile(lowered, workdir)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return [need_of_refused(run, str(error))]
    sizes = [(evaluation, plan.eval_batch, plan.image_size) for evaluation in evaluations]
    for phase, (step,) in zip(phases, steps, strict=True):
        sizes.append((step, phase.micro_batch, phase.image_size))
    return [need_of(run, program, images=images, image_size=size) for program, images, size in sizes]


def _lowered(run: Run, phase: Phase) -> list[jax.stages.Lowered]:
    """Returns the programs of a step in the order of :class:`TrainProgram`'s fields."""
    step = run.lower_train_step(phase)
    return [step, run.lower_update(phase), run.lower_no_sums()] if phase.is_accumulated else [step]


def _compile(lowered: list[list[jax.stages.Lowered]], workdir: Workdir) -> list[list[Any]]:
    """Returns the programs, in the same lists; all are compiled side by side."""
    # The workdir is host 0's. The others compile for themselves meanwhile: JAX would let them write nothing
    # there, and on CPUs would not find for them what host 0 has written.
    cache = compilation_cache(workdir.programs) if hosts.index() == 0 else nullcontext()
    with cache, ThreadPoolExecutor() as pool:
        submitted = [[pool.submit(program.compile) for program in group] for group in lowered]
        programs = [[program.result() for program in group] for group in submitted]
    give_back()
    return programs


def _compile_train_step(run: Run, phase: Phase, workdir: Workdir) -> TrainProgram:
    (programs,) = _compile([_lowered(run, phase)], workdir)
    _require_memory(run, phase, programs[0])
    return TrainProgram(*programs, micro_batches=phase.micro_batches)


def _require_memory(run: Run, phase: Phase, program: Any) -> Need:
    of_phase = f" of phase {phase.name}" if len(run.plan.phases) > 1 else ""
    is_its_own = any(own.name == phase.name and own.global_batch for own in run.plan.recipe.phases)
    return require_memory(
        run,
        program,
        f"a training step{of_phase}",
        images=phase.micro_batch,
        image_size=phase.image_size,
        batch_field=f"phases.{phase.name}.global_batch" if is_its_own else "global_batch",
        micro_batches=phase.micro_batches,
    )
