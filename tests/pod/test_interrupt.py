"""Signals to real processes: in Python, in native code, twice, and where there is nothing to lose."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from efficientnet_pod.pod.interrupt import Interrupt, NotebookInterrupt

# Native code that no signal interrupts: a thread that waits for a lock which it holds itself.
STUCK = """
import ctypes
def stuck_in_native_code():
    libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(lock)
    libc.pthread_mutex_lock(lock)
"""


class Process:
    """A Python process that prints ``ready`` and can be signalled after that."""

    def __init__(self, body: str):
        program = (
            "import os, signal, time, threading\nfrom efficientnet_pod.pod.interrupt import Interrupt\n"
            "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # the tests may run under nohup
            "def say(*words): os.write(1, (' '.join(words) + '\\n').encode())\n" + STUCK + body
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        # By the byte: what a buffer has read beyond the line is lost to `communicate`.
        assert b"".join(os.read(self.process.stdout.fileno(), 1) for _ in "ready\n") == b"ready\n"

    def signal(self, *numbers: signal.Signals, apart: float = 0.6) -> None:
        time.sleep(0.2)
        for index, number in enumerate(numbers):
            time.sleep(apart if index else 0)
            self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        try:
            out, error = self.process.communicate(timeout=20)
        finally:
            self.process.kill()
        return self.process.returncode, out, error


NOTED = "note = lambda reason: say('told', reason)\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "where", ["time.sleep(30)", "stuck_in_native_code()", "while True: pass", "run.wait(30)"]
)
def test_is_noticed_while_the_main_thread_is_busy(where, number):
    body = NOTED + (
        "def watch(run):\n"
        "    assert run.wait(10) and run.requested\n"
        "    say('noticed', run.reason)\n"
        "    time.sleep(0.2)\n"
        "    os._exit(7)\n"
        "with Interrupt() as run:\n"
        "    run.among(notify=note, linger=lambda: None)\n"
        "    threading.Thread(target=watch, args=(run,)).start()\n"
        f"    say('ready')\n    {where}\n    time.sleep(30)"
    )
    process = Process(body)
    process.signal(number)
    code, out, error = process.end()
    assert code == 7
    assert sorted(out.splitlines()) == [f"noticed {number.name}", f"told {number.name}"]
    assert error == f"{number.name}: saving a checkpoint after this step; a second one ends at once\n"


@pytest.mark.parametrize("where", ["time.sleep(30)", "stuck_in_native_code()"])
@pytest.mark.parametrize("second, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_one_ends_at_once(where, second, code):
    body = (
        "with Interrupt() as run:\n"
        "    run.among(notify=lambda reason: time.sleep(30), linger=lambda: None)\n"
        "    run.before_exit += [lambda: 1 / 0, lambda: say('released'), lambda: time.sleep(0)]\n"
        f"    say('ready')\n    {where}"
    )
    process = Process(body)
    process.signal(signal.SIGTERM, second)
    began = time.monotonic()
    assert process.end()[:2] == (code, "released\n")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_lost_terminal_asks_and_hurries_nobody(is_ignored):
    before = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" if is_ignored else ""
    body = (
        before
        + NOTED
        + (
            "with Interrupt() as run:\n"
            "    run.among(notify=note, linger=lambda: None)\n"
            "    say('ready')\n    run.wait(1.5)\n    time.sleep(2.2)\n    say(str(run.reason))"
        )
    )
    process = Process(body)
    # A shell passes it on, the kernel sends another one, and the end of the session SIGTERM.
    process.signal(signal.SIGHUP, signal.SIGHUP, *[] if is_ignored else [signal.SIGTERM])
    code, out, error = process.end()
    assert (code, out) == ((0, "None\n") if is_ignored else (0, "told SIGHUP\ntold SIGTERM\nSIGHUP\n"))
    assert error == ("" if is_ignored else "SIGHUP: saving a checkpoint after this step\n")


def test_two_in_one_moment_are_one():
    body = "with Interrupt() as run:\n    say('ready')\n    time.sleep(1.5)\nsay('went on')"
    process = Process(body)
    process.signal(signal.SIGTERM, signal.SIGTERM, apart=0.05)
    assert process.end()[:2] == (0, "went on\n")


def test_a_request_of_another_host_is_no_first_signal():
    body = (
        "with Interrupt() as run:\n"
        "    run.among(notify=lambda reason: say('told'), linger=lambda: None)\n"
        "    run.request('host 1 was told to stop')\n    say('ready')\n    time.sleep(1.5)\nsay(run.reason)"
    )
    process = Process(body)
    process.signal(signal.SIGTERM)
    code, out, error = process.end()
    assert (code, out) == (0, "told\nhost 1 was told to stop\n")
    assert error == "host 1 was told to stop: saving a checkpoint after this step\n"


@pytest.mark.parametrize(
    "number, lone, code",
    [
        (signal.SIGTERM, True, 42),
        (signal.SIGHUP, True, 42),
        (signal.SIGINT, True, 130),
        (signal.SIGINT, False, 42),
    ],
)
def test_ends_at_once_with_nothing_to_lose(number, lone, code):
    body = NOTED + (
        "linger = lambda: (say('lingers'), time.sleep(2), 1 / 0)\n"
        f"if {lone}: linger = lambda: None\n"
        "with Interrupt() as run, run.nothing_to_lose():\n"
        f"    run.among(notify=note, linger=linger, is_alone=lambda: {lone})\n"
        "    run.before_exit.append(lambda: say('released'))\n"
        "    say('ready')\n    stuck_in_native_code()"
    )
    process = Process(body)
    process.signal(number)
    began = time.monotonic()
    ended, out, error = process.end()
    assert lone == (time.monotonic() - began < 1.5)  # the other hosts have time to hear of it
    assert (ended, out) == (code, f"told {number.name}\n" + "lingers\n" * (not lone) + "released\n")
    assert error == f"{number.name}: nothing to save yet; the same command goes on\n"


@pytest.mark.parametrize("asked", ["run.request('host 1')", "os.kill(os.getpid(), 15); run.wait(5)"])
def test_has_nothing_to_lose_after_it_was_asked(asked):
    process = Process(
        "say('ready')\nwith Interrupt() as run:\n"
        "    with run.nothing_to_lose(): pass\n"
        f"    {asked}; say('asked')\n    with run.nothing_to_lose(): say('still here')"
    )
    assert process.end()[:2] == (42, "asked\n")


@pytest.mark.parametrize("after", ["pass", "1 / 0"])
def test_who_leaves_with_nothing_to_lose_after_it_was_asked_does_nothing_more(after):
    process = Process(
        "with Interrupt() as run:\n"
        "    run.among(notify=lambda reason: None, linger=lambda: time.sleep(1))\n"
        "    try:\n        with run.nothing_to_lose():\n            say('ready'); run.wait(10)\n"
        f"            {after}\n    except ZeroDivisionError: pass\n    say('went on')"
    )
    process.signal(signal.SIGTERM)
    assert process.end()[:2] == (42, "")


def test_signals_are_ignored_when_all_is_saved():
    process = Process(
        "with Interrupt() as run:\n    say('ready')\n    run.wait(10)\n    run.all_is_saved()\n"
        "    say('saved')\n    time.sleep(2.5)\n    os._exit(42)"
    )
    process.signal(signal.SIGTERM)
    assert process.process.stdout.readline() == "saved\n"
    process.signal(signal.SIGTERM, signal.SIGINT)
    code, out, error = process.end()
    assert (code, out, error.count("\n")) == (42, "", 1)


def test_after_an_error_the_handlers_are_those_of_before():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(KeyboardInterrupt), Interrupt(tell_user=lambda line: None) as run:
        os.kill(os.getpid(), signal.SIGINT)
        assert run.wait(5)
        raise KeyboardInterrupt
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_noticed_while_jax_compiles():
    body = (
        "import jax, jax.numpy as jnp\n"
        "def many(x):\n    for i in range(600): x = jnp.sin(x) @ jnp.cos(x + i)\n    return x\n"
        "lowered = jax.jit(many).lower(jnp.ones((64, 64)))\n"
        "with Interrupt() as run, run.nothing_to_lose():\n    say('ready')\n    lowered.compile()\n"
        "    say('compiled')\n    time.sleep(30)"
    )
    process = Process(body)
    process.signal(signal.SIGTERM)
    assert process.end()[:2] == (42, "")


def test_what_was_there_is_restored_and_other_threads_install_nothing():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    threads = threading.active_count()
    with Interrupt(tell_user=lambda line: None) as run:
        assert signal.getsignal(signal.SIGTERM) not in before
        os.kill(os.getpid(), signal.SIGTERM)
        assert run.wait(5) and run.reason == "SIGTERM"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads

    def elsewhere():
        with Interrupt(tell_user=lambda line: None) as run:
            found.append(signal.getsignal(signal.SIGTERM))
            run.request("another host")
            found.append(run.requested)

    found: list = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [before[0], True]


def test_in_a_notebook_the_first_one_asks_and_the_second_one_interrupts():
    before, lines = signal.getsignal(signal.SIGINT), []
    with NotebookInterrupt(tell_user=lines.append) as run:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the same
        assert run.reason == "SIGINT" and len(lines) == 1
        time.sleep(0.4)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), run.nothing_to_lose():
            pass
        run.all_is_saved()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_in_a_notebook_nothing_to_lose_is_interrupted_at_once():
    with NotebookInterrupt(tell_user=lambda line: None) as run:
        with pytest.raises(KeyboardInterrupt), run.nothing_to_lose():
            signal.raise_signal(signal.SIGINT)
        assert not run.requested
        with run.nothing_to_lose():
            pass


def test_in_a_notebooks_thread_nothing_is_heard_and_a_line_says_so():
    before, lines = signal.getsignal(signal.SIGINT), []

    def elsewhere():
        with NotebookInterrupt(tell_user=lines.append):
            lines.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert lines == ["Ctrl-C is not heard outside of the main thread: this run goes on to its end", before]
