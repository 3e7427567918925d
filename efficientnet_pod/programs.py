"""The compiled programs of a run: made side by side, kept in its workdir."""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
from etils import epath

from efficientnet_pod.evaluate import EvalStep, eval_step_of
from efficientnet_pod.metrics import Counts
from efficientnet_pod.pod.runtime import compilation_cache
from efficientnet_pod.recipe import read_recipe
from efficientnet_pod.records import Workdir
from efficientnet_pod.run import IMAGE_NUMBERS, Run, open_run
from efficientnet_pod.state import TrainState


class Programs(NamedTuple):
    """The compiled steps and the wall seconds it took to get them."""

    train_step: Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Counts]]
    eval_step: EvalStep
    init: Callable[[dict[str, Any]], TrainState] | None
    seconds: float


def get_programs(run: Run, workdir: Workdir, *, resumed: bool, apart: bool = False) -> Programs:
    """Returns the programs, from the workdir if an earlier start left them there.

    Args:
      run: what to compile.
      workdir: claimed by the run.
      resumed: whether the initial state's program can be left out.
      apart: on a CPU, let another process compile. The compiler leaves the heap it worked in full of holes,
        and eight replicas, which share one heap, train half as fast in it as in a fresh one.
    """
    began = time.monotonic()
    apart = apart and run.runtime.platform == "cpu" and run.runtime.host_count == 1
    compiler = _start_compiler(workdir) if apart and not _complete(workdir).exists() else None
    # Tracing holds the interpreter; the compiler does not.
    lowered = [run.lower_train_step(), *run.lower_eval_steps()] + ([] if resumed else [run.lower_init()])
    if compiler:
        compiler.wait()  # were it to fail, this process would meet the same error below, and report it
    with compilation_cache(workdir.programs), ThreadPoolExecutor() as pool:
        train_step, *others = pool.map(lambda program: program.compile(), lowered)
    init = None if resumed else others.pop()
    return Programs(train_step, eval_step_of(run, others), init, time.monotonic() - began)


def _start_compiler(workdir: Workdir) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", __name__, str(workdir.path)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _complete(workdir: Workdir) -> epath.Path:
    """The sign that the other process came to its end: an interrupted one leaves a part of the programs."""
    return workdir.programs / "complete"


def _compile_for(workdir: Workdir) -> None:
    plan = workdir.read("plan.json")
    numbers = SimpleNamespace(**{name: plan[name] for name in IMAGE_NUMBERS})
    run = open_run(read_recipe(workdir.read("config.json")), numbers)
    shapes = tuple(tuple(shape) for shape in plan["eval_shapes"])  # of the images, which are not read here
    run = dataclasses.replace(run, plan=dataclasses.replace(run.plan, eval_shapes=shapes))
    get_programs(run, workdir, resumed=True)
    _complete(workdir).touch()


if __name__ == "__main__":
    _compile_for(Workdir(sys.argv[1]))
