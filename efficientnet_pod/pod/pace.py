"""The pace of the hosts: how late each was with a step, told to all hosts by the step itself.

Each host sends two numbers with its share of a batch. The step sums them over all replicas, in the sum that
it makes anyway for the signals of :mod:`.agreement`, and its outcome has the numbers of all hosts.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from efficientnet_pod.pod import hosts
from efficientnet_pod.pod.mesh import to_global

_NUMBERS = 2  # late, and of that without input
_MOST_MICROSECONDS = 2**31 - 1


def pace_columns(mesh: Mesh) -> int:
    """Returns the numbers that a replica sends with a batch, for all hosts of the mesh; 0 with one host."""
    several = len({device.process_index for device in mesh.devices.flat})
    return _NUMBERS * several if several > 1 else 0


class Pace:
    """The pace of this host, as the other hosts get it."""

    def __init__(self, mesh: Mesh):
        """Takes the devices of all hosts."""
        self._mesh, self._shape = mesh, (len(mesh.local_devices), pace_columns(mesh))

    def of(self, late: float, without_input: float) -> dict[str, jax.Array]:
        """Returns a batch's ``pace``; nothing with one host.

        The array is int32 (replicas, 2 × hosts), microseconds: the two numbers of a host in its columns, on
        the first of its devices, so that the sum over the replicas has them once.

        Args:
          late: seconds by which this host let its devices wait for the step.
          without_input: seconds of these in which it waited for a batch.
        """
        if not self._shape[1]:
            return {}
        rows, begin = np.zeros(self._shape, np.int32), _NUMBERS * hosts.index()
        seconds = np.array([late, without_input])
        rows[0, begin : begin + _NUMBERS] = np.minimum(1e6 * seconds, _MOST_MICROSECONDS)
        return to_global({"pace": rows}, self._mesh)


def by_host(columns: Any) -> np.ndarray:
    """Returns the summed numbers as float64 (hosts, 2): seconds late, and of these without input."""
    return np.asarray(columns, np.float64).reshape(-1, _NUMBERS) / 1e6
