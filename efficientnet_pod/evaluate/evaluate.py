"""Exact evaluation: a whole set on all replicas, each image counted once."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.pod import inject
from efficientnet_pod.pod.agreement import GO, STOP, host_signals
from efficientnet_pod.pod.memory import available_bytes
from efficientnet_pod.pod.mesh import devices_of
from efficientnet_pod.run.feed import Feed, nothing
from efficientnet_pod.run.metrics import Counts, Rates, TopClasses, rates
from efficientnet_pod.run.programs import EvalStep
from efficientnet_pod.run.run import Run

Collect = Callable[[Mapping[str, np.ndarray], TopClasses], None]
MOST_KEPT, MOST_OF_FREE = 2 << 30, 1 / 16  # of evaluation batches: bytes, and share of the free memory
_IN_FLIGHT = 2  # batches dispatched and not read: the devices never wait for the host


def evaluate(
    run: Run,
    eval_step: EvalStep,
    variables: Any,
    *,
    batches: Callable[[], Iterator[Any]] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[], None] = lambda: None,
    collect: Collect | None = None,
) -> Rates | None:
    """Returns loss and accuracies over all evaluation images; None on all hosts if one of them was to stop.

    Every replica of every host takes part; batches are padded and masked, and summed at the end.

    Args:
      run: run with the evaluation images.
      eval_step: compiled programs of ``run.lower_eval_steps()``, see :func:`.programs.eval_step_of`.
      variables: parameters and BN statistics.
      batches: makes this host's batches, see :class:`EvalBatches`; None: :func:`eval_batches`.
      stop: returns whether this host was told to stop.
      progress: called when the devices have done a batch.
      collect: gets each batch of this host, in order, with the predictions for the global batch.

    Raises:
      UserError: an image cannot be used.
      RuntimeError: not every image was counted once.
    """
    signals = host_signals(run.mesh)
    counted: list[Counts] = []
    in_flight: deque[tuple[Counts, jax.Array, TopClasses]] = deque()
    kept: deque[Mapping[str, np.ndarray]] = deque()

    def is_stopped(most: int) -> bool:
        """Reads results until so many are in flight; returns whether a host was to stop."""
        stopped = False
        while len(in_flight) > most:
            *results, predictions = in_flight.popleft()
            counts, stops = jax.device_get(results)
            counted.append(counts)
            if collect and not stops:
                collect(kept.popleft(), predictions)
            progress()
            stopped |= bool(stops)
        return stopped

    made = batches() if batches else eval_batches(run)
    with closing(Feed(_keep(made, kept) if collect else made, run.mesh)) as feed:
        for number, (height, width) in enumerate(_sizes(run)):
            inject.at("evaluating", number)
            try:
                batch = feed.next(stop)  # None if none comes before a stop
            except StopIteration:
                batch = None
            if batch is None:
                batch = nothing((run.plan.eval_batch, height, width, 3), run, mask=True)
            command = signals[STOP if stop() else GO]
            in_flight.append(eval_step(variables, batch | {"command": command}))
            # Every host reads as far behind as the others, so all leave at the same batch.
            if is_stopped(_IN_FLIGHT):
                return None
    if is_stopped(0):
        return None
    result = rates(counted)
    if result.images != run.plan.num_eval:
        raise RuntimeError(f"{result.images} images were counted in an evaluation of {run.plan.num_eval}")
    return result


def _keep(batches: Iterator[Any], kept: deque[Mapping[str, np.ndarray]]) -> Iterator[Any]:
    """Yields the batches and keeps each, so that none has to be fetched from the devices."""
    for batch in batches:
        kept.append(batch)
        yield batch


class EvalBatches:
    """This host's evaluation batches, for a run that evaluates again and again.

    Where they fit, they are kept from the first evaluation that reads them all: at 1,024 cores a host's share
    of ImageNet is 391 images, and reading them again would take longer than the devices need. Off Linux
    nobody says how much memory is free, and nothing is kept.
    """

    def __init__(self, run: Run):
        self._run = run
        self._kept: list[Mapping[str, np.ndarray]] = []
        sizes = _sizes(run)
        self._count = len(sizes)
        pixels = _share(run).host_batch * sum(height * width for height, width in sizes)
        room = MOST_OF_FREE * (available_bytes() or 0)
        self._fits = 3 * pixels * jnp.dtype(run.plan.link_dtype).itemsize <= min(room, MOST_KEPT)

    def __call__(self) -> Iterator[Any]:
        """Yields the batches, in the same order each time."""
        if self._kept or not self._fits:
            yield from self._kept or eval_batches(self._run)
            return
        read = list[Mapping[str, np.ndarray]]()
        for batch in eval_batches(self._run):
            read.append(batch)
            if len(read) == self._count:
                self._kept = read
            yield batch


def _sizes(run: Run) -> list[tuple[int, int]]:
    """Returns height and width of each evaluation batch."""
    return [(height, width) for height, width, count in run.plan.eval_shapes for _ in range(count)]


def _share(run: Run) -> HostShare:
    """Returns this host's part of the evaluation images."""
    return HostShare(run.plan.eval_batch, 0, devices_of(run.runtime.place, run.mesh), run.plan.num_devices)


def eval_batches(run: Run) -> Iterator[Any]:
    """Yields this host's evaluation batches."""
    from efficientnet_pod.data import pipeline  # TensorFlow takes seconds to import

    return pipeline.eval_batches(
        run.images,
        run.preprocessing(),
        _share(run),
        shapes=run.plan.eval_shapes,
        order=run.eval_order,
    ).as_numpy_iterator()
