"""Faults on purpose happen where and when they are with_fault for, once, and never unasked."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod import hosts, inject


def reach_every_point():
    for step in range(3):
        for point in inject.POINTS:
            inject.at(point, step)


def test_inert_unless_asked(monkeypatch):
    monkeypatch.delenv(inject.VARIABLE, raising=False)
    reach_every_point()
    assert not inject.poisons(1)


def test_happens_once_at_its_step_on_its_host(with_fault, monkeypatch):
    with_fault("raise@step:13,host=1;kill@step:99")
    inject.at("step", 13)  # on host 0
    monkeypatch.setattr(hosts, "index", lambda: 1)
    inject.at("step", 12)
    inject.at("evaluating", 13)
    with pytest.raises(RuntimeError, match="on purpose"):
        inject.at("step", 13)
    inject.at("step", 13)
    assert os.environ[inject.VARIABLE] == "kill@step:99"


def test_without_a_step_the_first_time(with_fault):
    with_fault("nospace@saving,host=0; raise@committed")
    with pytest.raises(OSError) as error:
        inject.at("saving", 7)
    assert error.value.errno == errno.ENOSPC
    inject.at("saving", 8)
    with pytest.raises(RuntimeError):
        inject.at("committed")


def test_step_0_is_a_step(with_fault):
    with_fault("raise@step:0")
    inject.at("step", 1)
    with pytest.raises(RuntimeError):
        inject.at("step", 0)


def test_poison_is_data_and_not_flow(with_fault):
    with_fault("nan@step:5")
    inject.at("step", 5)
    assert [inject.poisons(step) for step in (4, 5, 5)] == [False, True, False]


@pytest.mark.parametrize(
    "value, words",
    [
        ("kill", "'kill', which is no fault"),
        ("kill@step:x", "which is no fault"),
        ("kill@step:3;", "has '', which is no fault"),
        ("kil@step:3", "did you mean 'kill'"),
        ("kill@savin", "did you mean 'saving'"),
        ("nan@saving:3", "nan needs a step"),
        ("nan@step", "nan needs a step"),
    ],
)
def test_what_cannot_be_read_is_refused(with_fault, value, words):
    with_fault(value)
    with pytest.raises(UserError, match=words):
        inject.at("starting")


@pytest.mark.parametrize("kind, end", [("kill", -signal.SIGKILL), ("term", -signal.SIGTERM)])
def test_signals_are_real(kind, end):
    program = "from efficientnet_pod.pod import inject; inject.at('step', 2); print('after', flush=True)"
    environment = os.environ | {inject.VARIABLE: f"{kind}@step:2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == end and "after" not in done.stdout


def test_stops_itself_and_hangs():
    program = (
        "from efficientnet_pod.pod import inject; inject.at('step', 1); inject.at('step', 2); print('after')"
    )
    environment = os.environ | {inject.VARIABLE: "stop@step:1;hang@step:2"}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE
    ) as process:
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            process.send_signal(signal.SIGCONT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
        finally:
            process.kill()
