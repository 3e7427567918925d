"""How all hosts stop after the same step, without a message besides the step itself.

Each host sends a signal with its share of every batch. The step sums the signals over all replicas, and its
outcome tells every host the same. So a host that was told to stop takes all others with it after the same
step, also out of an evaluation or while it waits for input. JAX's ``reached_preemption_sync_point`` knows
SIGTERM and training steps alone.
"""

import jax
import numpy as np
from jax.sharding import Mesh

from efficientnet_pod.pod.mesh import replicated, to_global

GO, STOP, ABANDON = 0, 1, 2  # ABANDON: stop, and make no update from this batch, whose images are not real


def host_signals(mesh: Mesh) -> list[jax.Array]:
    """Returns a batch's ``command`` for each signal, by its value GO, STOP or ABANDON: int32 (replicas,).

    Each host puts in its own: the STOP of one travels with the GO of another.
    """
    local = len(mesh.local_devices)
    return [to_global({"": np.full(local, value, np.int32)}, mesh)[""] for value in (GO, STOP, ABANDON)]


def not_halted(mesh: Mesh) -> jax.Array:
    """Returns the ``halted`` flag for the first step of a start: an int32 zero on every replica."""
    return jax.make_array_from_callback((), replicated(mesh), lambda _: np.zeros((), np.int32))
