"""The network's variables of a checkpoint, read without the rest of the state."""

import dataclasses

import jax
import numpy as np
import pytest
from states import make_state

from efficientnet_pod.errors import UserError
from efficientnet_pod.workdir.checkpoints.checkpoints import Checkpoints


@pytest.fixture
def states(tmp_path):
    """Returns checkpoints of step 1, without averages, and of step 2, whose averages are the weights of 3."""
    plain, averaged = make_state(1), make_state(2, ema=True)
    averaged = dataclasses.replace(averaged, ema=make_state(3, ema=True).ema)
    with Checkpoints(tmp_path) as checkpoints:
        for step, state in ((1, plain), (2, averaged)):
            checkpoints.save(step, state, metrics={})
    return Checkpoints(tmp_path), plain, averaged


def abstract(variables):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)


def same_bits(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        isinstance(x, np.ndarray) and x.tobytes() == y.tobytes() and x.dtype == y.dtype for x, y in pairs
    )


def test_variables_are_averaged_if_there_are_averages_and_raw_if_asked_for(states):
    checkpoints, plain, averaged = states
    shapes = abstract(plain.variables)
    for step, wants_averages, expected in (
        (1, True, plain.variables),
        (1, False, plain.variables),
        (2, True, averaged.ema),
        (2, False, averaged.variables),
    ):
        assert same_bits(checkpoints.variables(step, shapes, averaged=wants_averages), expected)
    assert [checkpoints.has_averages(step) for step in (1, 2)] == [False, True]


def test_other_networks_and_steps_are_refused(states):
    checkpoints, plain, _ = states
    wider = abstract(make_state(1, width=48).variables)
    with pytest.raises(UserError, match="1 tensors differ, first params/stem/kernel: saved float32"):
        checkpoints.variables(1, wider, averaged=False)
    with pytest.raises(UserError, match="first ema/params/stem/kernel"):
        checkpoints.variables(2, wider, averaged=True)
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        checkpoints.variables(7, abstract(plain.variables), averaged=True)


def test_a_second_classifier_is_left_out_or_read_as_asked_for(tmp_path):
    state = make_state(1)
    params = state.params | {"auxiliary": {"kernel": np.ones(3, np.float32)}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, dataclasses.replace(state, params=params), metrics={})
    whole = state.variables | {"params": params}
    for variables in (state.variables, whole):
        found = Checkpoints(tmp_path).variables(1, abstract(variables), averaged=False, optional="auxiliary")
        assert same_bits(found, jax.tree.map(np.asarray, variables))
    lacking = abstract({**whole, "params": {"auxiliary": params["auxiliary"]}})
    with pytest.raises(UserError, match="tensors differ"):
        Checkpoints(tmp_path).variables(1, lacking, averaged=False, optional="auxiliary")
