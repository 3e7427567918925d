"""Every recipe, shrunken: two steps on eight CPU replicas; the tricks of CIFAR-10, trained to the end."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest
from recipes import load
from tiny import tiny_network

from efficientnet_pod.models import registry
from efficientnet_pod.pod.agreement import GO, host_signals, not_halted
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run import run as runs
from efficientnet_pod.run.feed import Feed, train_batches
from efficientnet_pod.train.train import train_and_evaluate

# Of recipes that are alike but for their rates one is enough; the digits are trained in many tests.
RECIPES = [
    "supercomputer.py:b2,4096,rmsprop",
    "supercomputer.py:b5,65536",
    "imagenet.py:b0,autoaugment",
    "progressive.py",
    pytest.param("b0_gpu.py", marks=pytest.mark.long),
    pytest.param("imagenet18.py:4", marks=pytest.mark.long),
    pytest.param("resnet50.py:goyal", marks=pytest.mark.long),
    pytest.param("resnet50.py:lars,65536", marks=pytest.mark.long),
    "resnet50.py:cutmix",
    pytest.param("amoebanet.py:v2-128", marks=pytest.mark.long),
    pytest.param("cifar10.py:resnet18", marks=pytest.mark.long),
    "cifar10.py:resnet9",
    "cifar10.py:tricks",
    pytest.param("digits.py", marks=pytest.mark.long),
    "finetune.py:lite0",
]
SIZE, BATCH = 16, 32


def narrow(name: str, *, settings: dict[str, Any], **options: Any) -> Any:
    """The recipe's network with few blocks or channels."""
    model: Any = registry.create_network(name, settings=settings, **options)
    if name == "resnet50":
        return model.clone(stages=((1, 8, 1), (1, 8, 2)))
    if name == "amoebanet_d":
        return model.clone(cells=1, filters=16)
    if hasattr(model, "width"):
        return model.clone(width=8)
    return tiny_network(name, settings=settings, **options)


@pytest.fixture(autouse=True)
def _narrow_networks(monkeypatch):
    monkeypatch.setattr(runs, "create_network", narrow)


def shrunken(recipe: str) -> dict[str, Any]:
    """The recipe with small images and batches, on digits and eight virtual devices; all else is its own."""
    config = load(recipe)
    batch = config["global_batch"]
    config |= {"platform": "cpu", "cpu_replicas": 8, "global_batch": BATCH, "epochs": 2.0}
    config["init"] |= {"lr_factors": (), "bn_statistics": "train"}  # random weights will do
    config["bn_group_size"] = min(config["bn_group_size"], 4)
    config["model"]["ghost_batch"] = min(config["model"]["ghost_batch"], 2)
    size = registry.network_named(config["model"]["name"]).least_size
    config["data"] |= {
        "name": "digits",
        "image_size": max(SIZE, size),
        "cutout": min(config["data"]["cutout"], 4),
    }
    for number, phase in enumerate(config["phases"].values()):
        phase |= {"from_epoch": 0.4 * number, "image_size": SIZE + 8 * number}
        phase["global_batch"] = round(phase["global_batch"] / batch * BATCH / 8) * 8
    return config


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_steps_on_eight_replicas(recipe):
    run = runs.open_run(read_recipe(shrunken(recipe)))
    assert len(run.runtime.devices) == run.plan.num_replicas == 8
    step = run.lower_train_step(run.plan.phases[0]).compile()
    initial = run.initial_variables()
    state = run.lower_init().compile()(initial)
    feed = Feed(itertools.islice(train_batches(run, start_step=0), 2), run.mesh, first_step=1)
    halted = not_halted(run.mesh)
    for _ in range(2):
        batch = feed.next()
        assert batch is not None
        state, outcome = step(state, batch | {"command": host_signals(run.mesh)[GO]}, halted)
        assert (int(outcome.updated), int(outcome.finite), int(outcome.halted)) == (1, 1, 0)
        halted = outcome.halted
    feed.close()
    assert int(state.step) == 2 and int(outcome.counts.images) == run.plan.phases[0].recipe.global_batch
    assert np.isfinite(float(outcome.counts.loss))
    moved = jax.tree.map(
        lambda now, then: bool(np.any(np.asarray(now) != then)), state.params, initial["params"]
    )
    still = {
        jax.tree_util.keystr(path) for path, any_ in jax.tree_util.tree_leaves_with_path(moved) if not any_
    }
    # A warm-up's first rates are too small for a scale of 1 to feel them. A branch that begins as zero has no
    # gradient before the second step, and little in it.
    assert run.plan.recipe.model.zero_init_residual or not any("['kernel']" in name for name in still), still
    assert "['classifier']['kernel']" not in still


@pytest.mark.long
def test_the_tricks_of_cifar10_learn_the_digits(tmp_path):
    """One cycle, CELU, whitening, ghosts, Cutout and mirror images in memory; all but a few are right."""
    config = shrunken("cifar10.py:tricks")
    config |= {"global_batch": 128, "epochs": 12.0, "eval_epochs": 12.0, "label_smoothing": 0.1}
    config["model"]["ghost_batch"] = 8
    config["data"] |= {"augment": "shift", "max_shift": 1, "cutout": 4}
    summary = train_and_evaluate(config, str(tmp_path))
    assert summary["final"]["top1"] > 0.95
