"""The averaged weights of a whole training program against those of TensorFlow's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tensorflow as tf
from tiny import SIZE, tiny_model

from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.pod.agreement import GO, host_signals, not_halted
from efficientnet_pod.pod.mesh import create_mesh, to_global
from efficientnet_pod.run.state import ema_decay, init_state
from efficientnet_pod.run.train_step import TrainStep, compile_train_step

DECAY = 0.6  # is reached at the twelfth step
WEIGHTS = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def rate(step):
    """A learning rate of which each step has its own."""
    return 0.5 / (1 + step)


class Linear:
    """A network without batch norm: the logits are the image's mean colour times a matrix."""

    def apply(self, variables, images, **_):
        means = jnp.mean(images, (1, 2))
        return means @ variables["params"]["classifier"]["kernel"], {"batch_stats": {}}


@dataclasses.dataclass
class Ours:
    """Our train step on one device; keeps one state to go back to, as a rewind does."""

    state = kept = None

    def __post_init__(self):
        self.mesh = create_mesh(jax.devices()[:1], 1)
        optimizer = optax.sgd(lambda count: rate(count.astype(jnp.float32)))
        same = lambda images: images  # noqa: E731
        step = TrainStep(
            Linear(), optimizer, 0.0, DECAY, jax.random.key(0), skip_non_finite=True, normalise=same
        )
        self.step = compile_train_step(step, self.mesh)
        variables = {"params": {"classifier": {"kernel": jnp.asarray(WEIGHTS)}}, "batch_stats": {}}
        self.state = init_state(variables, optimizer, ema=True)

    def train(self, images, label):
        batch = to_global({"image": images, "label": label}, self.mesh)
        batch["command"] = host_signals(self.mesh)[GO]
        self.state, _ = self.step(self.state, batch, not_halted(self.mesh))

    def skip(self, images, label):
        self.train(np.full_like(images, np.nan), label)

    def keep(self, *_):
        self.kept = jax.device_get(self.state)

    def go_back(self, *_):
        self.state = jax.tree.map(jnp.array, self.kept)

    def weights(self):
        params = self.state.params, self.state.ema["params"]
        return [np.asarray(tree["classifier"]["kernel"]) for tree in params]


class TensorFlows:
    """TensorFlow 1's program: its own optimizer, global step, average and checkpoint; nothing here counts."""

    def __init__(self):
        self.graph, v1 = tf.Graph(), tf.compat.v1
        with self.graph.as_default():
            step, kernel = (
                v1.get_variable(name, initializer=value, use_resource=True, trainable=name == "kernel")
                for name, value in {"step": np.int64(0), "kernel": WEIGHTS}.items()
            )
            self.images = v1.placeholder(tf.float32, [None, None, None, 3])
            self.label = v1.placeholder(tf.int32, [None])
            logits = tf.reduce_mean(self.images, [1, 2]) @ kernel
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(self.label, logits)
            optimizer = v1.train.GradientDescentOptimizer(rate(tf.cast(step, tf.float32)))
            update = optimizer.minimize(tf.reduce_mean(losses), global_step=step)
            average = tf.train.ExponentialMovingAverage(DECAY, num_updates=step)
            with tf.control_dependencies([update]):
                self.update = average.apply([kernel])
            self.pair = kernel, average.average(kernel)
            self.skipped = v1.assign_add(step, 1)  # a step of the run without an update
            self.variables = v1.global_variables()
            self.saved = [v1.placeholder(variable.dtype) for variable in self.variables]
            self.restored = list(map(v1.assign, self.variables, self.saved))
            self.session = v1.Session()
            self.session.run(v1.global_variables_initializer())

    def train(self, images, label):
        self.session.run(self.update, {self.images: images, self.label: label})

    def skip(self, *_):
        self.session.run(self.skipped)

    def keep(self, *_):
        self.kept = self.session.run(self.variables)

    def go_back(self, *_):
        self.session.run(self.restored, dict(zip(self.saved, self.kept, strict=True)))

    def weights(self):
        return self.session.run(self.pair)


def test_averages_and_rates_follow_tensorflow_through_skips_and_rewinds():
    ours, theirs, rng = Ours(), TensorFlows(), np.random.default_rng(1)
    events = ["train", "train", "skip", "train", "keep", "train", "skip", "skip", "train", "go_back"]
    for number, event in enumerate(events + 9 * ["train"]):
        batch = rng.normal(size=(8, 2, 2, 3)).astype(np.float32), rng.integers(0, 5, 8).astype(np.int32)
        for side in (ours, theirs):
            getattr(side, event)(*batch)
        for name, mine, other in zip(("weights", "average"), ours.weights(), theirs.weights(), strict=True):
            message = f"{name} after event {number}, {event}"
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6, err_msg=message)


def test_ema_decay_warms_up_to_its_limit():
    decays = [float(ema_decay(jnp.asarray(count), 0.9999)) for count in (1, 2, 90, 6842, 89_991, 10**6)]
    np.testing.assert_allclose(decays, [2 / 11, 3 / 12, 0.91, 6843 / 6852, 0.9999, 0.9999], rtol=1e-6)


def test_ema_starts_at_the_initial_weights_in_its_own_buffers():
    variables = initial_variables(tiny_model(), SIZE, seed=0)
    state = jax.jit(lambda v: init_state(v, optax.sgd(0.1), ema=True))(variables)
    assert state.eval_variables is state.ema
    pairs = zip(jax.tree.leaves(state.ema), jax.tree.leaves(state.variables), strict=True)
    for average, weight in pairs:
        np.testing.assert_array_equal(average, weight)
        assert average.unsafe_buffer_pointer() != weight.unsafe_buffer_pointer()  # donation needs it


def test_a_notebook_is_shown_a_line_and_not_every_weight():
    model = tiny_model()
    variables = initial_variables(model, SIZE, seed=0)
    number = sum(array.size for array in jax.tree.leaves(variables["params"]))
    state = init_state(variables, optax.sgd(0.1), ema=True)
    assert repr(state) == f"TrainState(step 0: {number:,} parameters, averaged too)"
    assert f"{number:,} parameters" in repr(jax.eval_shape(lambda: state))
    assert "0 parameters" in repr(jax.tree.map(lambda leaf: "sharding", state))
