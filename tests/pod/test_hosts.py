"""Hosts that find each other, agree, wait, stop and fail together: real processes, real signals."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest
from recipes import load

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod import connection, hosts, peers
from efficientnet_pod.pod.peers import MOST_MISSES, Peers

ROOT = Path(__file__).parents[2]
TRAIN = ["train", "--config=configs/digits.py", "--workdir=unused"]


@dataclass
class Host:
    """What became of one."""

    code: int
    out: str
    err: str
    ended: float


def by_flags(port, processes, process):
    return [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}", f"--process={process}"], {}


def by_slurm(port, processes, process):
    return [], {
        "JAX_COORDINATOR_PORT": str(port),
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(processes),
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
    }


def by_open_mpi(port, processes, process):
    return [], {
        "JAX_COORDINATOR_PORT": str(port),
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1,10.96.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": str(processes),
        "OMPI_COMM_WORLD_RANK": str(process),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(process),
    }


def run(act, *, processes=2, before="", find=by_flags, only=None, command=TRAIN):
    """Returns what became of hosts that do `act` in place of training."""
    port = free_port()
    began, started = time.time(), []
    for process in range(processes) if only is None else only:
        flags, variables = find(port, processes, process)
        program = [sys.executable, "tests/support/acting_host.py", *command, *flags]
        variables = {**os.environ, **variables, "ACT": act, "BEFORE": before, "PYTHONPATH": "."}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(program, cwd=ROOT, env=variables, **pipes))
    ends = {}
    try:
        while len(ends) < len(started):
            assert time.time() - began < 60, [process.returncode for process in started]
            now = {process.pid: time.time() for process in started if process.poll() is not None}
            ends = now | ends
            time.sleep(0.02)
    finally:
        for process in started:
            process.kill()
        said = [process.communicate() for process in started]
    return [Host(p.returncode, *texts, ends[p.pid]) for p, texts in zip(started, said, strict=True)]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def seconds_down(ended, hosts_of_run):
    """Returns how long after the time that the failing host printed last the whole run was down."""
    return max(host.ended for host in hosts_of_run) - float(ended.out.split()[-1])


@pytest.mark.parametrize("find", [by_flags, by_slurm, by_open_mpi])
def test_hosts_find_each_other_and_agree(find):
    act = """
for use in range(2):
    hosts.agree('plan', {'images': 1437, 'shapes': (32, 32), 'digest': 'ab', 'rate': 0.1, 'none': None})
    print(hosts.from_first('run', {'id': hosts.index(), 'use': use}))
    hosts.barrier('save', seconds=10)
port = hosts.global_state.coordinator_address.rpartition(':')[2]
for table in ('tcp', 'tcp6'):
    with suppress(OSError), open(f'/proc/net/{table}') as lines:
        for _, address, _, state, *_ in map(str.split, lines):
            if state == '0A' and address.endswith(f':{int(port):04X}'):
                print('listens on', address[:-5][-8:])
"""
    first, second = run(act, find=find)
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    for index, host in enumerate((first, second)):
        assert host.out.startswith(f"joined {index} 2\n{{'id': 0, 'use': 0}}\n{{'id': 0, 'use': 1}}\n")
    assert "top-1 50.00%" in first.out and "top-1" not in second.out
    if sys.platform == "linux" and find is by_flags:
        assert first.out.count("listens on") == first.out.count("listens on 0100007F\n") == 1  # 127.0.0.1


def test_who_sees_something_else_stops_all():
    act = """
sees_less = hosts.index() == 2
hosts.agree('data', {'images': 50_000 - sees_less, 'classes': 'ab' if not sees_less else 'cd', 'jax': '1'})
time.sleep(60)"""
    run_of_three = run(act, processes=3)
    said = "host 2 sees images=49,999, host 0 50,000; classes=cd, host 0 ab; give all hosts the same"
    assert [host.code for host in run_of_three] == [2, 2, 2]
    assert run_of_three[2].err.startswith(f"efficientnet-pod: {said}")
    for host in run_of_three[:2]:
        assert host.err.startswith(f"efficientnet-pod: host 2 failed: {said}")
    assert all(host.err.count("\n") == 1 for host in run_of_three)


def test_commands_for_different_numbers_of_hosts_are_refused():
    def find(port, processes, process):
        return by_flags(port, processes + process, process)

    first, second = run("time.sleep(60)", find=find)
    assert (first.code, second.code) == (2, 2)
    assert "host 1 sees processes=3, host 0 2;" in second.err and "joined" not in first.out + second.out


@pytest.mark.parametrize("failing", [0, 1])
def test_exception_on_one_host_takes_all_down_in_seconds(failing):
    act = f"""
if hosts.index() == {failing}:
    print(time.time(), flush=True)
    {{}}['no such key']
time.sleep(60)"""
    ended = run(act)
    assert [host.code for host in ended] == [1, 1]
    assert "Traceback (most recent call last):" in ended[failing].err
    assert ended[failing].err.endswith("\nKeyError: 'no such key'\n")
    other = ended[1 - failing]
    assert other.err == f"efficientnet-pod: host {failing} failed: KeyError: 'no such key'\n"
    assert seconds_down(ended[failing], ended) < 15


@pytest.mark.parametrize("killed", [0, 1])
def test_a_host_that_dies_takes_all_down(killed):
    act = f"""
if hosts.index() == {killed}:
    print(time.time(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)"""
    ended = run(act, command=[*TRAIN, "--silent-seconds=4"])
    assert ended[killed].code == -signal.SIGKILL
    assert ended[1 - killed].code not in (0, 2, 42)
    # JAX ends the other one this long after the last it heard, where no collective notices before.
    assert seconds_down(ended[killed], ended) < 20


def test_waiting_in_vain_names_the_missing():
    act = """
if hosts.index() == 0:
    try:
        hosts.barrier('save', seconds=0.5)
    except RunError as error:
        print(error)
hosts.barrier('again', seconds=10)"""
    first, *others = run(act, processes=3)
    assert "host 0 waited 0.5 s for 'save' on all hosts; hosts 1, 2 did not come\n" in first.out
    assert [host.code for host in (first, *others)] == [0, 0, 0]


def test_a_host_that_waits_says_for_whom_and_how_long():
    act = """
if hosts.index() == 2:
    time.sleep(1)
hosts.barrier('save', seconds=50)
if hosts.index() == 0:
    time.sleep(1)
hosts.from_first('where to start', 3)"""
    first, second, late = run(act, processes=3, before="connection.SAY_SECONDS = 0.2")
    for index, host in enumerate((first, second)):
        waits = f"efficientnet-pod: host {index} waits for host 2 to come to 'save': \\d+ s so far, 50 s at "
        assert len(re.findall(waits, host.err)) >= 2
    waits = "host 1 waits for host 0 to say 'where to start': \\d+ s so far, 1800 s at most\n"
    assert re.search(waits, second.err) and "where" not in first.err and "host 2 to come" not in late.err


def test_a_stop_is_told_to_all_and_exits_with_42():
    act = """
if hosts.index() == 1:
    peers.tell_stop('SIGTERM')
    peers.tell_stop('SIGINT')
assert interrupt.wait(10)
time.sleep(1.2)
print(interrupt.reason)
raise Preempted('checkpointed at step 3')"""
    first, second = run(act)
    assert (first.code, second.code) == (42, 42)
    assert first.out == "joined 0 2\nSIGTERM on host 1\n" and second.out == "joined 1 2\nSIGTERM on host 1\n"
    saving = "SIGTERM on host 1: saving a checkpoint after this step\n"
    assert (first.err, second.err) == (f"{saving}efficientnet-pod: checkpointed at step 3\n", saving)


@pytest.mark.parametrize("signalled", [(0,), (1,), (0, 1, 2)])
def test_a_stop_with_nothing_to_lose_ends_all_with_42(signalled):
    act = f"""
with interrupt.nothing_to_lose():
    hosts.barrier('all are here', seconds=10)
    if hosts.index() in {signalled}:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)"""
    ended = run(act, processes=3)
    assert [host.code for host in ended] == [42, 42, 42], ended
    assert all(host.err.endswith("nothing to save yet; the same command goes on\n") for host in ended)
    assert max(host.ended for host in ended) == ended[0].ended  # it holds the coordinator


def test_who_can_do_nothing_without_a_host_that_lost_nothing_has_lost_nothing():
    act = """
if hosts.index() == 1:
    with interrupt.nothing_to_lose():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
time.sleep(60)"""
    first, second = run(act)
    assert (first.code, second.code) == (42, 42), (first, second)
    assert first.err.endswith("host 1 ended: told to stop with nothing to save yet\n")


def test_a_stop_while_the_hosts_join_loses_nothing():
    before = "import threading; threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()"
    [alone] = run("", before=before, only=[0])
    assert (alone.code, alone.out) == (42, "")
    assert alone.err == "SIGTERM: nothing to save yet; the same command goes on\n"


def test_evaluating_hosts_must_see_the_same(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(load("digits.py")))
    before = """
from efficientnet_pod.evaluate import weights
identity_of, weights.evaluate_checkpoint = weights.identity_of, lambda *_, **__: time.sleep(60)
weights.identity_of = lambda run: identity_of(run) | {'files': sys.argv[-1]}"""
    ended = run("", before=before, command=["evaluate", f"--workdir={tmp_path}"])
    assert [host.code for host in ended] == [2, 2], ended
    assert "host 1 sees files=--process=1, host 0 --process=0; give all hosts the same" in ended[0].err


def test_a_store_that_does_not_answer_for_a_moment_is_asked_again(monkeypatch):
    class Store:
        looks = 0

        def key_value_dir_get(self, _):
            self.looks += 1
            if self.looks < MOST_MISSES or self.looks > MOST_MISSES + 2:
                raise jax.errors.JaxRuntimeError("UNAVAILABLE")
            return [("efficientnet_pod/told/stop", '{"reason": "SIGTERM", "host": 1}')]

    store, heard = Store(), []
    monkeypatch.setattr(peers, "LISTEN_SECONDS", 0.01)
    monkeypatch.setattr(hosts, "store", lambda: store)
    of_this_host = Peers()
    with of_this_host.subscribed(on_stop=heard.append):
        listener = of_this_host.listen()
        listener.join(60)
    assert not listener.is_alive()
    assert (heard, store.looks) == (["SIGTERM on host 1"], 2 * MOST_MISSES + 2)


def test_a_host_that_is_done_waits_for_those_at_work():
    ended = run("time.sleep(3 * (hosts.index() == 0))", before="connection.SHUTDOWN_SECONDS = 1")
    assert [(host.code, host.err) for host in ended] == [(0, ""), (0, "")]


def test_hosts_that_do_not_come_are_one_line():
    before = "connection.JOIN_SECONDS, connection.SAY_SECONDS = 1, 0.7"
    [alone] = run("", before=before, only=[0])
    assert alone.code == 2
    waits, gives_up = alone.err.splitlines()
    assert "process 0 waits for all 2 processes to come to 127.0.0.1:" in waits
    assert "not all 2 processes came to the coordinator at 127.0.0.1:" in gives_up


def test_a_lone_host_waits_for_nobody():
    Peers().join()
    Peers().join(processes=1)
    Peers().join("127.0.0.1:1", 1, 0)
    assert (hosts.index(), hosts.count()) == (0, 1)
    hosts.agree("plan", {"images": 1})
    hosts.barrier("save", seconds=0)
    assert hosts.from_first("run", {"id": (1, 2)}) == {"id": [1, 2]}
    Peers().tell_stop("SIGTERM")
    Peers().tell_failure("no", 1)
    Peers().finish()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize("find", [by_slurm, by_open_mpi])
def test_a_lone_task_of_a_cluster_keeps_all_its_devices(find, monkeypatch):
    for name, value in find(1, 1, 0)[1].items():
        monkeypatch.setenv(name, value)
    Peers().join()
    assert not jax.distributed.is_initialized() and hosts.count() == 1


def test_a_cluster_that_jax_cannot_read_is_one_line(monkeypatch):
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "nonsense")
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "1234")
    with pytest.raises(UserError, match="Could not parse .*; give every host --coordinator, .* or --proc"):
        Peers().join()
    Peers().join(processes=1)  # the remedy
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "10.0.0.1:1234")
    with pytest.raises(UserError, match="--processes and --process missing: "):
        Peers().join()


@pytest.mark.parametrize(
    "flags, words",
    [
        (("10.0.0.1:8476", None, None), "--processes and --process missing: a run of several hosts needs"),
        ((None, 2, 0), "--coordinator missing"),
        (("10.0.0.1:8476", 2, 2), "--process=2 with --processes=2: processes are numbered from 0"),
        (("10.0.0.1", 2, 0), "--coordinator=10.0.0.1 is not HOST:PORT"),
        (("10.0.0.1:port", 2, 0), "--coordinator=10.0.0.1:port is not HOST:PORT"),
    ],
)
def test_wrong_flags_are_one_line(flags, words):
    with pytest.raises(UserError) as raised:
        Peers().join(*flags)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_coordinator_that_cannot_be_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(connection, "JOIN_SECONDS", 0.1)
    monkeypatch.setattr(connection, "SAY_SECONDS", 0)
    with pytest.raises(UserError, match=r"has waited 0.1 s for the coordinator at 127.0.0.1:\d+; start"):
        Peers().join(f"127.0.0.1:{free_port()}", 2, 1)
    assert "process 1 waits for process 0 to answer at 127.0.0.1:" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=f"port of {address} .Address already in use.; choose another"):
            Peers().join(address, 2, 0)
