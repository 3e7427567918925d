"""The mesh: the named grid of replicas, and the layout of batches and states on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from efficientnet_pod.pod.topology import bn_device_order

BN_GROUP = "bn_group"
BN_MEMBER = "bn_member"
REPLICAS = (BN_GROUP, BN_MEMBER)
EVERYWHERE, BY_REPLICA = PartitionSpec(), PartitionSpec(REPLICAS)

_CHUNK_BYTES = 4 << 20  # of a state on its way from host to host; one compiled program sends them all
_ALIGNMENT = 64  # bytes, of each array in such a stream


def create_mesh(devices: Sequence[Any], bn_group_size: int) -> Mesh:
    """Returns the mesh (BN groups, members of a group): every row normalises together.

    Batch norm reduces over `BN_MEMBER`, the loss over `REPLICAS`. A group that is larger than the mesh fills
    it. Raises `UserError` if the group size does not divide the number of devices.
    """
    bn_group_size = min(bn_group_size, len(devices))
    order = np.empty(len(devices), dtype=object)
    order[:] = bn_device_order(devices, bn_group_size)
    return Mesh(order.reshape(-1, bn_group_size), REPLICAS, axis_types=(AxisType.Auto, AxisType.Auto))


def platform_of(mesh: Mesh) -> str:
    """Returns "tpu", "gpu" or "cpu"."""
    return mesh.devices.flat[0].platform


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


def devices_of(process: int, mesh: Mesh) -> tuple[int, ...]:
    """Returns the numbers, in the mesh's order, of the devices of one process; the rows of a batch follow."""
    return tuple(n for n, device in enumerate(mesh.devices.flat) if device.process_index == process)


def of_this_host(array: jax.Array) -> np.ndarray:
    """Returns this host's share of an array that lies as a batch does, in the order of `to_global`'s rows."""
    runs = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(run.data) for run in runs])


def put_replicated(state: Any, mesh: Mesh) -> Any:
    """Returns a pytree of numpy arrays as one of global arrays, each whole on every replica, bit for bit.

    Every host must pass the same bits: nothing is sent and nothing compared. ``jax.device_put`` would compare
    each array with those of the other hosts, a collective for each leaf. The arrays must not be written to
    afterwards: on the CPU the replicas read them in place.
    """
    sharding = replicated(mesh)

    def put(leaf: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, sharding, lambda everything: leaf)

    return jax.tree.map(put, state)


def share_from_first_host(state: Any | None, abstract_state: Any, mesh: Mesh) -> Any:
    """Returns host 0's state on every replica of every host, bit for bit.

    Every host must call it. What travels are raw words, so that neither a negative zero nor the payload of a
    NaN is lost in a sum; each host needs as much memory again as the state has.

    Args:
      state: numpy arrays on host 0, None on all others.
      abstract_state: the same tree of shapes and dtypes, on every host.
      mesh: of the replicas.

    Raises:
      ValueError: host 0's arrays are not those of ``abstract_state``.
    """
    # Not by `jax.process_index()`, which may number the processes in another order.
    is_first = state is not None
    if is_first:
        _require_alike(state, abstract_state)
    if jax.process_count() == 1:
        return put_replicated(state, mesh)
    wanted, tree = jax.tree.flatten(abstract_state)
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in wanted]
    starts = np.cumsum([0, *(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]).tolist()
    chunk = min(_CHUNK_BYTES, starts[-1])
    stream = np.zeros(-(-starts[-1] // chunk) * chunk, np.uint8)
    places = [
        stream[start : start + size].view(leaf.dtype).reshape(leaf.shape)
        for leaf, start, size in zip(wanted, starts[:-1], sizes, strict=True)
    ]
    if is_first:
        for place, leaf in zip(places, jax.tree.leaves(state), strict=True):
            place[...] = leaf
    for words in stream.view(np.uint32).reshape(-1, chunk // 4):
        words[:] = multihost_utils.broadcast_one_to_all(words, is_source=is_first)
    return put_replicated(jax.tree.unflatten(tree, places), mesh)


def _require_alike(state: Any, abstract_state: Any) -> None:
    given, wanted = (
        {
            jax.tree_util.keystr(path): (tuple(leaf.shape), str(leaf.dtype))
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        }
        for tree in (state, abstract_state)
    )
    if given != wanted:
        name = min(name for name in given | wanted if given.get(name) != wanted.get(name))
        raise ValueError(f"state{name} is {given.get(name)}, not {wanted.get(name)} as on the other hosts")
