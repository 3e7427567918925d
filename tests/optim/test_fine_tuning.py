"""Training from existing weights: what stays to the bit, what moves, and how far."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recipes import load
from same_tensors import same
from tiny import CLASSES, STAGES, batch, build_tiny_networks, tiny_model
from whole_runs import final_state
from whole_runs import fine_tuning_config as config

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.batch_norm import BatchNorm
from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.models.inputs import normalise
from efficientnet_pod.optim.fine_tuning import InitSettings, scaled
from efficientnet_pod.optim.lars import Lars
from efficientnet_pod.optim.rmsprop import RmsProp
from efficientnet_pod.optim.sgd import Sgd
from efficientnet_pod.pod.mesh import put_replicated
from efficientnet_pod.pod.runtime import Runtime
from efficientnet_pod.recipe.reading import read_init, read_recipe
from efficientnet_pod.run.run import open_run, run_on
from efficientnet_pod.train.initial_weights import (
    _require_alike,
    initial_state,
    open_initial,
    with_statistics_of_images,
)
from efficientnet_pod.train.train import train_and_evaluate
from efficientnet_pod.weights import convert
from efficientnet_pod.weights.folder import write_folder
from efficientnet_pod.weights.open import open_weights
from efficientnet_pod.weights.trained import CENTRE
from efficientnet_pod.workdir.checkpoints.commit import leaves_of

INIT = InitSettings("somewhere", (), (), "train", 64)


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    build_tiny_networks(monkeypatch)
    convert._shapes.cache_clear()
    yield
    convert._shapes.cache_clear()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run on the digits whose weights others start from."""
    with pytest.MonkeyPatch.context() as patch:
        build_tiny_networks(patch)
        workdir = tmp_path_factory.mktemp("runs") / "source"
        train_and_evaluate(config(), workdir)
    return workdir


def opened(path, raw=True):
    return open_weights(str(path), which="latest", raw=raw).tensors


def test_a_run_begins_with_the_weights_and_says_so(source, tmp_path, capsys):
    train_and_evaluate(config(source) | {"epochs": 1 / 12}, tmp_path / "run")
    assert f"starts from {source}, step 6: " in capsys.readouterr().out
    said = json.loads((tmp_path / "run" / "initial.json").read_text())
    assert said["weights"] == str(source) and said["step"] == 6 and not said["new_classifier"]
    run = open_run(read_recipe(config(source)))
    averaged = open_weights(str(source), which="best")
    state = initial_state(run, open_initial(run))
    assert same(leaves_of(state.variables), averaged.tensors)
    assert same(leaves_of(state.ema), averaged.tensors)


@pytest.mark.parametrize("frozen", [("stem", "block1"), ("stem", "block", "head")])
def test_frozen_layers_and_their_statistics_keep_their_bits(source, frozen, tmp_path):
    train_and_evaluate(config(source, frozen=frozen), tmp_path / "run")
    before = open_weights(str(source), which="best").tensors
    for raw in (True, False):
        after = opened(tmp_path / "run", raw=raw)
        for path, tensor in after.items():
            is_frozen = path.partition("/")[2].startswith(frozen)
            assert np.array_equal(tensor, before[path]) == is_frozen, (path, raw)


def test_kept_statistics_keep_their_bits_while_weights_move(source, tmp_path):
    train_and_evaluate(config(source, bn_statistics="keep"), tmp_path / "run")
    before, after = open_weights(str(source), which="best").tensors, opened(tmp_path / "run")
    for path, tensor in after.items():
        assert np.array_equal(tensor, before[path]) == path.startswith("batch_stats/"), path


def test_fixed_batch_norm_normalises_in_training_as_in_evaluation():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(2, 3, (16, 4, 4, 8)), jnp.float32)
    layer = BatchNorm(None, fixed=("",))
    variables = layer.init(jax.random.key(0), x, train=False)
    given = {"mean": jnp.arange(8.0), "var": jnp.arange(1.0, 9.0)}
    variables = {**variables, "batch_stats": given}
    y, updated = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    assert np.array_equal(y, layer.apply(variables, x, train=False))
    assert jax.tree.all(jax.tree.map(np.array_equal, updated["batch_stats"], given))
    other, _ = BatchNorm(None, fixed=("stem",)).apply(variables, x, train=True, mutable=["batch_stats"])
    assert np.abs(other - y).max() > 0.1  # a layer that is not named is as ever


def test_nothing_is_computed_for_the_gradients_of_frozen_layers(source):
    flops = []
    for frozen in ((), ("stem", "block", "head")):
        run = open_run(read_recipe(config(source, frozen=frozen)))
        cost = run.lower_train_step(run.plan.phases[0]).compile().cost_analysis()
        flops.append((cost[0] if isinstance(cost, list) else cost)["flops"])
    assert flops[1] < 0.6 * flops[0]  # forward only, but for the classifier


@pytest.mark.parametrize(
    "hyper",
    [
        Sgd(0.1, 0.9, True, 1e-2, True),
        RmsProp(0.016, 0.9, 0.9, 1e-3, 1e-2),
        Lars(0.236, 0.9, 1e-2, 0.1, 0.0),
    ],
    ids=lambda hyper: type(hyper).__name__,
)
def test_a_factor_is_another_learning_rate(hyper):
    params = initial_variables(tiny_model(), 32, seed=1)["params"]
    init = dataclasses.replace(
        INIT, frozen=("stem_bn",), lr_factors=(("", 0.25), ("block2", 0.5), ("classifier", 1.0))
    )

    def schedule(factor):
        return lambda step: factor * 0.1 / (1 + jnp.asarray(step, jnp.float32))

    def updates_of(optimizer):
        state, found, rng = optimizer.init(params), [], np.random.default_rng(5)
        for _ in range(4):
            gradients = jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 1, p.shape), jnp.float32), params)
            updates, state = optimizer.update(gradients, state, params)
            found.append(leaves_of(updates))
        return found

    mine = updates_of(scaled(hyper.transformation(schedule(1.0), params), init))
    of_factor = {f: updates_of(hyper.transformation(schedule(f), params)) for f in (0.25, 0.5, 1.0)}
    for step, updates in enumerate(mine):
        for path, update in updates.items():
            if path.startswith("stem_bn"):
                assert not update.any()
                continue
            factor = {"block2": 0.5, "classi": 1.0}.get(path[:6], 0.25)
            np.testing.assert_allclose(update, of_factor[factor][step][path], rtol=1e-5, atol=1e-9)


def test_without_factors_the_optimizer_is_the_same_object():
    optimizer = optax.sgd(0.1)
    assert scaled(optimizer, INIT) is optimizer


def test_statistics_are_those_of_the_images_as_the_weights_see_them(source, monkeypatch):
    """Against a loop over the BN groups on one device."""
    run = open_run(read_recipe(config(source, bn_statistics="reestimate")))
    batches = [batch(120, seed=seed) for seed in range(2)]
    monkeypatch.setattr(
        "efficientnet_pod.train.initial_weights.train_batches", lambda run, **_: iter(batches)
    )
    host = initial_state(run, open_initial(run))
    state = with_statistics_of_images(run, put_replicated(host, run.mesh))

    model = tiny_model(bn_momentum=0.0).clone(stages=STAGES[:1])
    groups = run.mesh.shape["bn_group"]
    found = []
    for each in batches:
        for images in np.split(each["image"], groups):
            _, updated = model.apply(
                host.variables, normalise(jnp.asarray(images)), train=True, mutable=["batch_stats"]
            )
            found.append(leaves_of(updated["batch_stats"]))
    for path, value in leaves_of(state.batch_stats).items():
        np.testing.assert_allclose(
            value, np.mean([each[path] for each in found], axis=0), rtol=2e-4, atol=1e-5
        )
        assert np.array_equal(value, leaves_of(state.ema["batch_stats"])[path])
    assert same(leaves_of(jax.device_get(state.params)), leaves_of(host.params))


@pytest.mark.parametrize(("devices", "group"), [(2, 4), (2, 2)])
def test_statistics_are_the_same_on_fewer_devices(source, monkeypatch, devices, group):
    found = []
    for count in (8, devices):
        on_eight = {"replicas": 8, "bn_group_size": group}
        recipe = read_recipe(config(source, bn_statistics="reestimate") | on_eight)
        run = run_on(Runtime("cpu", tuple(jax.devices()[:count]), "cpu", 0, 1), recipe)
        state = put_replicated(initial_state(run, open_initial(run)), run.mesh)
        found.append(leaves_of(jax.device_get(with_statistics_of_images(run, state).batch_stats)))
    for path, value in found[0].items():
        np.testing.assert_allclose(found[1][path], value, rtol=1e-5, atol=1e-6)


def test_weights_have_no_second_classifier():
    recipe = load("amoebanet.py:v2-8")
    recipe["init"]["weights"] = "W"
    recipe = read_recipe(recipe)
    rgb = {"mean_rgb": recipe.data.mean_rgb, "stddev_rgb": recipe.data.stddev_rgb}
    with pytest.raises(
        UserError, match="^'W' comes without the second classifier, and .*auxiliary_weight=0$"
    ):
        _require_alike(SimpleNamespace(network="amoebanet_d", **rgb), recipe)  # type: ignore[arg-type]


def test_a_resumed_run_needs_the_weights_no_more_and_ends_the_same(source, tmp_path, with_fault):
    weights = tmp_path / "weights"
    write_folder(open_weights(str(source)), weights)
    cfg = config(weights, frozen=("stem",), bn_statistics="reestimate") | {"checkpoint_minutes": 1e-9}
    whole = train_and_evaluate(cfg, tmp_path / "whole")
    with_fault("raise@step:5")
    with pytest.raises(Exception, match="fault on purpose"):
        train_and_evaluate(cfg, tmp_path / "broken")
    shutil.rmtree(weights)
    again = train_and_evaluate(cfg, tmp_path / "broken")
    assert again["state_digest"] == whole["state_digest"]
    assert final_state(cfg, tmp_path / "broken")[0] == 6


def test_another_number_of_classes_gets_a_new_classifier(source, tmp_path):
    given = open_weights(str(source))
    kernel = given.variables["params"]["classifier"]["kernel"]
    params = {**given.variables["params"], "classifier": {"kernel": kernel[:, :3], "bias": np.zeros(3, "f4")}}
    imported = {**given.origin, "new_classifier": False}  # as `import` says of the file that it has read
    given = dataclasses.replace(
        given, variables={**given.variables, "params": params}, class_names=(), origin=imported
    )
    write_folder(given, tmp_path / "w")
    run = open_run(read_recipe(config(tmp_path / "w")))
    initial = open_initial(run)
    assert initial.origin["new_classifier"] and f"a new one for {CLASSES} classes" in initial.line
    found, shapes = leaves_of(initial.variables), leaves_of(run.variables)
    for path, tensor in found.items():
        assert tensor.shape == shapes[path].shape
        assert np.array_equal(tensor, 0 * tensor if "classifier" in path else given.tensors[path]), path


def test_classes_of_other_names_are_other_classes(source, tmp_path):
    given = open_weights(str(source))
    write_folder(dataclasses.replace(given, class_names=tuple("abcdefghij")), tmp_path / "w")
    assert open_initial(open_run(read_recipe(config(tmp_path / "w")))).origin["new_classifier"]


def test_a_crop_that_is_not_the_weights_is_said(source, tmp_path):
    write_folder(
        dataclasses.replace(open_weights(str(source)), view=CENTRE, eval_crop_share=0.922), tmp_path / "w"
    )
    cfg = config(tmp_path / "w")
    assert open_initial(open_run(read_recipe(cfg))).warnings == ()  # the digits are seen whole
    cfg["data"] |= {"augment": "inception_crop", "max_shift": 0}
    [warning] = open_initial(open_run(read_recipe(cfg))).warnings
    assert "the central 92.2 %" in warning and warning.endswith("--config.data.eval_crop_share=0.922")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"mean_rgb": (0.5, 0.5, 0.5)}, r"set --config.data.mean_rgb='\(0.5, 0.5, 0.5\)'"),
        ({"stddev_rgb": (0.5, 0.5, 0.5)}, r"set --config.data.stddev_rgb='\(0.5, 0.5, 0.5\)'"),
        ({"settings": {"bn_epsilon": 1e-5}}, "set --config.model.bn_epsilon=1e-05"),
    ],
)
def test_weights_trained_otherwise_are_refused_before_the_workdir_is_taken(source, change, said, tmp_path):
    write_folder(dataclasses.replace(open_weights(str(source)), **change), tmp_path / "w")
    with pytest.raises(UserError, match=said):
        train_and_evaluate(config(tmp_path / "w"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "init, said",
    [
        ({"frozen": ("blocks1",)}, "names 'blocks1', and no layer begins so; did you mean 'block1a'"),
        ({"frozen": ("",)}, "leave nothing to be trained"),
        ({"lr_factors": (("hed", 1.0),)}, "config.init.lr_factors names 'hed'.*did you mean 'head_"),
        ({"lr_factors": (("head", -1.0),)}, "must be at least 0 and at most 1,000"),
        ({"lr_factors": 0.1}, "it must be pairs"),
        ({"bn_statistics": "freeze"}, "config.init.bn_statistics='freeze' is unknown"),
        ({"bn_images": 0}, "must be a whole number, at least 1"),
        ({"weights": "", "frozen": ("stem",)}, "are for weights that exist"),
        ({"weights": "/nowhere"}, "'/nowhere' does not exist"),
    ],
)
def test_bad_settings_are_one_line(init, said, tmp_path):
    with pytest.raises(UserError, match=said):
        train_and_evaluate(config(**({"weights": "w"} | init)), tmp_path / "run")


def test_layers_are_read_from_the_command_line_as_words_or_a_tuple():
    table = dataclasses.asdict(INIT)
    assert read_init(table | {"frozen": "stem"}).frozen == ("stem",)
    assert read_init(table | {"frozen": ["stem", "block1"]}).frozen == ("stem", "block1")
    assert read_init(table | {"frozen": ""}).frozen == ()
    assert read_init(table | {"lr_factors": [["", 0.1]]}).lr_factor("stem_conv/kernel") == 0.1
