"""What the hosts of a run compare before they compile."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from recipes import load, phased_digits
from tiny import build_tiny_networks

from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.identity import identity_of
from efficientnet_pod.run.run import open_run


@pytest.fixture(scope="module")
def source():
    from efficientnet_pod.data.sources.opening import open_source

    return open_source("digits")


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    build_tiny_networks(monkeypatch)


def differing(one, other):
    return {name for name in one | other if one.get(name) != other.get(name)}


def changed(config, dotted, value):
    *tables, name = dotted.split(".")
    table = config
    for part in tables:
        table = table[part]
    table[name] = value
    return config


def test_a_view_is_a_flat_table_of_short_values_that_json_keeps(source):
    for config in (load("digits.py"), phased_digits()):
        seen = identity_of(open_run(read_recipe(config), source))
        assert json.loads(json.dumps(seen)) == seen
        assert all(len(str(value)) <= 48 for value in seen.values())
        assert seen["config.optimizer.name"] == "lars" and seen["config.seed"] == 0
        assert (seen["num_train"], seen["num_eval"], seen["num_classes"]) == (1437, 360, 10)
        assert (seen["replicas"], seen["devices_of_a_host"], seen["platform"]) == (8, 8, "cpu")
        assert seen["jax"] and seen["efficientnet_pod"]
        assert seen == identity_of(open_run(read_recipe(config), source))


@pytest.mark.parametrize(
    ("field", "value", "names"),
    [
        ("seed", 1, {"config.seed"}),
        ("data.max_shift", 2, {"config.data.max_shift"}),
        ("schedule.power", 1.0, {"config.schedule.power"}),
        ("optimizer.lars.momentum", 0.8, {"config.optimizer.momentum"}),
        ("phases", {"only": {"from_epoch": 0.0}}, None),
        ("data.data_dir", "/elsewhere", set()),
        ("bn_group_size", 2, {"config.bn_group_size"}),
    ],
)
def test_a_view_names_the_field_of_the_recipe_that_differs(source, field, value, names):
    ours = identity_of(open_run(read_recipe(load("digits.py")), source))
    theirs = identity_of(open_run(read_recipe(changed(load("digits.py"), field, value)), source))
    found = differing(ours, theirs)
    assert found == names or (names is None and "config.phases.0.name" in found)


def test_a_view_tells_other_images_devices_and_code(source, monkeypatch):
    run = open_run(read_recipe(load("digits.py")), source)
    ours = identity_of(run)

    def with_source(**fields):
        return dataclasses.replace(run, source=dataclasses.replace(source, **fields))

    assert differing(ours, identity_of(with_source(class_names=source.class_names[::-1]))) == {"classes"}
    assert differing(ours, identity_of(with_source(fingerprint="0123456789abcdef"))) == {"files"}
    order = dataclasses.replace(run, eval_order=np.arange(360)[::-1])
    assert differing(ours, identity_of(order)) == {"eval_order"}
    mesh = dataclasses.replace(run, mesh=SimpleNamespace(devices=run.mesh.devices[::-1]))
    assert differing(ours, identity_of(mesh)) == {"mesh"}
    other = {name: "1.2.3" for name in run_versions()}
    monkeypatch.setattr("efficientnet_pod.pod.runtime.versions", lambda: other)
    assert differing(ours, identity_of(run)) == set(other) - {"python", "orbax"}


def run_versions():
    from efficientnet_pod.pod.runtime import versions

    return versions()
