"""Owns the compilation for a machine that need not be here, through a cache of what compilers have said."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from efficientnet_pod.errors import RunError
from efficientnet_pod.pod.chips import GIB
from efficientnet_pod.pod.runtime import compilation_cache
from efficientnet_pod.preflight.cache import Memory, Said, key_of, read, write
from efficientnet_pod.recipe.phases import Phase
from efficientnet_pod.run.run import Run

_HIT = "/jax/compilation_cache/cache_hits"
# How compilers say that a program is too large, with what it needs and what there is.
_TOO_LARGE = (
    re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)"),
    re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm"),
)


@dataclass(frozen=True)
class Compiled:
    """One program.

    Attributes:
      name: ``train``, ``train PHASE``, ``eval`` or ``eval HEIGHTxWIDTH``.
      phase: of the training, None for an evaluation.
      program: to call, where the devices are here.
      said: by the compiler.
    """

    name: str
    phase: Phase | None
    program: jax.stages.Compiled | None
    said: Said


@dataclass(frozen=True)
class Compilation:
    """All programs of a run.

    Attributes:
      programs: of training, by phase, and then of evaluation.
      seconds: wall time, tracing included.
      from_cache: programs that had been compiled before.
      cache: where they are kept.
    """

    programs: tuple[Compiled, ...]
    seconds: float
    from_cache: int
    cache: Path


def compile_run(run: Run, *, cache: Path, what: str, console: Console, to_run: bool = False) -> Compilation:
    """Returns the programs of every phase and of evaluation; one that is too large is no error.

    Args:
      run: what to compile, on devices that need not be here.
      cache: folder of what was compiled before; made if need be.
      what: the machine, for the line that tells how it goes.
      console: of that line.
      to_run: the devices are here, and the programs will be called.

    Raises:
      RunError: the compiler failed.
    """
    began = time.monotonic()
    shapes = run.plan.eval_shapes
    evals = ["eval"] if len(shapes) == 1 else [f"eval {height}x{width}" for height, width, _ in shapes]
    trains = [f"train {p.name}" if run.plan.recipe.phases else "train" for p in run.plan.phases]
    names, phases = [*trains, *evals], [*run.plan.phases, *[None] * len(evals)]
    with _progress(console, f"{len(names)} programs for {what}"):
        # Tracing holds the interpreter; the compiler does not.
        lowered = [*map(run.lower_train_step, run.plan.phases), *run.lower_eval_steps()]
        if to_run:
            with compilation_cache(cache / "programs"), _hits() as hits:
                programs = _in_parallel(_compile, names, phases, lowered)
        else:
            # JAX's cache cannot read what it has kept of a device that is not here.
            hits, keys = [], [key_of(run, each) for each in lowered]
            cached = partial(_cached, cache / "compilers", hits)
            programs = _in_parallel(cached, keys, names, phases, lowered)
    return Compilation(programs, time.monotonic() - began, len(hits), cache)


def _in_parallel(function: Callable[..., Compiled], *arguments: list[Any]) -> tuple[Compiled, ...]:
    with ThreadPoolExecutor(max_workers=2) as pool:  # each holds gigabytes, and uses several cores by itself
        return tuple(pool.map(function, *arguments))


def _cached(
    folder: Path, hits: list[str], key: str, name: str, phase: Phase | None, lowered: jax.stages.Lowered
) -> Compiled:
    said = read(folder, key)
    if said is None:
        said = _compile(name, phase, lowered).said
        write(folder, key, said)
    else:
        hits.append(name)
    return Compiled(name, phase, None, said)


def _compile(name: str, phase: Phase | None, lowered: jax.stages.Lowered) -> Compiled:
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        if "RESOURCE_EXHAUSTED" not in message:
            raise RunError(
                f"the compiler failed on the program '{name}': {message.splitlines()[0]}"
            ) from error
        return Compiled(name, phase, None, Said("", None, {}, needed_bytes(message)))
    found: Any = program.memory_analysis()
    memory = Memory(
        found.argument_size_in_bytes,
        found.output_size_in_bytes,
        found.alias_size_in_bytes,
        found.temp_size_in_bytes,
        found.generated_code_size_in_bytes,
    )
    return Compiled(name, phase, program, Said(program.as_text() or "", memory, _cost(program)))


def needed_bytes(said: str) -> int | None:
    """Returns the bytes that a refused program needs, from the compiler's words; None if they have none."""
    for pattern in _TOO_LARGE:
        if found := pattern.search(said):
            return round(float(found[1]) * GIB * 1024 ** ("KMGT".index(found[2]) - 2))
    return None


def _cost(program: jax.stages.Compiled) -> dict[str, float]:
    """Returns what there is of a cost analysis; a GPU's compiler has none."""
    try:
        found: Any = program.cost_analysis()
    except jax.errors.JaxRuntimeError:
        return {}
    names = ("flops", "bytes accessed", "optimal_seconds")
    # Each instruction that the compiler cannot rate counts -1 second.
    return {name: found[name] for name in names if found and found.get(name, -1) > 0}


@contextmanager
def _hits() -> Iterator[list[str]]:
    """Yields a list that grows by one for each program that comes out of JAX's cache."""
    hits: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == _HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)


@contextmanager
def _progress(console: Console, what: str) -> Iterator[None]:
    """Shows that the compiler is at work: a line that counts seconds on a terminal, one line elsewhere."""
    if not console.is_terminal:
        console.print(f"compiling {what}; minutes the first time")
        yield
        return
    done, began = threading.Event(), time.monotonic()
    with console.status(f"compiling {what}") as status:
        threading.Thread(target=_count, args=(status.update, what, began, done), daemon=True).start()
        try:
            yield
        finally:
            done.set()


def _count(say: Callable[[str], None], what: str, began: float, done: threading.Event) -> None:
    while not done.wait(1):
        say(f"compiling {what}: {time.monotonic() - began:,.0f} s")
