"""The training batches of a run, phase after phase; those of the next are made before they are needed."""

import math
from collections import deque
from collections.abc import Iterator
from typing import Any

from efficientnet_pod.phases import Phase
from efficientnet_pod.run import Run

# Enough for the first batches of a larger size to be ready: until then two inputs share the cores.
STEPS_AHEAD = 16


def train_batches(run: Run, *, start_step: int, skips: Any = None) -> Iterator[Any]:
    """Yields this host's training batches as numpy arrays, of step ``start_step`` + 1 to the last.

    Every phase goes on at the image where the one before ends. Its input is opened some steps earlier, and
    three of its batches wait in memory. ``skips`` (``data.faults.Skips``) are bad images it may leave out.
    """
    from efficientnet_pod.data.sources import Records  # TensorFlow takes seconds to import

    plan = run.plan
    phases = plan.phases_after(start_step)
    # Record files are entered by reading past the examples before, up to an epoch of them.
    by_reading = isinstance(run.source.train, Records)
    # All of them before the first step: TensorFlow traces the functions of an input for up to seconds.
    inputs = deque(_input(run, phase, start_step=start_step, skips=skips) for phase in phases)
    opened = deque([inputs.popleft().as_numpy_iterator()])
    for phase in phases:
        batches = opened.popleft()
        first = max(start_step, phase.first_step)
        ahead = math.ceil(plan.num_train / phase.recipe.global_batch) if by_reading else STEPS_AHEAD
        for step in range(first, phase.last_step):
            if step == max(first, phase.last_step - ahead) and inputs:
                opened.append(inputs.popleft().as_numpy_iterator())
            yield next(batches)


def _input(run: Run, phase: Phase, *, start_step: int, skips: Any) -> Any:
    """Returns the endless batches of a phase, from where the run enters it, as a tf.data data set."""
    from efficientnet_pod.data import pipeline

    return pipeline.train_batches(
        run.source,
        run.preprocessing(phase),
        global_batch=phase.recipe.global_batch,
        first_image=phase.images_seen(max(start_step, phase.first_step)),
        seed=phase.recipe.seed,
        host_index=run.runtime.host_index,
        host_count=run.runtime.host_count,
        skips=skips,
    )
