"""Where batches and states land on the mesh: in one process with its devices reordered, and in two."""

import json
import socket
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from tori import tpu_slice

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.mesh import (
    BN_GROUP,
    BN_MEMBER,
    REPLICAS,
    batch_sharding,
    create_mesh,
    devices_of,
    replicated,
    to_global,
)
from efficientnet_pod.pod.topology import bn_device_order


def permuted_mesh() -> Mesh:
    order = [5, 0, 7, 2, 3, 6, 1, 4]
    return Mesh(np.array(jax.devices())[order].reshape(2, 4), REPLICAS)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mesh_rows_are_the_bn_groups(size: int):
    mesh = create_mesh(jax.devices(), size)
    assert dict(mesh.shape) == {BN_GROUP: 8 // size, BN_MEMBER: size}
    assert mesh.axis_names == REPLICAS == ("bn_group", "bn_member")
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert mesh.devices.ravel().tolist() == jax.devices()


def test_mesh_of_one_device():
    assert dict(create_mesh(jax.devices()[:1], 1).shape) == {BN_GROUP: 1, BN_MEMBER: 1}


def test_mesh_refuses_a_group_size_that_does_not_divide():
    with pytest.raises(UserError, match="config.bn_group_size=3 does not divide the 8 replicas"):
        create_mesh(jax.devices(), 3)


def test_rows_of_a_batch_land_in_mesh_order_on_permuted_devices():
    mesh = permuted_mesh()
    batch = {"image": np.arange(16 * 3, dtype=np.float32).reshape(16, 3), "label": np.arange(16)}
    placed = to_global(batch, mesh)
    for name, host in batch.items():
        assert placed[name].sharding == batch_sharding(mesh)
        np.testing.assert_array_equal(placed[name], host)
        rows = {shard.device: np.asarray(shard.data) for shard in placed[name].addressable_shards}
        for replica, device in enumerate(mesh.devices.flat):
            np.testing.assert_array_equal(rows[device], host[2 * replica : 2 * replica + 2])


def test_the_devices_of_a_process_are_numbered_in_the_order_of_the_mesh():
    # 32 v3 cores, groups of 16 in tiles of 2 x 4 chips: the hosts' squares of 2 x 2 lie side by side in them.
    mesh = SimpleNamespace(devices=np.array(bn_device_order(tpu_slice(4, 4, cores=2), 16)).reshape(2, 16))
    assert devices_of(0, mesh) == (0, 1, 2, 3, 8, 9, 10, 11)
    assert devices_of(3, mesh) == (20, 21, 22, 23, 28, 29, 30, 31)
    assert devices_of(0, create_mesh(jax.devices(), 4)) == tuple(range(8))


def test_a_collective_over_members_sums_within_groups_only():
    mesh = permuted_mesh()
    spec = batch_sharding(mesh).spec
    group_sum = jax.shard_map(lambda x: jax.lax.psum(x, BN_MEMBER), mesh=mesh, in_specs=spec, out_specs=spec)
    # Replica r holds 10^r, so a group's sum spells out its members.
    values = to_global({"x": 10.0 ** np.arange(8, dtype=np.float32)}, mesh)["x"]
    summed = jax.jit(lambda x: group_sum(x))(values)
    np.testing.assert_array_equal(summed, [1111.0] * 4 + [11110000.0] * 4)


def test_a_state_is_whole_on_every_device():
    mesh = permuted_mesh()
    weights = jax.device_put(np.arange(5.0, dtype=np.float32), replicated(mesh))
    assert [shard.data.shape for shard in weights.addressable_shards] == [(5,)] * 8


TWO_HOSTS = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh
from efficientnet_pod.pod.mesh import REPLICAS, to_global

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
host = int(sys.argv[1])
jax.distributed.initialize(sys.argv[2], num_processes=2, process_id=host)
a, b, c, d = jax.devices()
assert [x.process_index for x in (a, b, c, d)] == [0, 0, 1, 1]
mesh = Mesh(np.array([[d, a], [c, b]]), REPLICAS)  # hosts take turns, as along the tiles of a torus
label = to_global({"label": np.arange(4) + 10 * host}, mesh)["label"]
shards = {shard.index[0].start: np.asarray(shard.data).tolist() for shard in label.addressable_shards}
print(json.dumps([label.shape, shards]))
"""


def test_two_hosts_that_take_turns_on_the_mesh_keep_their_own_rows():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_HOSTS, str(host), coordinator], stdout=subprocess.PIPE, text=True
        )
        for host in range(2)
    ]
    try:
        first, second = (json.loads(host.communicate(timeout=60)[0]) for host in hosts)
    finally:
        for host in hosts:
            host.kill()
            host.wait()
    # Replicas 1 and 3 are on host 0, replicas 0 and 2 on host 1; two rows each.
    assert first == [[8], {"2": [0, 1], "6": [2, 3]}]
    assert second == [[8], {"0": [10, 11], "4": [12, 13]}]
