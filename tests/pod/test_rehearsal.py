"""A rehearsed pod: real processes that train, print, fail and stop; none outlives it."""

import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from efficientnet_pod.cli.main import main
from efficientnet_pod.pod import rehearsal
from efficientnet_pod.pod.rehearsal import rehearse

ROOT = Path(__file__).parents[2]
POD = (
    "import signal, sys; from efficientnet_pod.pod.rehearsal import rehearse;"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL);"  # the tests may run under nohup
    "sys.exit(rehearse([sys.executable, '-u', '-c', {program!r}], processes={processes}, devices=None))"
)
# What every rank runs in these tests; its flags are the last three words.
RANK = "import os, signal, sys, time; rank = int(sys.argv[-1].partition('=')[2])\n"


def ranks(program, processes=3, **environment):
    """Returns the exit code of a pod of plain programs, in this process."""
    command = [sys.executable, "-u", "-c", RANK + program]
    return rehearse(command, processes=processes, devices=None, environment=environment)


@contextmanager
def pod(program, processes=2):
    """Yields a pod in a process of its own, for signals, and kills it in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", POD.format(program=RANK + program, processes=processes)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def pids_when_up(process, processes=2):
    """Returns the pids that the ranks print when they are up."""
    lines = [process.stdout.readline() for _ in range(processes)]
    return [int(line.split()[-1]) for line in lines]


def is_gone(pid):
    """Returns whether the process has ended, if perhaps nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_ranks_get_their_flags_and_lines_keep_whole(capfd):
    program = (
        "print(*sys.argv[1:], os.environ['FRUIT'])\n"
        "for n in range(200): sys.stdout.write('a' * 70); sys.stdout.write(f'{rank}\\n')\n"
        "print('to the other stream', file=sys.stderr); sys.stdout.write('no newline')"
    )
    assert ranks(program, FRUIT="pear") == 0
    printed = capfd.readouterr()
    lines = printed.out.splitlines()
    first = sorted(line for line in lines if "--process=" in line)
    ports = {re.search(r"--coordinator=127\.0\.0\.1:(\d+) ", line)[1] for line in first}
    assert len(ports) == 1 and 1024 < int(ports.pop()) < 65536
    assert [re.sub(r":\d+", "", line) for line in first] == [
        f"[{rank}] --coordinator=127.0.0.1 --processes=3 --process={rank} pear" for rank in range(3)
    ]
    for rank in range(3):
        assert lines.count(f"[{rank}] {'a' * 70}{rank}") == 200
        assert f"[{rank}] no newline" in lines
        assert f"[{rank}] to the other stream" in printed.err.splitlines()
    assert len(lines) == 3 * 202


@pytest.mark.parametrize(
    "codes, expected",
    [([0, 42, 42], 42), ([42, 0, 0], 42), ([0, 0, 7], 7), ([42, 3, 42], 3)],
)
def test_exit_code_is_that_of_the_failure_if_there_is_one(codes, expected):
    assert ranks(f"sys.exit({codes}[rank])") == expected


def test_one_that_is_killed_takes_all_down(capfd):
    began = time.monotonic()
    program = "time.sleep(0.3); rank == 1 and os.kill(os.getpid(), signal.SIGKILL); time.sleep(60)"
    assert ranks(program) == 128 + signal.SIGKILL
    assert time.monotonic() - began < 10
    said = capfd.readouterr().err
    assert re.search(r"rank 1 was killed by SIGKILL; all 3 were down within [56]\.\d s", said)


def test_one_that_ignores_sigterm_is_killed(capfd, monkeypatch):
    monkeypatch.setattr("efficientnet_pod.pod.rehearsal.GRACE_SECONDS", 0.5)
    monkeypatch.setattr("efficientnet_pod.pod.rehearsal.KILL_SECONDS", 0.5)
    program = (
        "signal.signal(signal.SIGTERM, lambda *_: print('told', rank)); print('up')\n"
        "rank == 2 and (time.sleep(0.3), sys.exit(5))\nwhile True: time.sleep(60)"
    )
    assert ranks(program) == 5
    assert "[0] told 0" in capfd.readouterr().out


def test_the_rank_that_failed_is_named_though_its_followers_go_first(capfd):
    program = (
        "rank or (time.sleep(0.5), sys.exit(2))\n"
        "print('efficientnet-pod: host 0 failed: no luck', file=sys.stderr); sys.exit(1)"
    )
    assert ranks(program, processes=2) == 2
    assert "rank 0 failed with exit code 2; all 2 were down within 0." in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_and_the_ranks_checkpoint(number):
    program = (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(42)); print('up', os.getpid())\n"
        "while True: time.sleep(60)"
    )
    with pod(program) as process:
        pids_when_up(process)
        process.send_signal(number)
        assert process.wait(20) == 42


def test_a_rank_learns_that_nobody_reads_the_pod(monkeypatch):
    monkeypatch.setattr(rehearsal.own_output, "is_unread", lambda: True)
    program = (
        "try:\n    while True: print('x', flush=True); time.sleep(0.01)\nexcept BrokenPipeError: os._exit(42)"
    )
    assert ranks(program, processes=1) == 42


def test_a_second_signal_kills():
    program = (
        "signal.signal(signal.SIGTERM, lambda *_: print('heard', flush=True)); print('up', os.getpid())\n"
        "while True: time.sleep(60)"
    )
    with pod(program) as process:
        pids = pids_when_up(process)
        process.terminate()
        assert "heard" in process.stdout.readline()
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGKILL
        assert all(is_gone(pid) for pid in pids)


def test_processes_that_a_rank_started_end_with_it(capfd):
    program = (
        "import subprocess; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('child', child.pid)"
    )
    began = time.monotonic()
    assert ranks(program, processes=1) == 0
    assert time.monotonic() - began < 20
    pid = int(capfd.readouterr().out.split()[-1])
    _wait_until_gone([pid])


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_no_orphan_is_left_when_the_pod_itself_is_killed():
    with pod("print('up', os.getpid()); time.sleep(60)", processes=2) as process:
        pids = pids_when_up(process)
        process.kill()
    _wait_until_gone(pids)


def _wait_until_gone(pids):
    deadline = time.monotonic() + 5
    while not all(is_gone(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert all(is_gone(pid) for pid in pids)


def test_train_gets_cpu_devices_unless_its_flags_say_so(capfd):
    script = "import sys; print(*(word for word in sys.argv if word.startswith('--config')))"
    command = [sys.executable, "-c", script, "train"]
    assert rehearse(command, processes=1, devices=2) == 0
    assert rehearse([*command, "--config.cpu_replicas=4"], processes=1, devices=2) == 0
    assert rehearse([*command[:-1], "evaluate"], processes=1, devices=2) == 0
    assert capfd.readouterr().out.splitlines() == [
        "[0] --config.platform=cpu --config.cpu_replicas=2",
        "[0] --config.cpu_replicas=4 --config.platform=cpu",
        "[0] ",
    ]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "pod needs --processes, e.g. efficientnet-pod pod --processes=4"),
        (["--processes=2"], "pod rehearses what follows --: train or evaluate, nothing is there; e.g. "),
        (["--processes=0", "--", "train"], "--processes=0"),
        (["--processes=2", "--", "plan"], "train or evaluate, not 'plan'"),
        (["--processes=2", "train"], "'train' is not a flag"),
        (["--processes=2", "--devices-per-process=none", "--", "train"], "devices_per_process"),
        (["--processes=2", "--devices-per-process=2", "--", "evaluate"], "leave out --devices-per-process"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, words):
    assert main(["pod", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize("failing", [0, 1])
def test_hosts_that_train_fail_together(capfd, monkeypatch, failing):
    act = f"""
hosts.agree('replicas', {{'devices': config['cpu_replicas'], 'platform': config['platform']}})
print(config['cpu_replicas'], config['platform'])
if hosts.index() == {failing}: raise UserError('the image is bad')
time.sleep(60)"""
    train = ["train", "--config=configs/digits.py", "--workdir=unused"]
    monkeypatch.chdir(ROOT)
    command = [sys.executable, str(ROOT / "tests" / "support" / "acting_host.py"), *train]
    began = time.monotonic()
    code = rehearse(command, processes=2, devices=3, environment={"ACT": act, "PYTHONPATH": str(ROOT)})
    printed = capfd.readouterr()
    assert code == 2 and time.monotonic() - began < 20
    for rank in range(2):
        assert f"[{rank}] 3 cpu\n" in printed.out
    assert f"[{failing}] efficientnet-pod: the image is bad\n" in printed.err
    assert f"[{1 - failing}] efficientnet-pod: host {failing} failed: the image is bad\n" in printed.err
    assert f"\nefficientnet-pod: rank {failing} failed with exit code 2; all 2 were down" in printed.err
