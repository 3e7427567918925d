"""Networks by name: defaults, what a recipe may set, refusals, and a whole step of one in a run."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from recipes import load
from rich.console import Console

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.inputs import normalise
from efficientnet_pod.models.registry import NETWORKS, NEUTRAL, create_network, network_named
from efficientnet_pod.models.whitening import whitening_kernel
from efficientnet_pod.pod.agreement import GO, host_signals, not_halted
from efficientnet_pod.pod.mesh import to_global
from efficientnet_pod.recipe.plan import resolve
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.recipe.recipe import ModelSettings
from efficientnet_pod.run import run as runs
from efficientnet_pod.run.tables import print_plan

CIFAR = {"num_train": 50_000, "num_eval": 10_000, "num_classes": 10}
RESNETS = ["resnet50", "resnet18_cifar", "resnet9", "resnet9_whitened"]


def recipe(name, model=(), **fields):
    config = load("digits.py") | {"global_batch": 512, "bn_group_size": 1} | fields
    config["model"] |= {"name": name, "survival_probability": 1.0} | dict(model)
    config["data"]["image_size"] = 0
    return read_recipe(config)


def plan(*args, **fields):
    return resolve(recipe(*args, **fields), **CIFAR, num_devices=8, num_hosts=1, default_dtype="float32")


def test_every_setting_is_a_field_of_the_recipe_and_of_the_network():
    assert set(NEUTRAL) <= {field.name for field in dataclasses.fields(ModelSettings)}
    settings = {**NEUTRAL, "dropout": 0.0, "bn_momentum": 0.9, "bn_epsilon": 1e-5}
    for name, network in NETWORKS.items():
        assert set(network.settings) <= set(NEUTRAL)
        model = create_network(
            name, num_classes=10, dtype="float32", bn_axis=None, packed=True, settings=settings
        )
        assert getattr(model, "packed", False) == network.packs == name.startswith(("b", "lite", "v2"))


@pytest.mark.parametrize(
    ("name", "size", "dropout"),
    [
        ("b0", 224, 0.2),
        ("b5", 456, 0.4),
        ("lite4", 300, 0.3),
        ("resnet50", 224, 0.0),
        ("resnet18_cifar", 32, 0.0),
        ("resnet9", 32, 0),
    ],
)
def test_defaults(name, size, dropout):
    resolved = plan(name)
    assert (resolved.image_size, resolved.dropout) == (size, dropout)
    assert (resolved.phases[0].image_size, resolved.phases[0].dropout) == (size, dropout)


def test_ghosts_are_what_normalises_together():
    resolved = plan("resnet9", {"ghost_batch": 32})
    assert (resolved.per_replica_batch, resolved.bn_batch, resolved.phases[0].bn_batch) == (64, 32, 32)
    warning = plan("resnet9", {"ghost_batch": 8}).warnings[0]
    assert warning.startswith("8 images normalise together") and warning.endswith("raise ghost_batch")


@pytest.mark.parametrize(
    ("name", "model", "fields", "words"),
    [
        ("resnet", {}, {}, r"config\.model\.name='resnet' is unknown; did you mean 'resnet"),
        ("vgg16", {}, {},
         r"config\.model\.name='vgg16' is unknown; known: amoebanet_d, b0, b1,.*resnet9_whitened"),
        ("resnet50", {"survival_probability": 0.8}, {},
         r"config\.model\.survival_probability=0\.8 is nothing that resnet50 has; "
         r"set --config\.model\.survival_probability=1\.0"),
        ("resnet50", {"dropout": 0.2}, {}, r"dropout=0\.2 is nothing .*set --config\.model\.dropout=-1\.0"),
        ("resnet9", {"zero_init_residual": True}, {}, r"zero_init_residual=True .*zero_init_residual=False"),
        ("resnet9", {"bn_scale": 0.25}, {}, r"bn_scale=0\.25 is nothing that resnet9 has"),
        ("b0", {"ghost_batch": 32}, {}, r"ghost_batch=32 is nothing that b0 has"),
        ("resnet9", {}, {"phases": {"one": {"from_epoch": 0.0, "dropout": 0.1}}},
         r"config\.phases\.one\.dropout=0\.1 is nothing .*--config\.phases\.one\.dropout=-1\.0"),
        ("b0", {"auxiliary_weight": 0.4}, {}, r"auxiliary_weight=0\.4 is nothing that b0 has"),
        ("amoebanet_d", {"auxiliary_weight": 0.4},
         {"phases": {"one": {"from_epoch": 0.0, "image_size": 96}}},
         r"phases\.one\.image_size=96 .* is made for one size; set --config\.model\.auxiliary_weight=0"),
        ("resnet9", {"ghost_batch": -1}, {}, r"config\.model\.ghost_batch=-1 must be a whole number"),
        ("resnet9", {"ghost_batch": 24}, {},
         r"ghost_batch=24 does not divide a replica's 64 images.*--config\.model\.ghost_batch=16"),
        ("resnet9", {"ghost_batch": 32}, {"bn_group_size": 2},
         r"ghost_batch=32 .*set --config\.bn_group_size=1"),
        ("resnet9", {"ghost_batch": 32}, {"phases": {"one": {"from_epoch": 0.0, "global_batch": 128}}},
         r"ghost_batch=32 does not divide a replica's 16 images.*ghost_batch=16"),
    ],
)  # fmt: skip
def test_what_a_network_does_not_have_is_refused(name, model, fields, words):
    with pytest.raises(UserError, match=words) as refused:
        plan(name, model, **fields)
    assert "\n" not in str(refused.value)


def test_neutral_values_are_no_settings():
    for name in RESNETS:
        assert plan(name, {"dropout": 0.0}).dropout == plan(name, {"dropout": -1.0}).dropout == 0


def test_plan_of_a_resnet_is_printed():
    config = recipe("resnet9_whitened", {"bn_scale": 0.125, "ghost_batch": 32})
    text = io.StringIO()
    print_plan(config, replicas=8, console=Console(file=text, width=200))
    printed = text.getvalue()
    assert "ResNet-9, whitened, 10 classes, 32 px" in printed
    assert "32 images together" in printed and "6,571,609" in printed
    lines = [line.split()[0] for line in printed.splitlines() if line.startswith(("stem", "block", "class"))]
    assert lines[:4] == ["stem_0_whitening", "stem_1", "block1", "block1_residual1"]


@pytest.fixture(scope="module")
def source():
    from efficientnet_pod.data.sources.opening import open_source

    return open_source("digits")


def test_one_step_of_a_whitened_network_in_a_run(source, monkeypatch):
    """The kernel comes from the training images and stays; all else is trained, on eight replicas' ghosts."""

    def narrow(name, **options):
        return create_network(name, **options).clone(width=4)

    monkeypatch.setattr(runs, "create_network", narrow)
    settings = {"bn_scale": 0.125, "ghost_batch": 4}
    run = runs.open_run(recipe("resnet9_whitened", settings, global_batch=64), source)
    variables = run.initial_variables()
    kernel = variables["params"]["stem_0_whitening"]["fixed_kernel"]

    from efficientnet_pod.data.stored import first_images

    everything = first_images(source, run.preprocessing(), 10_000, normalise)
    assert everything.shape == (source.num_train, 32, 32, 3) and everything.dtype == np.float32
    np.testing.assert_array_equal(kernel, whitening_kernel(everything))

    quick = {"xla_backend_optimization_level": 0}
    step = run.lower_train_step(run.plan.phases[0]).compile(quick)
    batch = {"image": np.zeros((64, 32, 32, 3), np.float32), "label": np.arange(64, dtype=np.int32) % 10}
    batch["image"] += np.random.default_rng(0).uniform(0, 255, batch["image"].shape).astype(np.float32)
    batch = to_global(batch, run.mesh) | {"command": host_signals(run.mesh)[GO]}
    state = run.lower_init().compile(quick)(variables)
    for _ in range(2):  # the first step has a learning rate of 0
        state, outcome = step(state, batch, not_halted(run.mesh))
        assert int(outcome.updated) == 1
    trained = jax.device_get(state.params)
    np.testing.assert_array_equal(trained["stem_0_whitening"]["fixed_kernel"], kernel)
    assert np.any(trained["classifier"]["kernel"] != variables["params"]["classifier"]["kernel"])
    assert np.any(jax.device_get(state.batch_stats)["stem_1"]["bn"]["mean"])


def test_the_kernel_is_of_images_as_this_run_normalises_them(source, monkeypatch):
    from efficientnet_pod.data.stored import first_images

    monkeypatch.setattr(
        runs, "create_network", lambda name, **options: create_network(name, **options).clone(width=4)
    )
    usual = recipe("resnet9_whitened")
    other = {"mean_rgb": (0.1, 0.2, 0.3), "stddev_rgb": (0.5, 0.6, 0.7)}
    run = runs.open_run(dataclasses.replace(usual, data=dataclasses.replace(usual.data, **other)), source)
    seen = first_images(source, run.preprocessing(), 10_000, lambda images: normalise(images, **other))
    kernel = run.initial_variables()["params"]["stem_0_whitening"]["fixed_kernel"]
    np.testing.assert_array_equal(kernel, whitening_kernel(seen))


def test_a_stand_in_for_images_leaves_the_patches_as_they_are(monkeypatch):
    monkeypatch.setattr(
        runs, "create_network", lambda name, **options: create_network(name, **options).clone(width=4)
    )
    run = runs.open_run(recipe("resnet9_whitened"), runs.ImageNumbers(1437, 360, 10))
    kernel = run.initial_variables()["params"]["stem_0_whitening"]["fixed_kernel"]
    np.testing.assert_array_equal(kernel.reshape(27, 27), np.eye(27))


def test_names_are_found_in_one_place():
    assert create_network("b3", num_classes=10).variant.image_size == network_named("b3").image_size == 300
