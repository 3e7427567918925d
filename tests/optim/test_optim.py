"""Fifty steps of LARS, AdamW and LAMB against their formulas in float64, of the others against TensorFlow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorflow as tf
import torch_adamw
from jax.sharding import PartitionSpec as P
from torch_adamw import DATA, RATES, STEPS

from efficientnet_pod.errors import UserError
from efficientnet_pod.optim import masks
from efficientnet_pod.optim.adamw import AdamW
from efficientnet_pod.optim.lamb import Lamb
from efficientnet_pod.optim.lars import Lars
from efficientnet_pod.optim.optimizers import OPTIMIZERS, treatment
from efficientnet_pod.optim.rmsprop import RmsProp
from efficientnet_pod.optim.sgd import Sgd

SHAPES = {tuple(name.split("/")): shape for name, shape in torch_adamw.SHAPES.items()}
KERNELS = {path for path in SHAPES if path[1] == "kernel"}
NORMS = {path for path in SHAPES if path[0] == "stem_bn"}


def table(step):
    return jnp.asarray(RATES, jnp.float32)[step]


def tree(leaves):
    nested = {}
    for (module, leaf), value in leaves.items():
        nested.setdefault(module, {})[leaf] = value
    return nested


def by_path(leaves):
    return {tuple(name.split("/")): leaf for name, leaf in leaves.items()}


def initial_weights():
    """Returns float32 leaves by path; biases and one kernel are zero, scales are one."""
    return by_path(torch_adamw.initial_weights())


def gradients(step):
    """Returns float32 leaves by path; the dead kernel's gradient is zero at every third step."""
    return by_path(torch_adamw.gradients(step))


def follow(optimizer):
    """Returns the parameters after each step, by path."""

    def apply(carry, grads):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    @jax.jit
    def train(params, grads):
        return jax.lax.scan(apply, (params, optimizer.init(params)), grads)[1]

    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(tree(gradients(k)) for k in range(STEPS)))
    after = jax.tree.map(np.asarray, train(tree(initial_weights()), stacked))
    return [{(m, leaf): after[m][leaf][k] for m, leaf in SHAPES} for k in range(STEPS)]


def assert_same_trajectory(ours, theirs, rtol=1e-5, atol=5e-6):
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for path in SHAPES:
            np.testing.assert_allclose(a[path], b[path], rtol, atol, err_msg=f"{path} after step {step}")


def lars_in_numpy(hyper):
    """Returns the trajectory of LARS by its formula in float64, one tensor and one step at a time."""
    weights = {path: value.astype(np.float64) for path, value in initial_weights().items()}
    momentum = {path: np.zeros(shape) for path, shape in SHAPES.items()}
    trajectory = []
    for step in range(STEPS):
        for path, g32 in gradients(step).items():
            w, g, rate = weights[path], g32.astype(np.float64), RATES[step]
            if path in KERNELS:
                w_norm, g_norm = np.linalg.norm(w.ravel()), np.linalg.norm(g.ravel())
                if w_norm > 0 and g_norm > 0:
                    rate *= (
                        hyper.trust_coefficient
                        * w_norm
                        / (g_norm + hyper.weight_decay * w_norm + hyper.epsilon)
                    )
                g = g + hyper.weight_decay * w
            momentum[path] = hyper.momentum * momentum[path] + rate * g
            weights[path] = w - momentum[path]
        trajectory.append(dict(weights))
    return trajectory


@pytest.mark.parametrize(
    "hyper",
    [
        Lars(0.236),
        Lars(0.236, weight_decay=1e-2, trust_coefficient=0.02, epsilon=1e-3, momentum=0.95),
        Lars(0.236, weight_decay=0.0, momentum=0),
    ],
)
def test_lars_follows_its_formula(hyper):
    ours = follow(hyper.transformation(table, tree(initial_weights())))
    assert_same_trajectory(ours, lars_in_numpy(hyper))


def test_optax_lars_is_another_optimizer():
    def optax_lars(weight_decay):
        kernels = masks.where(masks.KERNELS, tree(initial_weights()))
        optimizer = optax.lars(
            table,
            weight_decay,
            weight_decay_mask=kernels,
            trust_ratio_mask=kernels,
            trust_coefficient=0.02,
            momentum=0.9,
        )
        return follow(optimizer)

    def ours(weight_decay):
        return lars_in_numpy(Lars(0.236, weight_decay=weight_decay, trust_coefficient=0.02))

    # Without decay the denominators are equal, which shows that nothing else differs.
    assert_same_trajectory(optax_lars(0.0), ours(0.0))
    path = ("stem_conv", "kernel")
    theirs, paper = optax_lars(0.02)[-1][path], ours(0.02)[-1][path]
    assert np.linalg.norm(theirs - paper) > 0.02 * np.linalg.norm(paper)


def test_lars_divides_by_no_zero_norm():
    zeros = tree({path: np.zeros(shape, np.float32) for path, shape in SHAPES.items()})
    optimizer = Lars(0.236).transformation(lambda _: jnp.float32(10.0), zeros)
    params = jax.tree.map(jnp.asarray, zeros)
    with jax.debug_nans(True):
        updates, _ = optimizer.update(
            params, optimizer.init(params), params
        )  # no jit, which hides what is unused
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(updates))


def test_trust_ratios_are_those_of_the_formula_in_tree_order():
    hyper = Lars(0.236, weight_decay=1e-2, trust_coefficient=0.02, epsilon=1e-3)
    weights, grads = initial_weights(), gradients(0)  # of which one kernel is zero, and one gradient
    names = [entry.path for entry in treatment(hyper, tree(weights)) if entry.adapted]
    expected = []
    for name in names:
        w, g = (np.float64(side[tuple(name.split("/"))]) for side in (weights, grads))
        w_norm, g_norm = np.sqrt(np.sum(w * w)), np.sqrt(np.sum(g * g))
        divisor = g_norm + hyper.weight_decay * w_norm + hyper.epsilon
        expected.append(hyper.trust_coefficient * w_norm / divisor if w_norm > 0 and g_norm > 0 else 1.0)
    found = jax.jit(hyper.trust_ratios)(tree(grads), tree(weights), None)
    assert found.dtype == jnp.float32 and set(names) == {"/".join(path) for path in KERNELS}
    assert expected.count(1.0) == 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("hyper", [RmsProp(), Sgd(), AdamW()])
def test_other_optimizers_have_no_trust_ratios(hyper):
    assert hyper.trust_ratios(tree(gradients(0)), tree(initial_weights()), None) is None


def adam_in_numpy(hyper, *, trust):
    """Returns weights and trust ratios by the formulas in float64, one tensor and one step at a time."""
    weights = {path: value.astype(np.float64) for path, value in initial_weights().items()}
    moments = {path: (np.zeros(shape), np.zeros(shape)) for path, shape in SHAPES.items()}
    trajectory, ratios = [], []
    for step in range(STEPS):
        ratios.append({})
        for path, g32 in gradients(step).items():
            w, g = weights[path], g32.astype(np.float64)
            m, s = moments[path]
            m, s = hyper.beta1 * m + (1 - hyper.beta1) * g, hyper.beta2 * s + (1 - hyper.beta2) * g * g
            moments[path] = m, s
            k = step + 1
            u = m / (1 - hyper.beta1**k) / (np.sqrt(s / (1 - hyper.beta2**k)) + hyper.epsilon)
            ratio = 1.0
            if path in KERNELS:
                u = u + hyper.weight_decay * w
                norms = np.linalg.norm(w.ravel()), np.linalg.norm(u.ravel())
                ratios[-1][path] = norms[0] / norms[1] if min(norms) > 0 else 1.0
                ratio = ratios[-1][path] if trust else 1.0
            weights[path] = w - 0.01 * RATES[step] * ratio * u
        trajectory.append(dict(weights))
    return trajectory, ratios


def small_rates(step):
    return 0.01 * table(step)


@pytest.mark.parametrize("hyper", [AdamW(), AdamW(beta1=0.6, beta2=0.995, epsilon=1e-3, weight_decay=0.5)])
def test_adamw_follows_its_formula_and_optax(hyper):
    ours = follow(hyper.transformation(small_rates, tree(initial_weights())))
    assert_same_trajectory(ours, adam_in_numpy(hyper, trust=False)[0])
    kernels = masks.where(masks.KERNELS, tree(initial_weights()))
    numbers = dict(b1=hyper.beta1, b2=hyper.beta2, eps=hyper.epsilon, weight_decay=hyper.weight_decay)
    with jax.numpy_dtype_promotion("standard"):
        theirs = follow(optax.adamw(small_rates, **numbers, mask=kernels))
    assert_same_trajectory(ours, theirs, rtol=1e-6)


def test_adamw_follows_pytorch():
    """Its numbers are kept in a file: PyTorch is not here. tests/references/torch_adamw.py writes it."""
    hyper, kept = AdamW(beta1=0.6, beta2=0.995, weight_decay=0.5), np.load(DATA / "torch_adamw.npz")
    ours = follow(hyper.transformation(small_rates, tree(initial_weights())))
    for path in SHAPES:
        np.testing.assert_allclose(
            np.stack([each[path] for each in ours]), kept["/".join(path)], 1e-5, 5e-6, err_msg=f"{path}"
        )


@pytest.mark.parametrize("hyper", [Lamb(), Lamb(beta1=0.8, beta2=0.99, epsilon=1e-3, weight_decay=0.5)])
def test_lamb_follows_its_formula_and_optax(hyper):
    params = tree(initial_weights())
    ours = follow(hyper.transformation(small_rates, params))
    assert_same_trajectory(ours, adam_in_numpy(hyper, trust=True)[0])
    # Alone, Optax adapts every tensor; of the kernels it is told to decay the same.
    numbers = dict(b1=hyper.beta1, b2=hyper.beta2, eps=hyper.epsilon, weight_decay=hyper.weight_decay)
    with jax.numpy_dtype_promotion("standard"):
        theirs = follow(optax.lamb(small_rates, **numbers, mask=masks.where(masks.KERNELS, params)))
    for a, b in zip(ours, theirs, strict=True):
        for path in KERNELS:
            np.testing.assert_allclose(a[path], b[path], 1e-5, 5e-6, err_msg=f"{path}")


def test_lamb_says_its_trust_ratios():
    hyper, params = Lamb(weight_decay=0.5), jax.tree.map(jnp.asarray, tree(initial_weights()))
    optimizer = hyper.transformation(small_rates, params)
    state = optimizer.init(params)
    names = [tuple(entry.path.split("/")) for entry in treatment(hyper, params) if entry.adapted]
    for step in range(3):
        grads = tree(gradients(step))
        found = jax.jit(hyper.trust_ratios)(grads, params, state)
        expected = adam_in_numpy(hyper, trust=True)[1][step]
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, [expected[name] for name in names], rtol=1e-5)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert len({float(ratio) for ratio in found}) > 3


def test_lars_refuses_to_work_without_parameters():
    params = tree(initial_weights())
    optimizer = Lars(0.236).transformation(table, params)
    with pytest.raises(ValueError, match="LARS needs the parameters"):
        optimizer.update(params, optimizer.init(params))


def tensorflow(make_optimizer, l2, undecayed=NORMS):
    """Returns the trajectory of a TensorFlow optimizer with ½·l2·‖w‖² in the loss, but of ``undecayed``."""
    step = 0
    optimizer = make_optimizer(lambda: np.float32(RATES[step]))
    variables = {path: tf.Variable(value) for path, value in initial_weights().items()}
    trajectory = []
    for step in range(STEPS):  # noqa: B007, read by the learning rate
        grads = gradients(step)
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(v * grads[path]) for path, v in variables.items()])
            loss += l2 * tf.add_n(
                [tf.nn.l2_loss(v) for path, v in variables.items() if path not in undecayed]
            )
        order = list(variables.values())
        optimizer.apply_gradients(zip(tape.gradient(loss, order), order, strict=True))
        trajectory.append({path: v.numpy() for path, v in variables.items()})
    return trajectory


@pytest.mark.parametrize(
    "hyper",
    [
        RmsProp(),
        RmsProp(0.1, decay=0.8, momentum=0.95, epsilon=1e-6, l2=0.05),
        RmsProp(0.64, epsilon=1.0, l2=0.05, l2_biases=False),
    ],
)
def test_rmsprop_follows_tensorflow(hyper):
    ours = follow(hyper.transformation(table, tree(initial_weights())))
    theirs = tensorflow(
        lambda rate: tf.compat.v1.train.RMSPropOptimizer(rate, hyper.decay, hyper.momentum, hyper.epsilon),
        hyper.l2,
        NORMS if hyper.l2_biases else {path for path in SHAPES if path[1] != "kernel"},
    )
    assert_same_trajectory(ours, theirs)


@pytest.mark.parametrize(
    "hyper", [Sgd(), Sgd(nesterov=True), Sgd(momentum=0.5, l2=0.05), Sgd(l2=0.05, l2_everywhere=True)]
)
def test_sgd_follows_tensorflow(hyper):
    ours = follow(hyper.transformation(table, tree(initial_weights())))
    theirs = tensorflow(
        lambda rate: tf.compat.v1.train.MomentumOptimizer(rate, hyper.momentum, use_nesterov=hyper.nesterov),
        hyper.l2,
        set() if hyper.l2_everywhere else NORMS,
    )
    assert_same_trajectory(ours, theirs)


EVERY = [Lars(0.236), RmsProp(), Sgd(), AdamW(), Lamb()]


@pytest.mark.parametrize("hyper", EVERY)
def test_a_restored_state_goes_on_bit_for_bit(hyper):
    def train(params, state, steps):
        # Built anew, as after a restart: all that an optimizer remembers is in its state.
        optimizer = hyper.transformation(table, params)
        update = jax.jit(optimizer.update)
        state = jax.jit(optimizer.init)(params) if state is None else state
        for step in steps:
            updates, state = update(tree(gradients(step)), state, params)
            params = jax.tree.map(lambda w, u: w + np.asarray(u), params, updates)
        return params, jax.tree.map(np.asarray, state)

    whole = train(tree(initial_weights()), None, range(6))
    interrupted = train(*train(tree(initial_weights()), None, range(3)), range(3, 6))
    jax.tree.map(np.testing.assert_array_equal, interrupted, whole)


@pytest.mark.parametrize("hyper", EVERY)
def test_an_update_on_eight_replicas_is_that_of_one(hyper):
    params = jax.tree.map(jnp.asarray, tree(initial_weights()))
    optimizer = hyper.transformation(lambda step: table(step + 5), params)
    arguments = (tree(gradients(0)), optimizer.init(params), params)
    on_replicas = functools.partial(
        jax.shard_map, mesh=jax.make_mesh((8,), ("replica",)), in_specs=P(), out_specs=P()
    )
    sharded = jax.jit(on_replicas(optimizer.update))(*arguments)
    single = jax.jit(optimizer.update)(*arguments)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(single[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), sharded, single)


@pytest.mark.parametrize("hyper", [*EVERY, Lars(0.236, weight_decay=0), Sgd(l2=0), Sgd(l2_everywhere=True)])
def test_treatment_is_what_the_update_does(hyper):
    """Without a gradient only decay moves a tensor; the trust ratio makes the gradient's scale cancel.

    That of Adam cancels anyway: there the update of an adapted tensor is as large as the tensor.
    """
    rng = np.random.default_rng(3)
    params = tree({path: np.float32(1 + rng.random(shape)) for path, shape in SHAPES.items()})
    optimizer = hyper.transformation(lambda _: jnp.float32(1.0), params)

    @jax.jit
    @jax.vmap
    def update(scale):
        grads = jax.tree.map(lambda w: scale * w, params)
        return optimizer.update(grads, optimizer.init(params), params)[0]

    updates = jax.tree.map(np.asarray, update(jnp.asarray([0.0, 1.0, 2.0])))
    listed = treatment(hyper, params)
    assert {tuple(entry.path.split("/")): entry.shape for entry in listed} == SHAPES
    for path, _, decayed, adapted in listed:
        module, leaf = path.split("/")
        without, once, twice = updates[module][leaf]
        assert decayed == bool(np.any(without)), path
        # The decay, 1e-5 of the weight, does not scale with the gradient.
        if isinstance(hyper, AdamW):
            norms = np.linalg.norm(once.ravel()), np.linalg.norm(params[module][leaf].ravel())
            assert adapted == np.isclose(*norms, rtol=1e-3), path
        else:
            assert adapted == np.allclose(once, twice, rtol=1e-3), path


def test_treatment_needs_only_shapes():
    weights = tree(initial_weights())
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, weights))
    assert treatment(Lars(0.236), shapes) == treatment(Lars(0.236), weights)
    treated = {entry.path: (entry.decayed, entry.adapted) for entry in treatment(Lars(0.236), shapes)}
    assert treated["se_reduce/bias"] == treated["stem_bn/scale"] == treated["stem_bn/bias"] == (False, False)
    assert treated["se_reduce/kernel"] == treated["classifier/kernel"] == (True, True)
    treated = {entry.path: (entry.decayed, entry.adapted) for entry in treatment(RmsProp(), shapes)}
    assert treated["stem_bn/scale"] == treated["stem_bn/bias"] == (False, False)
    assert treated["se_reduce/bias"] == treated["classifier/bias"] == (True, False)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("momentum", [1.0, -0.1, float("nan")])
def test_a_momentum_out_of_range_is_refused_in_one_line(name, momentum):
    field = "beta1" if issubclass(OPTIMIZERS[name], AdamW) else "momentum"
    with pytest.raises(UserError, match=f"config.optimizer.{name}.{field}={momentum} must be"):
        OPTIMIZERS[name](lr_per_256=0.1, **{field: momentum})


@pytest.mark.parametrize(
    ("name", "field"), [("lars", "weight_decay"), ("rmsprop", "l2"), ("sgd", "l2"), ("sgd", "lr_per_256")]
)
def test_a_negative_hyperparameter_is_refused(name, field):
    with pytest.raises(UserError, match=f"{field}=-0.1 must be at least 0"):
        OPTIMIZERS[name](**{"lr_per_256": 0.1, field: -0.1})
