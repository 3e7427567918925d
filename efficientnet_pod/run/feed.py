"""The batches of a run on their way to the devices, made ahead of the steps."""

import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.skips import Skips
from efficientnet_pod.data.sources.types import Records
from efficientnet_pod.pod import inject
from efficientnet_pod.pod.mesh import devices_of, to_global
from efficientnet_pod.recipe.phases import Phase
from efficientnet_pod.recipe.plan import Plan
from efficientnet_pod.recipe.recipe import BALANCED
from efficientnet_pod.run.run import Run

Batch = dict[str, jax.Array]
BATCHES_AHEAD = 2  # of the step that runs: one on the devices, one on its way
_LOOK_SECONDS = 0.1  # between two looks whether the wait for a batch is to be given up
_CLOSE_SECONDS = 5.0


def share_bytes(plan: Plan, images: int, image_size: int) -> int:
    """Returns the bytes of one device's images of a batch of ``images``, as they travel."""
    per_device = images // plan.num_devices
    return per_device * image_size * image_size * 3 * jnp.dtype(plan.link_dtype).itemsize


class Feed:
    """Global batches, made and sent by a thread, so that the wait for a batch can be given up.

    ``BATCHES_AHEAD`` are ready or on their way. Transfers overlap with the steps.
    """

    def __init__(
        self,
        batches: Iterator[dict[str, np.ndarray]],
        mesh: Mesh,
        *,
        first_step: int | None = None,
        micro_batches: int = 1,
    ):
        """Begins at once to make batches.

        Args:
          batches: this host's share of each global batch.
          mesh: devices that get the batches.
          first_step: training step of the first batch; None for an evaluation.
          micro_batches: batches of a step.
        """
        self._mesh, self._micro_batches = mesh, micro_batches
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._make, args=(batches, first_step), name="feed", daemon=True
        )
        self._thread.start()

    def next(self, give_up: Callable[[], bool] = lambda: False) -> Batch | None:
        """Returns the next batch; None if ``give_up`` says so before there is one.

        Raises:
          StopIteration: there is no other batch.
          Exception: the error with which the batches ended.
        """
        while True:
            try:
                batch = self._ready.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if give_up():
                    return None
                continue
            if isinstance(batch, BaseException):
                self._ready.put(batch)  # whoever asks again gets the same answer
                raise batch
            return batch

    def close(self) -> None:
        """Ends the thread; waits some seconds at most, because it may wait for input in vain."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                break
        self._thread.join(_CLOSE_SECONDS)

    def _make(self, batches: Iterator[dict[str, np.ndarray]], step: int | None) -> None:
        try:
            for number in count():
                if self._closed.is_set():
                    break
                if step is not None and number % self._micro_batches == 0:
                    batches, step = _with_faults(batches, step), step + 1
                self._ready.put(to_global(next(batches), self._mesh))
        except BaseException as error:  # StopIteration too: the reader meets it in its place
            self._ready.put(error)


def _with_faults(batches: Iterator[dict[str, np.ndarray]], step: int) -> Iterator[dict[str, np.ndarray]]:
    """Returns the batches from here on, with the faults that a test asks for at this step."""
    inject.at("input", step)
    if not inject.poisons(step):
        return batches
    batch = next(batches)
    return chain([batch | {"image": np.full_like(batch["image"], np.nan)}], batches)


def nothing(global_shape: tuple[int, ...], run: Run, *, mask: bool) -> Batch:
    """Returns a batch of zeros, to be abandoned, of the global shape (batch, height, width, 3)."""
    host_batch = global_shape[0] // run.runtime.host_count
    arrays = {
        "image": np.zeros((host_batch, *global_shape[1:]), jnp.dtype(run.plan.link_dtype)),
        "label": np.zeros(host_batch, np.int32),
    }
    return to_global(arrays | ({"mask": np.zeros(host_batch, np.float32)} if mask else {}), run.mesh)


# Enough for the first batches of a larger size to be ready: until then two inputs share the cores.
STEPS_AHEAD = 16


def train_batches(
    run: Run, *, start_step: int, image_offset: int = 0, skips: Skips | None = None
) -> Iterator[Any]:
    """Yields this host's training batches as numpy arrays, from step ``start_step`` + 1 to the last.

    A step has one, or one for each micro-batch, in the order of the images.
    Every phase begins at the image after the phase before. Its input is opened `STEPS_AHEAD` steps before it
    begins, so that its first three batches are ready.

    Args:
      run: recipe and devices.
      start_step: number of steps done.
      image_offset: images of all hosts that were left out on the way there.
      skips: bad images that may be left out, from :func:`allowed_skips`.
    """
    plan = run.plan
    phases = plan.phases_after(start_step)
    by_reading = enters_by_reading(run)
    # All of them before the first step: TensorFlow traces the functions of an input for up to seconds.
    inputs = deque(
        _input(run, phase, max(start_step, phase.first_step), image_offset, skips) for phase in phases
    )
    opened = deque([inputs.popleft().as_numpy_iterator()])
    for phase in phases:
        batches = opened.popleft()
        first = max(start_step, phase.first_step)
        ahead = math.ceil(plan.num_train / phase.recipe.global_batch) if by_reading else STEPS_AHEAD
        for step in range(first, phase.last_step):
            if step == max(first, phase.last_step - ahead) and inputs:
                opened.append(inputs.popleft().as_numpy_iterator())
            for _ in range(phase.micro_batches):
                yield next(batches)


def enters_by_reading(run: Run) -> bool:
    """Returns whether a start reads the examples before its first one, up to an epoch of record files."""
    return isinstance(run.images.train, Records)


def allowed_skips(run: Run, warn: Callable[[str], None]) -> Skips:
    """Returns the ``Skips`` of this process: bad images it may leave out; ``warn`` gets a line on each."""
    return Skips(run.plan.recipe.data.skip_corrupt, warn)


def _input(run: Run, phase: Phase, step: int, image_offset: int, skips: Skips | None) -> Any:
    """Returns the endless batches of a phase from this step on."""
    from efficientnet_pod.data import in_memory, pipeline

    first_image = phase.images_seen(step) + image_offset
    devices = devices_of(run.runtime.place, run.mesh)
    parts, replicas = phase.micro_batches, phase.num_replicas
    share = HostShare(phase.micro_batch, first_image, devices, phase.num_devices, parts, replicas)
    preprocessing, seed = run.preprocessing(phase), phase.recipe.seed
    if phase.recipe.data.in_memory:
        return in_memory.InMemory(run.images, preprocessing, share, seed=seed)
    balanced = phase.recipe.data.sampling == BALANCED
    return pipeline.train_batches(run.images, preprocessing, share, seed=seed, skips=skips, balanced=balanced)
