"""mesh.json: BN groups with the places of their chips, read back as they were written."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from efficientnet_pod.workdir.mesh import BNGroups, MeshDevice, read_mesh, write_mesh
from efficientnet_pod.workdir.workdir import Workdir


def device(number, **place):
    return SimpleNamespace(id=number, **place)


def written(folder, devices):
    write_mesh(Workdir(folder), np.array(devices), warn=pytest.fail)
    return json.loads((folder / "mesh.json").read_text())


def test_a_mesh_without_coordinates_is_its_groups(tmp_path):
    table = written(tmp_path, [[device(0), device(1)], [device(2), device(3)]])
    nowhere = {"coords": None, "core": None}
    assert table == {
        "bn_group_size": 2,
        "groups": [[{"id": i} | nowhere for i in (0, 1)], [{"id": i} | nowhere for i in (2, 3)]],
    }
    first, second = (tuple(MeshDevice(i, None, None) for i in group) for group in ((0, 1), (2, 3)))
    assert read_mesh(table) == BNGroups(2, (first, second))
    assert [device.name for device in first] == ["0", "1"]


def test_chips_have_their_places(tmp_path):
    table = written(tmp_path, [[device(5, coords=(1, 2, 0), core_on_chip=1)]])
    assert table == {"bn_group_size": 1, "groups": [[{"id": 5, "coords": [1, 2, 0], "core": 1}]]}
    mesh = read_mesh(table)
    assert mesh == BNGroups(1, ((MeshDevice(5, (1, 2, 0), 1),),))
    assert mesh.groups[0][0].name == "(1, 2, 0):1"


def test_a_mesh_that_cannot_be_written_is_a_warning(tmp_path):
    warnings = []
    write_mesh(Workdir(tmp_path / "gone"), np.array([[device(0)]]), warn=warnings.append)
    assert len(warnings) == 1 and "mesh.json' is not written: No such file" in warnings[0]


def test_devices_of_any_shape_are_taken_calmly():
    table = {"groups": [[{"coords": [0, -1, 2], "id": True}, 3], "no", [{"coords": [1, 2], "core": "x"}]]}
    unknown = MeshDevice(None, None, None)
    assert read_mesh(table) == BNGroups(0, ((unknown,), (), (unknown,))) and unknown.name == "?"
