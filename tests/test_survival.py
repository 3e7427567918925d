"""Runs that are killed, told to stop, fed nonsense or stuck, and end as if nothing had been.

Starts cost seconds, so a run meets one fault after another; all its checkpoints are compared with those of a
run that was never interrupted, hence a difference has its fault.
"""

import signal

import pytest
from pod_processes import Training, differences, digests, rows, run, summary, take_programs

STEPS = 30  # an evaluation and a checkpoint at 6, 12, 18, 24, 30
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    codes, output = run(workdir, steps=STEPS)
    assert codes == [0], output
    assert [row["step"] for row in rows(workdir, "eval")] == sorted(digests(workdir)) == [6, 12, 18, 24, 30]
    assert sum(row["images"] for row in rows(workdir, "train")) == STEPS * 60
    assert summary(workdir)["state_digest"] == digests(workdir)[STEPS]
    assert differences(workdir, workdir) == []
    return workdir


@pytest.fixture
def workdir(tmp_path, uninterrupted):
    take_programs(uninterrupted, tmp_path / "run")
    return tmp_path / "run"


def test_killed_anywhere(workdir, uninterrupted):
    for fault in ("step:1", "step:6", "saving:12", "committed:18", "evaluating:3", f"step:{STEPS}"):
        codes, output = run(workdir, steps=STEPS, fault=f"kill@{fault}")
        assert codes == [KILLED], (fault, output)
        here, there = digests(workdir), digests(uninterrupted)
        assert all(digest == there[step] for step, digest in here.items()), fault
    assert run(workdir, steps=STEPS)[0] == [0]
    assert differences(workdir, uninterrupted) == []


def test_told_to_stop_anywhere(workdir, uninterrupted):
    codes, output = run(workdir, steps=STEPS, fault="term@compiling")
    assert codes == [42] and "nothing to save yet" in output
    saved = []
    for fault in ("step:2", "evaluating:3", "saving:12"):
        codes, output = run(workdir, steps=STEPS, fault=f"term@{fault}")
        assert codes == [42], (fault, output)
        assert "SIGTERM: stopped after step" in output, output
        saved.append(max(digests(workdir)))
    assert saved[0] in (1, 2, 3) and saved[1] == 6 and 12 <= saved[2] <= 14
    with Training(workdir, steps=STEPS, fault="hang@input:20") as stalled:
        stalled.wait_for("input 20")
        stalled.signal(signal.SIGTERM)
        assert stalled.end() == [42], stalled.output()
    assert max(digests(workdir)) in (18, 19)
    assert run(workdir, steps=STEPS)[0] == [0]
    assert differences(workdir, uninterrupted) == []


def test_a_second_signal_ends_at_once(workdir, uninterrupted):
    with Training(workdir, steps=STEPS, fault="hang@saving:6") as training:
        training.wait_for("saving 6")
        training.signal(signal.SIGTERM)
        training.wait_until(lambda: "a second one ends at once" in training.output())
        with pytest.raises(AssertionError):
            training.end(seconds=1.0)
        training.signal(signal.SIGTERM)
        assert training.end(seconds=10) == [143], training.output()
    assert run(workdir, steps=STEPS)[0] == [0]
    assert differences(workdir, uninterrupted) == []


def test_a_step_that_is_not_finite_stops_the_run_and_spoils_nothing(workdir, uninterrupted):
    codes, output = run(workdir, steps=STEPS, fault="nan@step:9")
    assert codes == [1] and "step 9 is not finite" in output, output
    assert max(digests(workdir)) == 8
    assert run(workdir, steps=STEPS)[0] == [0]
    assert differences(workdir, uninterrupted) == []


@pytest.mark.parametrize("policy", ["skip", "rewind"])
def test_a_step_that_is_not_finite_is_gone_over(tmp_path, workdir, uninterrupted, policy):
    codes, output = run(workdir, steps=STEPS, fault="nan@step:9", on_non_finite=policy)
    assert codes == [0], output
    assert summary(workdir)["state_digest"] != summary(uninterrupted)["state_digest"]
    assert digests(workdir)[6] == digests(uninterrupted)[6]
    assert [row["step"] for row in rows(workdir, "eval")] == [6, 12, 18, 24, 30]


def test_an_uncaught_exception_and_a_full_disk_end_the_run(workdir, uninterrupted):
    codes, output = run(workdir, steps=STEPS, fault="raise@step:7")
    assert codes == [1] and "fault on purpose at step" in output
    codes, output = run(workdir, steps=STEPS, fault="nospace@saving:12")
    assert codes == [1] and "could not be written" in output and " free)" in output, output
    assert run(workdir, steps=STEPS)[0] == [0]
    assert differences(workdir, uninterrupted) == []


@pytest.fixture(scope="module")
def uninterrupted_pair(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pair") / "run"
    codes, output = run(workdir, steps=STEPS, hosts=2)
    assert codes == [0, 0], output
    return workdir


@pytest.fixture
def pair(tmp_path, uninterrupted_pair):
    take_programs(uninterrupted_pair, tmp_path / "run")
    return {"workdir": tmp_path / "run", "steps": STEPS, "hosts": 2}


def test_two_hosts_stop_together_and_resume(pair, uninterrupted_pair):
    for fault in ("step:8,host=1", "evaluating:2,host=0"):
        codes, output = run(**pair, fault=f"term@{fault}")
        assert codes == [42, 42], (fault, output)
    assert run(**pair)[0] == [0, 0]
    assert differences(pair["workdir"], uninterrupted_pair) == []


@pytest.mark.parametrize(
    "fault, seconds",
    [("kill@step:8,host=1", 30), ("kill@step:8,host=0", 30), ("raise@step:8,host=1", 10)],
)
def test_no_host_outlives_another(pair, fault, seconds):
    with Training(**pair, fault=fault) as training:
        took = training.seconds_to_the_end_of_all()
        codes = training.end()
        assert all(code not in (0, 42) for code in codes), (codes, training.output())
        assert took < seconds


@pytest.mark.parametrize("fault", ["hang@step:8,host=1", "stop@step:8,host=1"])
def test_a_stuck_host_ends_the_run(pair, fault):
    with Training(**pair, fault=fault, stuck_seconds=4.0) as training:
        training.wait_for("step 8", host=1)
        training.wait_until(lambda: training.processes[0].poll() is not None, seconds=30)
        assert "stuck: training for" in training.output() + training.output(1)
        assert training.processes[0].returncode not in (0, 42)
        if fault.startswith("hang"):
            assert 0 not in training.end(seconds=10)
