"""The compiled programs of a run: made side by side, kept in its workdir."""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
from etils import epath

from efficientnet_pod.pod import hosts
from efficientnet_pod.pod.runtime import compilation_cache
from efficientnet_pod.recipe.phases import Phase
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.metrics import Counts, TopClasses
from efficientnet_pod.run.run import ImageNumbers, Run, open_run
from efficientnet_pod.run.state import TrainState
from efficientnet_pod.run.train_step import Outcome
from efficientnet_pod.workdir.workdir import Workdir

COMPILE_SECONDS = 3600  # that a host waits for another one to have a program

EvalStep = Callable[[Any, dict[str, jax.Array]], tuple[Counts, jax.Array, TopClasses]]
TrainProgram = Callable[[TrainState, dict[str, jax.Array], jax.Array], tuple[TrainState, Outcome]]


@dataclasses.dataclass(frozen=True)
class Programs:
    """The compiled steps.

    Attributes:
      eval_step: of every phase.
      init: the program of the initial state, None in a run that is resumed or begins with given weights.
      seconds: wall time until the training could begin.
    """

    eval_step: EvalStep
    init: Callable[[dict[str, Any]], TrainState] | None
    seconds: float
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


def get_programs(
    run: Run,
    workdir: Workdir,
    *,
    start_step: int,
    apart: bool = False,
    before_exit: Callable[[Callable[[], None]], None] = lambda action: None,
) -> Programs:
    """Returns the programs, from the workdir if an earlier start left them there.

    On an accelerator those of later phases follow in a thread, while the first one trains. Not on a CPU:
    replicas and compiler would take each other's cores.

    Args:
      run: what to compile.
      workdir: claimed by the run.
      start_step: steps done; what only earlier ones need is left out.
      apart: on a CPU, let another process compile. The compiler leaves the heap it worked in full of holes,
        and eight replicas, which share one heap, train half as fast in it as in a fresh one.
      before_exit: called with the function that ends the other process, for the case that this process is
        ended while both compile.
    """
    began = time.monotonic()
    on_cpu = run.runtime.platform == "cpu"
    apart = apart and on_cpu and run.runtime.host_count == 1
    compiler = _start_compiler(workdir) if apart and not _complete(workdir).exists() else None
    if compiler:
        before_exit(compiler.kill)
    phases = run.plan.phases_after(start_step)
    first = phases if on_cpu else phases[:1]
    # Tracing holds the interpreter; the compiler does not.
    lowered = [*map(run.lower_train_step, first), *run.lower_eval_steps()]
    draws = not start_step and not run.plan.recipe.init.weights
    lowered += [run.lower_init()] if draws else []
    if compiler:
        compiler.wait()  # were it to fail, this process would meet the same error below, and report it
    made = _compile(lowered, workdir)
    init = made.pop() if draws else None
    train_steps: dict[str, Future[TrainProgram]] = {phase.name: Future() for phase in first}
    for future, program in zip(train_steps.values(), made, strict=False):
        future.set_result(program)
    background = ThreadPoolExecutor(max_workers=1)
    for phase in phases[len(first) :]:
        train_steps[phase.name] = background.submit(_compile_train_step, run, phase, workdir)
    seconds = time.monotonic() - began
    eval_step = eval_step_of(run, made[len(first) :])
    later = partial(_compile_train_step, run, workdir=workdir)
    return Programs(eval_step, init, seconds, train_steps, background, later)


def _compile(lowered: list[jax.stages.Lowered], workdir: Workdir) -> list[Any]:
    # The workdir is host 0's. The others compile for themselves meanwhile: JAX would let them write nothing
    # there, and on CPUs would not find for them what host 0 has written.
    cache = compilation_cache(workdir.programs) if hosts.index() == 0 else nullcontext()
    with cache, ThreadPoolExecutor() as pool:
        return list(pool.map(lambda program: program.compile(), lowered))


def _compile_train_step(run: Run, phase: Phase, workdir: Workdir) -> TrainProgram:
    (program,) = _compile([run.lower_train_step(phase)], workdir)
    return program


def _start_compiler(workdir: Workdir) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", __name__, str(workdir.path)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _complete(workdir: Workdir) -> epath.Path:
    """The sign that the other process came to its end: an interrupted one leaves a part of the programs."""
    return workdir.programs / "complete"


def _compile_for(workdir: Workdir) -> None:
    plan = workdir.read("plan.json")
    numbers = ImageNumbers(plan["num_train"], plan["num_eval"], plan["num_classes"])
    run = open_run(read_recipe(workdir.read("config.json")), numbers)
    shapes = tuple(tuple(shape) for shape in plan["eval_shapes"])  # of the images, which are not read here
    run = dataclasses.replace(run, plan=dataclasses.replace(run.plan, eval_shapes=shapes))
    _compile([*map(run.lower_train_step, run.plan.phases), *run.lower_eval_steps()], workdir)
    _complete(workdir).touch()


if __name__ == "__main__":
    _compile_for(Workdir(sys.argv[1]))
