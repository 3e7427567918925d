"""The averaged weights against TensorFlow's moving average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tensorflow as tf
from tiny import SIZE, tiny_model

from efficientnet_pod.models.initial import initial_variables
from efficientnet_pod.run.state import ema_decay, init_state, update_ema


def test_ema_follows_tensorflow():
    values = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    ours = {"w": jnp.asarray(values[0])}
    variable = tf.Variable(values[0])
    twin = tf.train.ExponentialMovingAverage(0.9, num_updates=tf.Variable(0))
    twin.apply([variable])
    for step, value in enumerate(values):
        ours = update_ema(ours, {"w": jnp.asarray(value)}, step=jnp.asarray(step), decay=0.9)
        variable.assign(value)
        twin._num_updates = step  # the number of updates, counted from 0
        twin.apply([variable])
    np.testing.assert_allclose(ours["w"], twin.average(variable), rtol=1e-5)


def test_ema_decay_warms_up_to_its_limit():
    decays = [float(ema_decay(jnp.asarray(step), 0.9999)) for step in (0, 90, 6842, 89_991, 10**6)]
    np.testing.assert_allclose(decays, [0.1, 0.91, 6843 / 6852, 0.9999, 0.9999], rtol=1e-6)


def test_ema_starts_at_the_initial_weights_in_its_own_buffers():
    variables = initial_variables(tiny_model(), SIZE, seed=0)
    state = jax.jit(lambda v: init_state(v, optax.sgd(0.1), ema=True))(variables)
    assert state.eval_variables is state.ema
    pairs = zip(jax.tree.leaves(state.ema), jax.tree.leaves(state.variables), strict=True)
    for average, weight in pairs:
        np.testing.assert_array_equal(average, weight)
        assert average.unsafe_buffer_pointer() != weight.unsafe_buffer_pointer()  # donation needs it
