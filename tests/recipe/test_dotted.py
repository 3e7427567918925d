"""Fields of a config by their dotted names, as Python sets them."""

import json

import numpy as np
import pytest
from recipes import load

from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.dotted import with_fields
from efficientnet_pod.recipe.named import config_of


def test_fields_are_written_as_a_recipe_has_them():
    config = config_of("finetune", "lite0")
    assert config == load("finetune.py:lite0")
    fields = {"epochs": 3, "seed": np.int64(2), "optimizer.sgd.lr_per_256": np.float64(0.01)}
    changed = with_fields(config, fields | {"init.frozen": ["stem"], "replicas": 4, "data.in_memory": True})
    assert json.dumps(changed["epochs"]) == "3.0" and json.dumps(changed["seed"]) == "2"
    assert changed["optimizer"]["sgd"]["lr_per_256"] == 0.01 and changed["init"]["frozen"] == ("stem",)
    assert (changed["replicas"], changed["data"]["in_memory"]) == (4, True)
    assert config == load("finetune.py:lite0")


MISTAKES = {
    "phases.a.image_size": "config.phases has no field 'a'; phases are added in the config file",
    "epochs.a": "config.epochs has no field 'a'; it has none",
    "optimizer": "config.optimizer=1 must be a table; set one of its fields, optimizer.FIELD",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_no_field_is_named(name):
    with pytest.raises(UserError) as error:
        with_fields(config_of("finetune", "b0"), {name: 1})
    assert str(error.value) == MISTAKES[name]
