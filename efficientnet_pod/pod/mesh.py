"""Owns the mesh: the named grid of replicas, and how batches and states lie on it."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from efficientnet_pod.pod.topology import bn_device_order

BN_GROUP = "bn_group"
BN_MEMBER = "bn_member"
REPLICAS = (BN_GROUP, BN_MEMBER)


def create_mesh(devices: Sequence[Any], bn_group_size: int) -> Mesh:
    """Returns the mesh (BN groups, members of a group): every row normalises together.

    Batch norm reduces over `BN_MEMBER`, the loss over `REPLICAS`. Raises `UserError` if the group size does
    not divide the number of devices.
    """
    order = np.empty(len(devices), dtype=object)
    order[:] = bn_device_order(devices, bn_group_size)
    return Mesh(order.reshape(-1, bn_group_size), REPLICAS, axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: the first dimension is cut over all replicas, in mesh order."""
    return NamedSharding(mesh, PartitionSpec(REPLICAS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a state: every replica holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the global batch of which `batch` is this host's share; no example leaves its host.

    Each array has this host's examples as its first dimension, a multiple of this host's devices; every host
    must pass the same shape. The global array is as many times longer as there are hosts. The host array must
    not be written to afterwards: on the CPU the replicas may read it in place.
    """
    # BN tiles interleave the devices of neighbouring hosts, so a host's rows need not be consecutive in the
    # global array. JAX gives the host's n-th run of rows to its n-th device in mesh order, wherever that is.
    return jax.make_array_from_process_local_data(batch_sharding(mesh), dict(batch))


def prefetch_to_devices(
    batches: Iterable[Mapping[str, np.ndarray]], mesh: Mesh, *, size: int = 2
) -> Iterator[dict[str, jax.Array]]:
    """Yields every host batch as a global batch, with `size` of them on the devices or on their way.

    Transfers are asynchronous: while one batch is used the next is being copied.
    """
    on_devices: deque[dict[str, jax.Array]] = deque()
    for batch in batches:
        on_devices.append(to_global(batch, mesh))
        if len(on_devices) >= size:
            yield on_devices.popleft()
    yield from on_devices
