"""Compilation for a machine that need not be here, through a cache of compilers' output."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from efficientnet_pod.errors import RunError, is_out_of_memory, refused_bytes
from efficientnet_pod.pod.runtime import compilation_cache
from efficientnet_pod.preflight.cache import CompilerOutput, MemoryTotals, key_of, read, write
from efficientnet_pod.recipe.phases import Phase
from efficientnet_pod.run.run import Run


@dataclass(frozen=True)
class CompiledProgram:
    """One program of a run.

    Attributes:
      name: ``train``, ``train PHASE``, ``eval`` or ``eval HEIGHTxWIDTH``; where a step has micro-batches,
        which ``train`` then computes, also ``update`` or ``update PHASE``.
      phase: phase of the training; None for an evaluation.
      executable: the program to call, where the devices are here; else None.
      output: memory, cost and text, from the compiler.
    """

    name: str
    phase: Phase | None
    executable: jax.stages.Compiled | None
    output: CompilerOutput

    @property
    def is_update(self) -> bool:
        """Whether it ends a step whose images are already summed."""
        return self.name.startswith("update")


@dataclass(frozen=True)
class Compilation:
    """All programs of a run.

    Attributes:
      programs: the train step of each phase, then the evaluations, and then the updates, if there are any.
      seconds: wall time, tracing included.
      from_cache: number of programs that had been compiled before.
      cache: folder of the cache.
    """

    programs: tuple[CompiledProgram, ...]
    seconds: float
    from_cache: int
    cache: Path


def compile_run(
    run: Run, *, cache: Path, machine: str, console: Console, to_run: bool = False
) -> Compilation:
    """Returns the programs of every phase and of evaluation; one that is too large is no error.

    Args:
      run: the run to compile, on devices that need not be here.
      cache: folder of what was compiled before; it is made if need be.
      machine: name of the machine, for the line that shows progress.
      console: console for that line.
      to_run: whether the devices are here and the programs will be called.

    Raises:
      RunError: the compiler failed.
    """
    began = time.monotonic()
    shapes = run.plan.eval_shapes
    evals = ["eval"] if len(shapes) == 1 else [f"eval {height}x{width}" for height, width, _ in shapes]
    trains = [f"train {p.name}" if run.plan.recipe.phases else "train" for p in run.plan.phases]
    names, phases = [*trains, *evals], [*run.plan.phases, *[None] * len(evals)]
    if run.plan.is_accumulated:
        names += [name.replace("train", "update", 1) for name in trains]
        phases += run.plan.phases
    with _progress(console, f"{len(names)} programs for {machine}"):
        # Tracing holds the interpreter; the compiler does not.
        lowered = [*map(run.lower_train_step, run.plan.phases), *run.lower_eval_steps()]
        if run.plan.is_accumulated:
            lowered += map(run.lower_update, run.plan.phases)
        if to_run:
            with compilation_cache(cache / "programs"), _hits() as hits:
                programs = _in_parallel(_compile, names, phases, lowered)
        else:
            # JAX's own cache keeps programs for devices that are not here, but cannot read them back.
            hits, keys = [], [key_of(run, program) for program in lowered]
            cached = partial(_cached, cache / "compilers", hits)
            programs = _in_parallel(cached, keys, names, phases, lowered)
    return Compilation(programs, time.monotonic() - began, len(hits), cache)


def _in_parallel(
    function: Callable[..., CompiledProgram], *arguments: list[Any]
) -> tuple[CompiledProgram, ...]:
    with ThreadPoolExecutor(max_workers=2) as pool:  # each holds gigabytes, and uses several cores by itself
        return tuple(pool.map(function, *arguments))


def _cached(
    folder: Path, hits: list[str], key: str, name: str, phase: Phase | None, lowered: jax.stages.Lowered
) -> CompiledProgram:
    output = read(folder, key)
    if output is None:
        output = _compile(name, phase, lowered).output
        with suppress(OSError):  # the estimate needs no cache
            write(folder, key, output)
    else:
        hits.append(name)
    return CompiledProgram(name, phase, None, output)


def _compile(name: str, phase: Phase | None, lowered: jax.stages.Lowered) -> CompiledProgram:
    try:
        executable = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        if not is_out_of_memory(error):
            raise RunError(
                f"the compiler failed on the program '{name}': {message.splitlines()[0]}"
            ) from error
        needed, _ = refused_bytes(message) or (None, None)
        return CompiledProgram(name, phase, None, CompilerOutput("", None, {}, needed))
    stats: Any = executable.memory_analysis()
    memory = MemoryTotals(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )
    output = CompilerOutput(executable.as_text() or "", memory, _cost(executable))
    return CompiledProgram(name, phase, executable, output)


def _cost(executable: jax.stages.Compiled) -> dict[str, float]:
    """Returns the known entries of a cost analysis; a GPU's compiler has none."""
    try:
        analysis: Any = executable.cost_analysis()
    except jax.errors.JaxRuntimeError:
        return {}
    names = ("flops", "bytes accessed", "optimal_seconds")
    # Each instruction that the compiler cannot rate counts -1 second.
    return {name: analysis[name] for name in names if analysis and analysis.get(name, -1) > 0}


@contextmanager
def _hits() -> Iterator[list[str]]:
    """Yields a list that grows by one for each program that comes out of JAX's cache."""
    hits: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)


@contextmanager
def _progress(console: Console, programs: str) -> Iterator[None]:
    """Shows that the compiler is at work: a line that counts seconds on a terminal, one line elsewhere."""
    if not console.is_terminal:
        console.print(f"compiling {programs}; minutes the first time")
        yield
        return
    text = TextColumn("compiling {task.description}: {task.elapsed:,.0f} s", markup=False)
    with Progress(SpinnerColumn(), text, console=console, transient=True) as progress:
        progress.add_task(programs, total=None)
        yield
