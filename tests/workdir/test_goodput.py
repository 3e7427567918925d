"""The goodput of a run against journals computed by hand: each second counts once, over all starts."""

from datetime import UTC, datetime, timedelta

import pytest

from efficientnet_pod.workdir.goodput import PARTS, goodput_of
from efficientnet_pod.workdir.journal import Journal
from efficientnet_pod.workdir.workdir import Workdir

BEGAN = datetime(2026, 11, 1, 12, tzinfo=UTC)


def event(seconds, kind, step, spent=None, **fields):
    """Returns an event this many seconds after the beginning."""
    time = (BEGAN + timedelta(seconds=seconds)).isoformat()
    return {"time": time, "kind": kind, "step": step, "spent": spent or {}, **fields}


def seconds_of(events):
    found = goodput_of(events)
    assert set(found.seconds) == set(PARTS)
    return {name: value for name, value in found.seconds.items() if value}, found


FIRST = [
    event(0, "start", 0, startup=8.0),
    event(60, "compiled", 0, {"compiling": 58.0}),  # 2 s of something else
    event(260, "saved", 100, {"training": 180.0, "waiting_for_input": 15.0, "saving": 5.0}),
    event(310, "evaluated", 100, {"evaluating": 50.0}),
    event(360, "stopped", 125, {"training": 48.0, "saving": 2.0}),
]


def test_one_start_by_hand():
    found, goodput = seconds_of(FIRST)
    assert found == {
        "compiling": 58.0,
        "evaluating": 50.0,
        "saving": 7.0,
        "waiting_for_input": 15.0,
        "training": 228.0,
        "other": 2.0,
    }
    assert goodput.total == 360 and goodput.share == pytest.approx(228 / 360)
    assert goodput.lost_to == (
        "compiling 16.1 %, evaluating 13.9 %, waiting for input 4.2 %, saving 1.9 %, other 0.6 %"
    )


def test_a_second_start_waits_for_machines_starts_up_and_compiles_again():
    later = [
        event(460, "start", 125, startup=30.0),  # 100 s after the end: 70 s without a process
        event(470, "compiled", 125, {"compiling": 10.0}),
        event(520, "end", 150, {"training": 50.0}),
    ]
    found, goodput = seconds_of([*FIRST, *later])
    assert found["waiting_for_machines"] == 70 and found["restarting"] == 30
    assert found["compiling"] == 68 and found["training"] == 278
    assert goodput.total == 520 and goodput.share == pytest.approx(278 / 520)


def test_steps_that_are_done_again_are_lost_to_the_restart():
    """It failed at step 125 without a save: the 25 steps since step 100 took 48 s."""
    failed = [*FIRST[:4], event(360, "failed", 125, {"training": 48.0, "saving": 2.0})]
    again = [event(360, "start", 100), event(420, "end", 125, {"training": 60.0})]
    found, goodput = seconds_of([*failed, *again])
    assert found["restarting"] == 48 and found["training"] == 180 + 60
    assert goodput.total == 420
    # From step 50, in the midst of the events: half of the first 100 steps too.
    found, _ = seconds_of([*failed, event(360, "start", 50), event(420, "end", 60, {"training": 60.0})])
    assert found["restarting"] == 48 + 90 and found["training"] == 90 + 60


def test_a_rewind_loses_the_steps_back_to_its_target_once():
    events = [
        event(0, "start", 0),
        event(40, "evaluated", 40, {"training": 40.0}),
        event(60, "rewound", 60, {"training": 20.0}, to=40),
        event(61, "saved", 40, {"saving": 1.0}),
        event(81, "rewound", 60, {"training": 20.0}, to=40),
        event(111, "end", 70, {"training": 30.0}),
    ]
    found, goodput = seconds_of(events)
    assert found == {"training": 70.0, "restarting": 40.0, "saving": 1.0} and goodput.total == 111


@pytest.mark.parametrize(
    "events",
    [
        [],
        [event(0, "start", 0)],
        [{"kind": "start"}, {"kind": "end", "spent": 3, "step": -1, "time": "yesterday"}],
    ],
)
def test_a_journal_that_says_nothing_has_no_goodput(events):
    assert goodput_of(events).share is None


def test_a_clock_behind_that_of_the_machine_before_counts_nothing_twice():
    found, goodput = seconds_of([*FIRST, event(350, "start", 125, startup=5.0), event(360, "end", 125)])
    assert goodput.total == 370 and "waiting_for_machines" not in found and "restarting" not in found


def test_a_journal_knows_the_goodput_of_the_run_until_now(tmp_path):
    first = Journal(Workdir(tmp_path), warn=pytest.fail)
    first.write("start", 0)
    with first.spent.on("training"):
        pass
    journal = Journal(Workdir(tmp_path), warn=pytest.fail)
    assert journal.goodput().share in (0.0, None)
    journal.write("start", 0, startup=0.0)
    with journal.spent.on("evaluating"):
        while not journal.goodput().seconds["evaluating"] > 0.01:
            pass
    assert journal.goodput().seconds["training"] == 0
    assert journal.goodput().seconds["evaluating"] == pytest.approx(
        journal.spent.so_far()["evaluating"], abs=0.01
    )
