"""Events told to a command and to a server here: what they hold, and what happens when they fail or hang."""

import json
import threading
import time
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from launch_jobs import ACTIVE, GONE, SUSPENDED, Scripted, launch, run_has, workers_end

from launch.hooks import EVENTS, Hooks
from launch.job import remembered as jobs
from launch.job.job import Job
from launch.watch import Pace, Watch
from launch.workdir.storage import Folder


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setenv(jobs.FOLDER_VARIABLE, str(tmp_path / "jobs"))
    return Job("run1", "fake", "v4-16", str(tmp_path / "run1"), max_restarts=1, env=(("A", "b"),))


@pytest.fixture
def server():
    """A server that keeps what it gets; its path says how it answers: with a status, or slowly."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.got.append((self.headers["Content-Type"], json.loads(body)))
            if self.path == "/slow":  # byte by byte: the socket is never silent for long
                self.wfile.write(b"HTTP/1.0 200 OK\r\nSlow: ")
                for _ in range(60):
                    self.wfile.write(b".")
                    time.sleep(0.05)
                return
            self.send_response(int(self.path.rpartition("/")[2] or 200))
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.daemon_threads = [], True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}/"
    yield server
    server.shutdown()
    server.server_close()


def watch(job, backend, hooks):
    lines = []
    code = Watch(
        job, backend, Folder(), pace=Pace(poll=0.0, backoff=0.0), write_line=lines.append, hooks=hooks,
        sleep=lambda seconds: None,
    ).run()  # fmt: skip
    return code, [line.partition(": ")[2] for line in lines]


def test_each_event_is_told_once_with_where_the_run_is(job, server, tmp_path):
    run_has(job, step=13, checkpoint=10)
    heard = tmp_path / "heard"
    backend = Scripted(ACTIVE, ACTIVE, SUSPENDED, ACTIVE, workers_end(ACTIVE, 0, 0))
    code, _ = watch(job, backend, Hooks(f"cat >>{heard}; echo >>{heard}", server.url))
    assert code == 0
    kinds, tables = zip(*server.got, strict=True)
    assert set(kinds) == {"application/json"}
    assert [table["event"] for table in tables] == ["started", "preempted", "recovered", "done"]
    assert [json.loads(line) for line in heard.read_text().splitlines()] == list(tables)
    lost = tables[1]
    assert lost["text"] == (
        "the machines are gone after step 13 of 40; checkpoint at step 10: 3 steps of work are lost"
    )
    assert (lost["job"], lost["attempt"], lost["machine"], lost["workdir"]) == (
        "run1",
        1,
        "v4-16",
        job.workdir,
    )
    assert (lost["step"], lost["total_steps"], lost["checkpoint"], lost["top1"]) == (13, 40, 10, None)
    assert datetime.fromisoformat(lost["time"]).tzinfo and tables[2]["attempt"] == 2
    assert "A" not in "".join(lost) and "env" not in lost  # of the variables of workers nothing is sent


def test_failures_are_told_with_their_reason_and_without_secrets(job, server, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "hunter2hunter2")
    log = "efficientnet-pod: hunter2hunter2 and hf_0123456789abcdefghij open nothing\n"
    Folder().write(f"{job.folder}/logs/a001-w0000.log", log.encode())
    code, _ = watch(job, Scripted(workers_end(GONE, 1), workers_end(GONE, 2)), Hooks(None, server.url))
    assert code == 2
    events = [(table["event"], table["text"]) for _, table in server.got]
    assert events == [
        (
            "failed",
            "the run failed with exit code 1: [redacted] and [redacted] open nothing; the machines are gone "
            "before its first step; no work is lost",
        ),
        (
            "failed",
            "not started again: its command or recipe must be changed, and submit it again (exit code 2)",
        ),
    ]
    assert {event for event, _ in events} < set(EVENTS)


def test_the_end_of_restarts_is_a_failure(job, server):
    code, _ = watch(job, Scripted(SUSPENDED), Hooks(None, server.url))
    assert code == 1
    assert [table["event"] for _, table in server.got] == ["preempted", "preempted", "failed"]
    assert "--max-restarts=1 are used up" in server.got[-1][1]["text"]


@pytest.mark.parametrize(
    "command, path, line",
    [
        ("cat >/dev/null; echo no number >&2; exit 3", None, "--on-event ended with exit code 3: no number"),
        ("exit 0", None, None),  # which reads nothing
        ("sleep 60 & sleep 60", None, "--on-event did not end within 0.5 s and was killed"),
        (None, "500", "--webhook was refused with HTTP status 500"),
        (None, "slow", "--webhook did not answer within 0.5 s"),
    ],
)  # fmt: skip
def test_a_hook_that_fails_or_hangs_is_one_line_and_ends_nothing(job, server, command, path, line):
    hooks = Hooks(command, None if path is None else server.url + path, seconds=0.5)
    began = time.monotonic()
    code, lines = watch(job, Scripted(ACTIVE, workers_end(ACTIVE, 0, 0)), hooks)
    assert code == 0 and time.monotonic() - began < 30
    said = [each for each in lines if each.startswith("--")]
    assert said == [f"{line}; the watch goes on"] * 2 if line else not said


def test_a_server_that_is_not_there_and_an_address_that_is_none(job, server, capsys):
    secret = f"http://127.0.0.1:{server.server_port}/services/T0/hunter2"
    server.shutdown()
    server.server_close()
    code, lines = watch(job, Scripted(ACTIVE, workers_end(ACTIVE, 0, 0)), Hooks(None, secret))
    assert code == 0 and "--webhook cannot be reached: Connection refused; the watch goes on" in lines
    assert "hunter2" not in "".join(lines)
    jobs.remember(job)
    code, output, errors = launch(capsys, "watch", "run1", "--webhook=ftp://h/hunter2")
    assert (code, output) == (2, "") and errors == (
        "launch: --webhook is no address of the web; write --webhook=https://HOST/PATH\n"
    )


def test_status_is_json_for_other_programs(job, capsys):
    run_has(job, step=13, checkpoint=10)
    jobs.remember(job)
    code, output, _ = launch(capsys, "status", "--json")
    (table,) = json.loads(output)
    assert code == 0 and (table["job"], table["step"], table["total_steps"]) == ("run1", 13, 40)
    assert (table["state"], table["phase"], table["exit_code"], table["error"]) == (
        "GONE",
        "gone",
        None,
        None,
    )
    workers_end(GONE, 0, 2)(job)
    assert json.loads(launch(capsys, "status", "run1", "--json")[1])[0]["exit_code"] == 2
    (jobs.jobs_folder() / "run1.json").unlink()
    assert json.loads(launch(capsys, "status", "--json")[1]) == []
