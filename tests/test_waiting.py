"""The wait for input is what the devices waited, not what the host did."""

import time

import jax
import pytest

from efficientnet_pod.waiting import InputWait


@pytest.fixture(autouse=True)
def deadlines(monkeypatch):
    """Results of a step are the time it ends at: a step that runs while the host does something else."""
    monkeypatch.setattr(jax, "block_until_ready", lambda end: time.sleep(max(0.0, end - time.monotonic())))


def batches(seconds):
    while True:
        time.sleep(seconds)
        yield 0


# Three batches of so many seconds each, while the step before takes 0.2 s.
@pytest.mark.parametrize(("seconds", "waited"), [(0.05, 0.0), (0.4, 3 * 0.2)])
def test_only_the_time_after_the_end_of_a_step_counts(seconds, waited):
    wait, source = InputWait(), batches(seconds)
    for _ in range(3):
        wait.dispatched(time.monotonic() + 0.2)
        wait.next(source)
    assert wait.seconds == pytest.approx(waited, abs=0.09)


def test_a_step_that_ended_before_the_host_asked_counts_from_the_asking():
    wait, source = InputWait(), batches(0.1)
    wait.dispatched(time.monotonic())
    time.sleep(0.3)  # the host was busy: not the input's fault
    wait.next(source)
    assert wait.seconds == pytest.approx(0.1, abs=0.05)


def test_what_lies_before_the_first_step_or_after_an_evaluation_does_not_count():
    wait, source = InputWait(), batches(0.1)
    wait.next(source)
    wait.dispatched(time.monotonic())
    wait.forget()
    wait.next(source)
    assert wait.seconds == 0
