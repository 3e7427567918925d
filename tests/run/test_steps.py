"""Eight replicas against one device, for every BN group size; random draws; bfloat16."""

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import lax
from tiny import CLASSES, SIZE, STAGES, batch
from tiny import tiny_model as three_blocks

from efficientnet_pod.models.amoebanet import AUXILIARY_LOGITS
from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.models.inputs import normalise
from efficientnet_pod.optim.adamw import AdamW
from efficientnet_pod.optim.lars import Lars
from efficientnet_pod.pod.agreement import ABANDON, GO, STOP, host_signals, not_halted
from efficientnet_pod.pod.mesh import BN_MEMBER, create_mesh, replicated, to_global
from efficientnet_pod.run.metrics import cross_entropy
from efficientnet_pod.run.mixing import mix
from efficientnet_pod.run.state import init_state
from efficientnet_pod.run.train_step import TrainStep, _all_finite, _with_count, compile_train_step

REPLICAS, STEPS, LR, SMOOTHING = 8, 3, 0.03, 0.1
SGD = optax.sgd(LR, momentum=0.9)


def one_block(**options):
    """A network with batch norm, squeeze and excite and a shortcut, traced in half the time of three."""
    return three_blocks(**options).clone(stages=STAGES[:1])


@functools.cache
def _initial(network):
    return jax.device_get(init_state(initial_variables(network(), SIZE, seed=0), SGD, ema=False))


def initial_state(network=one_block):
    """Returns a state in buffers of its own, which a step may take over."""
    return jax.tree.map(jnp.array, _initial(network))


def train_sharded(group_size: int, batches, dtype=jnp.float32, network=one_block):
    mesh = create_mesh(jax.devices()[:REPLICAS], group_size)
    model = network(bn_axis=BN_MEMBER, dtype=dtype)
    step = TrainStep(model, SGD, SMOOTHING, 0.0, jax.random.key(1))
    compiled = compile_train_step(step, mesh)
    state, halted = initial_state(network), not_halted(mesh)
    for b in batches:
        state, outcome = compiled(state, given(b, mesh), halted)
        halted = outcome.halted
    return jax.device_get(state), jax.device_get(outcome.counts)


def given(host_batch, mesh, command=GO):
    return to_global(host_batch, mesh) | {"command": host_signals(mesh)[command]}


def train_one_device(group_size: int, batches, network):
    """A plain loop over BN groups: the mean of the groups' losses, the mean of their running statistics."""
    model, groups = network(), REPLICAS // group_size

    def loss_fn(params, batch_stats, images, labels):
        def one_group(images_and_labels):
            images, labels = images_and_labels
            variables = {"params": params, "batch_stats": batch_stats}
            logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
            loss = jnp.mean(cross_entropy(logits, labels, label_smoothing=SMOOTHING))
            return loss, updated["batch_stats"]

        losses, stats = lax.map(one_group, (images, labels))
        return jnp.mean(losses), jax.tree.map(partial(jnp.mean, axis=0), stats)

    @jax.jit
    def step(params, batch_stats, opt_state, images, labels):
        gradients, stats = jax.grad(loss_fn, has_aux=True)(params, batch_stats, images, labels)
        updates, opt_state = SGD.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), stats, opt_state

    state = initial_state(network)
    params, batch_stats, opt_state = state.params, state.batch_stats, state.opt_state
    for b in batches:
        images = normalise(b["image"]).reshape(groups, -1, SIZE, SIZE, 3)
        params, batch_stats, opt_state = step(
            params, batch_stats, opt_state, images, b["label"].reshape(groups, -1)
        )
    return jax.device_get(params), jax.device_get(batch_stats)


def largest_difference(a, b) -> float:
    return max(
        float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize(
    "group_size, network", [(1, one_block), (2, three_blocks), (4, one_block), (8, one_block)]
)
def test_sharded_equals_single_device(group_size, network):
    batches = [batch(64, seed) for seed in range(STEPS)]
    params, stats = train_one_device(group_size, batches, network)
    state, counts = train_sharded(group_size, batches, network=network)
    moved = largest_difference(params, jax.device_get(initial_state(network).params))
    difference = largest_difference(state.params, params)
    print(f"BN group {group_size}: parameters differ by {difference:.1e} after moving by {moved:.2g}")
    assert moved > 0.01
    assert difference <= 1e-6
    assert largest_difference(state.batch_stats, stats) <= 1e-5
    assert (int(state.step), int(counts.images)) == (STEPS, 64)


@functools.cache
def still_step(replicas):
    mesh = create_mesh(jax.devices()[:replicas], 1)
    model = three_blocks(bn_axis=BN_MEMBER, dropout=0.5, survival_probability=0.2)
    still = TrainStep(model, optax.sgd(0.0, momentum=0.9), 0.0, 0.0, jax.random.key(1))
    return mesh, compile_train_step(still, mesh)


def stats_after_step(*, step, replicas):
    """Running statistics after one step at learning rate 0 on the same eight images on every replica."""
    mesh, compiled = still_step(replicas)
    state = dataclasses.replace(initial_state(three_blocks), step=jnp.asarray(step, jnp.int32))
    same = {name: np.concatenate([array] * replicas) for name, array in batch(8).items()}
    state = jax.device_put(state, replicated(mesh))
    after, _ = compiled(state, given(same, mesh), not_halted(mesh))
    return jax.device_get(after.batch_stats)


def test_random_masks_depend_on_step_and_replica_and_nothing_else():
    one = stats_after_step(step=0, replicas=1)
    assert largest_difference(one, stats_after_step(step=0, replicas=1)) == 0
    assert largest_difference(one, stats_after_step(step=1, replicas=1)) > 1e-4
    # Were the masks of the second replica those of the first, their mean would be the first's.
    assert largest_difference(one, stats_after_step(step=0, replicas=2)) > 1e-4


def test_bfloat16_step_moves_float32_weights_like_float32():
    batches = [batch(64, seed) for seed in range(STEPS)]
    start = jax.device_get(initial_state())
    single, _ = train_sharded(4, batches)
    half, counts = train_sharded(4, batches, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves((half.params, half.batch_stats))} == {jnp.dtype("float32")}
    moved = jax.tree.map(np.subtract, single.params, start.params)
    error = jax.tree.map(np.subtract, half.params, single.params)
    norm = lambda tree: np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))  # noqa: E731
    assert 0 < norm(error) < 0.1 * norm(moved)
    assert int(counts.images) == 64


@pytest.mark.parametrize("weights", [(), tuple(np.linspace(0.2, 3.0, CLASSES).tolist())])
def test_a_mixed_batch_is_learnt_by_the_mixed_targets(weights):
    """The step with Mixup equals one gradient of the loss against soft targets, on each replica's images.

    Where classes have weights, each of the two targets has that of its class; the mean is over the images.
    """
    b = batch(16)
    mesh, key = create_mesh(jax.devices()[:2], 2), jax.random.key(1)
    model, mixing = one_block(bn_axis=BN_MEMBER), {"mixup": 0.4, "cutmix": 1.0}
    step = TrainStep(model, SGD, SMOOTHING, 0.0, key, **mixing, class_weights=weights)
    state, outcome = compile_train_step(step, mesh)(initial_state(), given(b, mesh), not_halted(mesh))

    def replica(index):
        own = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, 0), index), 1)
        half = slice(8 * index, 8 * index + 8)
        return mix(normalise(b["image"][half]), jnp.asarray(b["label"][half]), own, mixup=0.4, cutmix=1.0)

    one, two = (replica(index) for index in range(2))
    images, label, partner, share = (jnp.concatenate(pair) for pair in zip(one, two, strict=True))
    factors = np.array(weights or (1.0,) * CLASSES, np.float32)[:, None]
    targets = factors * (np.eye(CLASSES, dtype=np.float32) * (1 - SMOOTHING) + SMOOTHING / CLASSES)
    soft = share[:, None] * targets[label] + (1 - share)[:, None] * targets[partner]
    start = initial_state()

    def loss_fn(params):
        variables = {"params": params, "batch_stats": start.batch_stats}
        logits, _ = one_block().apply(variables, images, train=True, mutable=["batch_stats"])
        return jnp.mean(optax.softmax_cross_entropy(logits, soft))

    loss, gradients = jax.jit(jax.value_and_grad(loss_fn))(start.params)
    updates, _ = SGD.update(gradients, start.opt_state, start.params)
    expected = optax.apply_updates(start.params, updates)
    assert largest_difference(jax.device_get(state.params), jax.device_get(expected)) < 1e-6
    assert float(outcome.counts.loss) / 16 == pytest.approx(float(loss), rel=1e-5)


def test_the_trust_ratios_returned_are_those_of_the_update():
    """Recovered from the momentum buffer after the first step, which is rate · trust · (g + decay · w)."""
    hyper, mesh = Lars(0.1, weight_decay=1e-2), create_mesh(jax.devices()[:4], 2)
    variables = initial_variables(one_block(), SIZE, seed=0)
    optimizer = hyper.transformation(lambda _: jnp.float32(0.5), variables["params"])
    start = jax.device_get(init_state(variables, optimizer, ema=False))
    compiled = {}
    for ratios in (hyper.trust_ratios, lambda gradients, params, state: None):
        model = one_block(bn_axis=BN_MEMBER)
        step = TrainStep(model, optimizer, SMOOTHING, 0.0, jax.random.key(1), trust_ratios=ratios)
        arguments = jax.tree.map(jnp.array, start), given(batch(16), mesh), not_halted(mesh)
        compiled[ratios] = compile_train_step(step, mesh).lower(*arguments)
    texts = [lowered.as_text() for lowered in compiled.values()]
    assert texts[0].count("all_reduce") == texts[1].count("all_reduce") > 5  # nothing more is sent
    state, outcome = compiled[hyper.trust_ratios].compile()(*arguments)
    adapted = jax.tree.leaves(hyper.adapted(start.params))
    trace = jax.device_get(optax.tree.get(state.opt_state, "trace"))
    leaves = zip(jax.tree.leaves(trace), jax.tree.leaves(start.params), adapted, strict=True)
    kernels = [(np.float64(v), np.float64(w)) for v, w, is_adapted in leaves if is_adapted]
    assert outcome.trust_ratios.shape == (len(kernels),) and len(kernels) > 5
    for (v, w), trust in zip(kernels, np.float64(outcome.trust_ratios), strict=True):
        w_norm, g_norm = np.linalg.norm(w), np.linalg.norm(v / (0.5 * trust) - hyper.weight_decay * w)
        expected = hyper.trust_coefficient * w_norm / (g_norm + hyper.weight_decay * w_norm)
        assert trust == pytest.approx(expected, rel=1e-4)


def test_a_skipped_step_counts_for_the_rate_and_not_for_the_moments_of_adam():
    optimizer = AdamW().transformation(
        lambda step: 0.1 * (jnp.float32(step) + 1), {"a": {"kernel": jnp.ones(3)}}
    )
    params = {"a": {"kernel": jnp.ones(3)}}
    state = optimizer.init(params)
    update, state = optimizer.update(params, _with_count(state, jnp.int32(4)), params)
    # The first gradient's mean over its root is 1, whatever the step; the decay is a hundredth of 1.
    np.testing.assert_allclose(update["a"]["kernel"], -0.5 * 1.01, rtol=1e-5)
    (moments, _), clock, _ = state
    assert (int(moments.count), int(clock.count)) == (1, 5)


@functools.cache
def _guarded(skip):
    mesh = create_mesh(jax.devices()[:4], 2)
    optimizer = optax.rmsprop(LR, momentum=0.9)
    step = TrainStep(
        one_block(bn_axis=BN_MEMBER), optimizer, SMOOTHING, 0.9, jax.random.key(1), skip_non_finite=skip
    )
    variables = initial_variables(one_block(), SIZE, seed=0)
    start = jax.device_get(init_state(variables, optimizer, ema=True))
    return mesh, compile_train_step(step, mesh), start


def one_replica_of(mesh, command):
    """What the replicas read where one host of several has something to say."""
    values = np.full(mesh.size, GO, np.int32)
    values[2] = command
    return to_global({"": values}, mesh)[""]


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(jax.device_get(state))]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("where", ["image", "overflow"])
def test_a_step_that_is_not_finite_leaves_the_state_untouched(skip, where):
    mesh, compiled, start = _guarded(skip)
    bad = batch(16)
    bad["image"][5] = np.nan if where == "image" else 3e38  # one image of one replica
    state, first = compiled(jax.tree.map(jnp.array, start), given(batch(16), mesh), not_halted(mesh))
    before = bits(dataclasses.replace(jax.device_get(state), step=0))
    state, second = compiled(state, given(bad, mesh), first.halted)
    assert bits(dataclasses.replace(jax.device_get(state), step=0)) == before
    assert (int(first.updated), int(first.finite), int(first.halted)) == (1, 1, 0)
    assert (int(second.updated), int(second.finite), int(second.halted)) == (0, 0, not skip)
    assert int(state.step) == (2 if skip else 1)
    state, third = compiled(state, given(batch(16, 1), mesh), second.halted)
    assert (int(third.updated), int(state.step)) == ((1, 3) if skip else (0, 1))
    assert (bits(dataclasses.replace(jax.device_get(state), step=0)) == before) is not skip


@pytest.mark.parametrize(
    ("where", "value", "finite"),
    [
        ("loss", np.nan, False),
        ("mean", -np.inf, False),
        ("mean", 3e38, True),
        ("bias", np.nan, False),
        ("bias", 1e18, True),
        ("bias", 1e20, False),  # its square is not
        ("kernel", np.inf, False),
        ("kernel", 1e18, True),
        ("kernel", 1.5e19, False),  # the sum of two such squares is not
    ],
)
def test_loss_statistics_and_squares_of_gradients_are_to_be_finite(where, value, finite):
    ordinary = np.ones((3, 2), np.float32)
    leaves = {"loss": ordinary[0, 0], "mean": ordinary[:, 0], "bias": ordinary[0], "kernel": ordinary}
    leaves[where] = np.where(np.arange(leaves[where].size).reshape(leaves[where].shape) < 2, value, 1)
    leaves = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in leaves.items()}
    counted = jnp.zeros((), jnp.int32)
    values = (leaves["loss"], {"mean": leaves["mean"], "count": counted})
    gradients = {"bias": leaves["bias"], "kernel": leaves["kernel"]}
    assert bool(jax.jit(_all_finite)(values, gradients)) is finite


def test_one_host_stops_all_in_the_same_step_and_can_abandon_it():
    mesh, compiled, start = _guarded(False)
    state, halted = jax.tree.map(jnp.array, start), not_halted(mesh)
    data = to_global(batch(16), mesh)
    state, outcome = compiled(state, data | {"command": one_replica_of(mesh, STOP)}, halted)
    assert (int(outcome.stops), int(outcome.updated), int(state.step)) == (1, 1, 1)  # a stop still trains
    before = bits(state)
    state, outcome = compiled(state, data | {"command": one_replica_of(mesh, ABANDON)}, outcome.halted)
    assert (int(outcome.stops), int(outcome.updated), int(outcome.halted)) == (1, 0, 1)
    assert bits(state) == before
    state, outcome = compiled(state, given(batch(16), mesh), outcome.halted)  # was dispatched already
    assert int(outcome.updated) == 0 and bits(state) == before


class TwoClassifiers(nn.Module):
    """Two matrices on the mean colours of an image; the second one's logits are put aside."""

    @nn.compact
    def __call__(self, images, *, train):
        self.variable("batch_stats", "mean", jnp.zeros, (1,))
        colors = jnp.mean(images, (1, 2))
        second = nn.Dense(CLASSES, use_bias=False, name="second")(colors)
        if train:
            self.sow(AUXILIARY_LOGITS, "logits", second)
        return nn.Dense(CLASSES, use_bias=False, name="first")(colors)


def test_the_loss_of_a_second_classifier_has_its_weight_and_the_smoothing():
    """Closed form: the gradient of a matrix is colours times (probabilities − targets), over the images."""
    mesh, weight = create_mesh(jax.devices()[:REPLICAS], 1), 0.4
    model = TwoClassifiers()
    variables = model.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)), train=False)
    assert set(variables) == {"params", "batch_stats"}
    start = jax.device_get(variables["params"])
    step = TrainStep(
        model,
        optax.sgd(1.0),
        SMOOTHING,
        0.0,
        jax.random.key(1),
        auxiliary_weight=weight,
        normalise=lambda x: x / 100,
    )
    data = batch(16)
    state, outcome = compile_train_step(step, mesh)(
        init_state(variables, optax.sgd(1.0), ema=False), given(data, mesh), not_halted(mesh)
    )
    colors = (data["image"].astype(np.float64) / 100).mean((1, 2))
    targets = np.eye(CLASSES)[data["label"]] * (1 - SMOOTHING) + SMOOTHING / CLASSES
    total = 0.0
    for name, share in (("first", 1.0), ("second", weight)):
        logits = colors @ start[name]["kernel"].astype(np.float64)
        log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        total += share * -(targets * log).sum()
        gradient = share * colors.T @ (np.exp(log) - targets) / len(targets)
        moved = start[name]["kernel"] - np.asarray(state.params[name]["kernel"])
        np.testing.assert_allclose(moved, gradient, rtol=1e-4, atol=1e-6)
    assert float(outcome.counts.loss) == pytest.approx(total, rel=1e-5)
