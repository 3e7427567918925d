"""The slowest host: by hand, and of two real hosts of which one is slowed down."""

import numpy as np
import pod_processes
import pytest

from efficientnet_pod.pod.pace import by_host
from efficientnet_pod.train.stragglers import slowest_host

NOTHING = [0.0, 0.0]


def test_the_host_that_all_others_wait_for_is_named_with_its_share_and_reason():
    """By hand: host 2 is 0.3 s late in two steps of 2.8 s, and 0.2 s of each are input: 0.6 s of 5.6."""
    step = np.array([[0.0, 0.0], [0.0, 0.0], [0.3, 0.2]])
    slowest = slowest_host([step, step], 5.6)
    assert slowest.host == 2 and slowest.share == pytest.approx(0.6 / 5.0)
    assert slowest.input_share == pytest.approx(2 / 3) and str(slowest) == "host 2: +12 %, input"
    assert slowest.columns == {
        "slowest_host": 2,
        "slowest_host_share": slowest.share,
        "slowest_host_input": slowest.input_share,
    }


def test_what_all_hosts_wait_for_alike_makes_none_slow():
    slowest = slowest_host([np.full((4, 2), 0.5)], 1.0)
    assert slowest.share == 0 and not slowest.is_slow


def test_of_two_hosts_the_later_one_counts_by_what_it_is_later():
    """By hand: 0.4 − 0.1 = 0.3 s of 1 s; it has waited 0.05 s for input, all the rest is its own work."""
    slowest = slowest_host([np.array([[0.4, 0.05], [0.1, 0.1]])], 1.0)
    assert slowest.host == 0 and slowest.share == pytest.approx(0.3 / 0.7)
    assert slowest.input_share == pytest.approx(0.05 / 0.3) and str(slowest) == "host 0: +43 %, its own work"


def test_two_slow_hosts_of_five_do_not_hide_each_other():
    slowest = slowest_host([np.array([NOTHING, [0.2, 0.2], NOTHING, [0.25, 0.25], NOTHING])], 1.25)
    assert slowest.host == 3 and slowest.share == pytest.approx(0.25)


def test_the_columns_of_a_step_are_microseconds_by_host():
    np.testing.assert_array_equal(by_host(np.array([0, 0, 1_500_000, 250_000])), [[0, 0], [1.5, 0.25]])


@pytest.mark.parametrize(
    ("reason", "words", "replicas"),
    [pytest.param("input", "input", 0, marks=pytest.mark.long), ("step", "its own work", 4)],
)
def test_of_two_real_hosts_the_slowed_one_is_named(tmp_path, reason, words, replicas):
    """With four replicas each device computes two, one after the other."""
    slowed = {f"{reason}_seconds": 0.5, "slow_host": 1, "eval_epochs": 10.0, "log_steps": 100}
    slowed["replicas"] = replicas
    codes, printed = pod_processes.run(tmp_path / "run", steps=16, hosts=2, **slowed)
    assert codes == [0, 0], printed
    (row,) = pod_processes.rows(tmp_path / "run", "train")
    assert row["slowest_host"] == 1 and row["slowest_host_share"] > 0.2, row
    assert (row["slowest_host_input"] > 0.5) == (reason == "input"), row
    assert "slowest host 1: +" in printed and f" %, {words}" in printed
