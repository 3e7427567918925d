"""The mean of a run's newest checkpoints, as weights."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints


def steps_to_average(checkpoints: Checkpoints, number: int, workdir: object) -> list[int]:
    """Returns the steps of the ``number`` newest checkpoints, ascending.

    Raises UserError if fewer are kept.
    """
    steps = checkpoints.steps
    if len(steps) < number:
        kept = ", ".join(f"{step:,}" for step in steps) or "none"
        raise UserError(
            f"--average={number} needs {number} checkpoints, and '{workdir}' keeps those of steps {kept}; "
            f"average fewer, or train with --config.keep_checkpoints={number}"
        )
    return steps[-number:]


def mean_of(steps: list[int], variables: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Returns the mean of each tensor over the steps, summed in float64, in the type that it has.

    ``variables`` returns the parameters and BN statistics of a step. The statistics are averaged as the
    parameters are, running means and running variances alike: checkpoints of one run lie close together, so
    that what the means of the variances leave out, the spread of the running means, is small.

    Source: Vaswani et al., arXiv 1706.03762, section 6.1 (the last checkpoints averaged).
    """
    total: Any = None
    for step in steps:
        own = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables(step))
        total = own if total is None else jax.tree.map(np.add, total, own)
    return jax.tree.map(lambda leaf: (leaf / len(steps)).astype(np.float32), total)
