"""The wait for input is what the devices waited, not the host; by a clock that only the test moves."""

import time
from concurrent.futures import Future

import jax.numpy as jnp
import pytest

from efficientnet_pod.workdir.waiting import InputWait


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def taking(clock, seconds):
    def get():
        clock.now += seconds
        return 0

    return get


def step_ending_at(wait, end):
    """Puts a step on the devices that ends at that time; None: it does not end while the test looks."""
    wait._end = Future()
    if end is not None:
        wait._end.set_result(end)


@pytest.mark.parametrize(
    ("end", "waited"),
    [
        (None, 0.0),  # still running when the batch comes
        (102.0, 3.0),  # ended two seconds after the batch was asked for
        (90.0, 5.0),  # ended before: what the host did until it asked is not the input's fault
    ],
)
def test_only_the_time_without_a_step_counts(clock, end, waited):
    wait = InputWait(clock)
    step_ending_at(wait, end)
    wait.next(taking(clock, 5.0))
    assert wait.seconds == waited


def test_the_first_batch_and_the_one_after_an_evaluation_count_from_the_asking(clock):
    wait, source = InputWait(clock), taking(clock, 2.0)
    wait.next(source)
    assert wait.seconds == 2.0
    step_ending_at(wait, None)
    clock.now += 50.0  # an evaluation
    wait.restart()
    wait.next(source)
    assert wait.seconds == 4.0


def test_the_end_of_a_step_is_noted_when_its_results_are_there():
    wait = InputWait()
    began = time.monotonic()
    wait.dispatched(jnp.ones(3) + 1)
    assert began <= wait._end.result(timeout=60) <= time.monotonic()
