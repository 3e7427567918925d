"""A whole evaluation set on all replicas, each image counted once."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from typing import Any

import jax
import numpy as np
from etils import epath
from rich.console import Console

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod import hosts, inject
from efficientnet_pod.pod.mesh import share_from_first_host
from efficientnet_pod.pod.runtime import compilation_cache
from efficientnet_pod.pod.terminal import progress_bar
from efficientnet_pod.run.feed import Feed, nothing
from efficientnet_pod.run.metrics import Counts, Predictions, Rates, rates
from efficientnet_pod.run.programs import EvalStep, eval_step_of
from efficientnet_pod.run.run import Run
from efficientnet_pod.run.state import TrainState
from efficientnet_pod.run.train_step import GO, STOP, commands
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints
from efficientnet_pod.workdir.workdir import Workdir

Collect = Callable[[Mapping[str, np.ndarray], Predictions], None]
_IN_FLIGHT = 2  # batches dispatched and not read: the devices never wait for the host


def evaluate(
    run: Run,
    eval_step: EvalStep,
    variables: Any,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[], None] = lambda: None,
    collect: Collect | None = None,
) -> Rates | None:
    """Returns loss and accuracies over all evaluation images; None on all hosts if one of them was to stop.

    Every replica of every host takes part; batches are padded and masked, and summed at the end.

    Args:
      run: whose evaluation images are read.
      eval_step: from :func:`eval_step_of` the compiled ``run.lower_eval_steps()``.
      variables: parameters and BN statistics.
      stop: whether this host was told to.
      progress: called when the devices have done a batch.
      collect: gets each batch of this host, in order, with the predictions for the global one.

    Raises:
      UserError: an image cannot be used.
      RuntimeError: not every image was counted once.
    """
    told = commands(run.mesh)
    counted: list[Counts] = []
    in_flight: deque[tuple[Counts, jax.Array, Predictions]] = deque()
    kept: deque[Mapping[str, np.ndarray]] = deque()

    def read() -> bool:
        *found, predictions = in_flight.popleft()
        counts, stops = jax.device_get(found)
        counted.append(counts)
        if collect and not stops:
            collect(kept.popleft(), predictions)
        progress()
        return bool(stops)

    batches = eval_batches(run)
    with closing(Feed(_keep(batches, kept) if collect else batches, run.mesh)) as feed:
        for number, shape in enumerate(_shapes(run)):
            inject.at("evaluating", number)
            batch = _next(feed, stop)
            batch = nothing(shape, run, mask=True) if batch is None else batch
            command = told[STOP if stop() else GO]
            in_flight.append(eval_step(variables, batch | {"command": command}))
            # Every host reads as far behind as the others: they find the same.
            if len(in_flight) > _IN_FLIGHT and read():
                return None
    if any([read() for _ in range(len(in_flight))]):
        return None
    result = rates(counted)
    if result.images != run.plan.num_eval:
        raise RuntimeError(f"{result.images} images were counted in an evaluation of {run.plan.num_eval}")
    return result


def _keep(batches: Iterator[Any], kept: deque[Mapping[str, np.ndarray]]) -> Iterator[Any]:
    """Yields the batches, and keeps each until it is evaluated, so that none is fetched from the devices."""
    for batch in batches:
        kept.append(batch)
        yield batch


def _next(feed: Feed, stop: Callable[[], bool]) -> dict[str, jax.Array] | None:
    """Returns the next batch; None where there is none, or none in time."""
    try:
        return feed.next(stop)
    except StopIteration:
        return None


def _shapes(run: Run) -> Iterator[tuple[int, ...]]:
    for height, width, batches in run.plan.eval_shapes:
        for _ in range(batches):
            yield (run.plan.eval_batch, height, width, 3)


def eval_batches(run: Run) -> Iterator[Any]:
    """Yields this host's evaluation batches."""
    from efficientnet_pod.data import pipeline

    return pipeline.eval_batches(
        run.source,
        run.preprocessing(),
        global_batch=run.plan.eval_batch,
        shapes=run.plan.eval_shapes,
        order=run.eval_order,
        host_index=run.runtime.host_index,
        host_count=run.runtime.host_count,
    ).as_numpy_iterator()


def evaluate_weights(
    run: Run, variables: Any | None, *, programs: epath.Path | None = None, collect: Collect | None = None
) -> Rates:
    """Returns the rates of weights on the images of a run, with a bar on host 0's terminal.

    Args:
      run: whose evaluation images are read, and whose network the weights are of.
      variables: parameters and BN statistics as numpy arrays on host 0; None on all others.
      programs: where host 0 keeps what it compiles; None: nowhere.
      collect: see :func:`evaluate`.

    Raises:
      UserError: an image cannot be used.
    """
    shared = share_from_first_host(variables, run.abstract_state().variables, run.mesh)
    first = hosts.index() == 0
    with compilation_cache(programs) if programs and first else nullcontext():
        eval_step = eval_step_of(run, [lowered.compile() for lowered in run.lower_eval_steps()])
    console = Console(stderr=True, highlight=False, quiet=not first)
    with progress_bar("evaluating", total=run.plan.eval_steps, unit="batches", on=console) as advance:
        result = evaluate(run, eval_step, shared, progress=lambda: advance(1), collect=collect)
    assert result is not None  # nobody stops it
    return result


def evaluate_checkpoint(
    run: Run, workdir: Workdir, which: str, *, raw: bool, collect: Collect | None = None
) -> tuple[int, Rates]:
    """Returns the step of a checkpoint and its rates.

    Args:
      run: the recipe that made the checkpoint.
      workdir: of the run.
      which: ``"best"``, ``"latest"`` or a step.
      raw: take the raw weights, not the averaged ones.
      collect: see :func:`evaluate`.

    Raises:
      UserError: no such checkpoint.
    """
    step, state = _restored(run, workdir, which) if hosts.index() == 0 else (0, None)
    step = hosts.from_first("step", step)
    variables = None if state is None else state.variables if raw else state.eval_variables
    return step, evaluate_weights(run, variables, programs=workdir.programs, collect=collect)


def _restored(run: Run, workdir: Workdir, which: str) -> tuple[int, TrainState]:
    """Returns the step of a checkpoint and its state, in host memory."""
    if not workdir.checkpoints.exists():
        raise UserError(f"no checkpoints in '{workdir.path}'; --workdir must name the folder of a run")
    checkpoints = Checkpoints(workdir.checkpoints)
    step = checkpoints.named(which)
    return step, checkpoints.restore(step, run.abstract_state())
