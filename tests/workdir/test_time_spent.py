"""The time of a start by what it was spent on; the wait for input is that of the devices, not of the host."""

import json
import time
from concurrent.futures import Future

import jax.numpy as jnp
import pytest

from efficientnet_pod.errors import RunError
from efficientnet_pod.workdir.journal import Journal
from efficientnet_pod.workdir.time_spent import KINDS, InputWait, TimeSpent
from efficientnet_pod.workdir.workdir import Workdir


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


def work(spent, clock):
    """Spends 31 seconds, one of them on nothing that counts."""
    clock.spend(1)
    with spent.on("compiling"):
        clock.spend(2)
    with spent.on("training"):
        clock.spend(4)
        spent.input_wait.next(lambda: clock.spend(3))
        with spent.on("evaluating"):
            clock.spend(5)
            with spent.on("saving"):
                clock.spend(6)
        clock.spend(10)


def test_every_moment_counts_once():
    clock = Clock()
    spent = TimeSpent(clock)
    work(spent, clock)
    expected = {"compiling": 2, "evaluating": 5, "saving": 6, "waiting_for_input": 3, "training": 14}
    assert spent.so_far() == expected and tuple(expected) == KINDS
    clock.spend(50)
    with pytest.raises(RunError), spent.on("saving"):
        clock.spend(1)
        raise RunError("a full disk")
    clock.spend(50)
    assert spent.so_far() == expected | {"saving": 7}


def test_the_seconds_of_a_run_are_those_of_all_its_starts_but_what_a_kill_took(tmp_path):
    clock = Clock()
    for _ in range(2):
        journal = Journal(Workdir(tmp_path), warn=pytest.fail)
        journal.spent = TimeSpent(clock)
        work(journal.spent, clock)
        journal.write("saved", 4)
        with journal.spent.on("training"):
            clock.spend(2.0004)
        journal.write("evaluated", 8)
        with journal.spent.on("training"):
            clock.spend(7)  # and then it is killed, with no line since
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [row["spent"] for row in lines][1] == {"training": 2.0}
    with (tmp_path / "journal.jsonl").open("a") as opened:
        opened.write('{"kind": "saved", "step": 9, "spent": {"saving": 1')
    again = Journal(Workdir(tmp_path), warn=pytest.fail)
    expected = {"compiling": 4, "evaluating": 10, "saving": 12, "waiting_for_input": 6, "training": 32}
    assert again.seconds_of() == pytest.approx(expected, abs=0.01)


# The wait for input


@pytest.fixture
def clock():
    return Clock()


def taking(clock, seconds):
    def get():
        clock.spend(seconds)
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
    clock.spend(50.0)  # an evaluation
    wait.restart()
    wait.next(source)
    assert wait.seconds == 4.0


def test_the_end_of_a_step_is_noted_when_its_results_are_there():
    wait = InputWait()
    began = time.monotonic()
    wait.dispatched(jnp.ones(3) + 1)
    assert began <= wait._end.result(timeout=60) <= time.monotonic()
