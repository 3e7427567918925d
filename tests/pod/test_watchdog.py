"""The watchdog in real processes: what is stuck ends with its stack, what is slow or suspended does not."""

import re
import signal
import subprocess
import sys
import time

import pytest

from efficientnet_pod.pod.watchdog import Watchdog


def start(body: str) -> subprocess.Popen[str]:
    program = (
        "import ctypes, os, time\nfrom pathlib import Path\n"
        "from efficientnet_pod.pod.watchdog import Watchdog\n"
        "def say(word): os.write(1, word.encode() + b'\\n')\n" + body
    )
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str, str, float]:
    began = time.monotonic()
    try:
        out, error = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, out, error, time.monotonic() - began


def test_stuck_in_python_ends_with_the_stacks_and_tells(tmp_path):
    body = (
        "def read_for_ever(): time.sleep(60)\n"
        f"with Watchdog(1.0, report_folder=Path({str(tmp_path)!r}), on_stuck=say) as dog:\n"
        "    time.sleep(0.05); dog.step_ended()\n"
        "    with dog.doing('evaluating'): read_for_ever()"
    )
    code, out, error, seconds = end(start(body))
    assert code == 1 and 1.0 < seconds < 4
    line = "stuck: evaluating for 1 s without progress, a step usually takes 0."
    assert out.startswith(line) and error.startswith(f"efficientnet-pod: {line}")
    assert "(config.stuck_seconds=1)" in out
    assert "in read_for_ever" in error
    (report,) = tmp_path.iterdir()
    assert "in read_for_ever" in report.read_text() and line in report.read_text()


@pytest.mark.parametrize(
    "last_words",
    ["on_stuck=lambda line: time.sleep(60)", "on_stuck=lambda line: 1 / 0", "report_folder=Path('/none')"],
)
def test_what_cannot_be_told_keeps_nobody(last_words):
    code, _, error, seconds = end(start(f"with Watchdog(1.0, {last_words}) as dog: time.sleep(60)"))
    assert code == 1 and "stuck: training for 1 s" in error and seconds < 8


def test_stuck_in_native_code_that_lets_python_run():
    body = (
        "libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)\n"
        "with Watchdog(1.0) as dog:\n    libc.pthread_mutex_lock(lock); libc.pthread_mutex_lock(lock)"
    )
    code, _, error, seconds = end(start(body))
    assert code == 1 and seconds < 4 and "in <module>" in error


def test_stuck_in_native_code_that_holds_the_interpreter():
    body = (
        "libc, lock = ctypes.PyDLL(None), ctypes.create_string_buffer(64)\n"
        "def deadlock(): libc.pthread_mutex_lock(lock); libc.pthread_mutex_lock(lock)\n"
        "with Watchdog(1.0) as dog:\n    time.sleep(0.6); deadlock()"
    )
    code, _, error, seconds = end(start(body))
    assert code == -signal.SIGABRT and seconds < 15
    assert "no Python has run for 7 s" in error and "in deadlock" in error


def test_slower_than_usual_is_not_stuck_below_ten_times():
    body = (
        "with Watchdog(1.0) as dog:\n"
        "    for _ in range(3): time.sleep(0.3); dog.step_ended()\n"
        "    say('slow'); time.sleep(2.2); dog.step_ended(); say('done')\n"
        "    time.sleep(60)"
    )
    code, out, error, seconds = end(start(body))
    assert (code, out) == (1, "slow\ndone\n")
    allowed = re.search(r"allowed are (\d+) s", error)  # 10 · 0.3 s; more where the machine was busy
    assert 6 < seconds and allowed and 3 <= int(allowed[1]) <= 10


def test_what_is_alive_is_not_stuck():
    body = (
        "with Watchdog(1.0) as dog:\n"
        "    for _ in range(4): time.sleep(0.6); dog.alive()\n"
        "    with dog.doing('compiling'): time.sleep(0.6)\n"
        "    time.sleep(0.6)\nsay('done'); time.sleep(1.5)"
    )
    assert end(start(body))[:3] == (0, "done\n", "")


def test_0_is_no_watchdog():
    with Watchdog(0) as dog, dog.doing("nothing"):
        time.sleep(0.1)
        dog.step_ended()
    assert not dog._restore._exit_callbacks  # type: ignore[attr-defined]


def test_the_time_suspended_does_not_count():
    process = start("with Watchdog(1.0): time.sleep(0.4); say('ready'); time.sleep(0.4)\nsay('done')")
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(7.5)  # beyond what the guard allows as well
    process.send_signal(signal.SIGCONT)
    assert end(process)[:3] == (0, "done\n", "")


def test_the_guard_ends_with_the_process_it_guards():
    process = start("with Watchdog(1.0): say('ready'); time.sleep(60)")
    assert process.stdout and process.stdout.readline() == "ready\n"
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    (guard,) = children.stdout.split()
    process.kill()
    process.communicate()
    for _ in range(30):
        if subprocess.run(["ps", "-p", guard], capture_output=True).returncode:
            return
        time.sleep(0.1)
    pytest.fail("it still runs")
