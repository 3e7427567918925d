"""Hosts' clocks beside the storage's: one with a clock of its own, a folder, and Google's client."""

import json
import socket
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from launch_jobs import launch

from launch.doctor import clock, doctor
from launch.doctor.clock import Clock, judge, measure, others, this_host
from launch.workdir.storage import Bucket

START = 1_700_000_000.0
FOLDER = "gs://b/run1/launch/clocks"


class Server:
    """A storage whose clock is right, and takes a while to hear and to answer."""

    def __init__(self, *seconds):
        self.now, self.files, self.seconds = START, {}, list(seconds)

    def write(self, path, contents):
        assert path.startswith(f"{FOLDER}/")
        self.files[path.removeprefix(f"{FOLDER}/")] = contents
        there, back = self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        self.now += there + back
        return self.now - back

    def read(self, path):
        return self.files.get(path.removeprefix(f"{FOLDER}/"))

    def names(self, folder):
        return sorted(name for name in self.files if "/" not in name)


@pytest.mark.parametrize("ahead", [-3600.0, -2.5, 0.0, 12.4])
def test_a_clock_is_known_to_half_of_the_round_trip(ahead):
    # The first answer waits for a connection; the quickest counts, however lopsided it is.
    server = Server((0.9, 0.4), (0.05, 0.01), (0.3, 0.3))
    measured = measure(server, FOLDER, "3", now=lambda: server.now + ahead)
    assert measured.within == pytest.approx(0.03 + 0.01)
    assert abs(measured.ahead - ahead) < measured.within
    assert json.loads(server.files["3"]) == asdict(measured)
    assert (
        len([name for name in server.files if name.startswith("probes/3.")]) == 3
    )  # no object twice a second


def test_hosts_hear_of_each_other_for_an_hour():
    server = Server((0.02, 0.02))
    for host, ahead in (("0", 0.0), ("1", 0.3), ("2", -7.0)):
        measure(server, FOLDER, host, now=lambda ahead=ahead: server.now + ahead)
    server.files["9.partial"] = b"{"
    mine = measure(server, FOLDER, "0", now=lambda: server.now)
    assert [other.host for other in others(server, FOLDER, mine)] == ["1", "2"]
    well, line = judge(mine, others(server, FOLDER, mine))
    assert well is False and line.startswith(
        "host 0's clock agrees to 0.1 s with the storage's; of 2 other hosts host 2's clock is 7.0 s behind "
        "(± 0.1 s) this one's, the most; let chrony or NTP set it"
    )
    server.now += 3601
    later = measure(server, FOLDER, "0", now=lambda: server.now)
    assert others(server, FOLDER, later) == []


@pytest.mark.parametrize(
    "ahead, within, well, line",
    [
        (
            12.4,
            0.04,
            False,
            "host 3's clock is 12.4 s ahead of (± 0.1 s) the storage's; let chrony or NTP set it",
        ),
        (-2.2, 0.1, False, "host 3's clock is 2.2 s behind (± 0.1 s) the storage's; let"),
        (-1.5, 0.2, True, "host 3's clock is 1.5 s behind (± 0.2 s) the storage's"),
        (0.1, 0.25, True, "host 3's clock agrees to 0.3 s with the storage's"),
        (
            2.1,
            0.6,
            None,
            "host 3's clock is 2.1 s ahead of (± 0.6 s) the storage's; more than 2 s would be wrong",
        ),
        (
            0.0,
            4.0,
            None,
            "host 3's clock agrees to 4.0 s with the storage's; more than 2 s would be wrong: try",
        ),
    ],
)
def test_two_seconds_are_wrong_and_what_cannot_be_told_is_said(ahead, within, well, line):
    judgement = judge(Clock("3", ahead, within, START), [])
    assert judgement[0] is well and judgement[1].startswith(line)


def test_two_hosts_may_be_apart_though_each_is_near_the_storage():
    mine, other = Clock("0", 1.5, 0.1, START), Clock("1", -1.5, 0.1, START)
    assert judge(mine, [])[0] is True and judge(mine, [other])[0] is False
    assert (
        "of 1 other host host 1's clock is 3.0 s behind (± 0.2 s) this one's; let" in judge(mine, [other])[1]
    )


def test_a_host_is_called_by_its_number_where_it_has_one(monkeypatch):
    for name in ("TPU_WORKER_ID", "SKYPILOT_NODE_RANK", "SLURM_PROCID", "MEGASCALE_SLICE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "t1v-n-0ab1-w-12")
    assert this_host() == "12"
    monkeypatch.setattr(socket, "gethostname", lambda: "my laptop/home")
    assert this_host() == "my-laptop-home"
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    assert this_host() == "0"
    monkeypatch.setenv("MEGASCALE_SLICE_ID", "1")
    assert this_host() == "1.0"


def test_doctor_compares_with_a_folder_and_with_other_hosts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(clock, "this_host", lambda: "0")
    assert doctor.check_clock(str(tmp_path)).line == "host 0's clock agrees to 0.1 s with the storage's"
    monkeypatch.setattr(clock, "this_host", lambda: "1")
    now = time.time
    monkeypatch.setattr(clock.measure, "__kwdefaults__", {"now": lambda: now() + 60})
    finding = doctor.check_clock(str(tmp_path))
    assert finding.is_well is False
    assert "host 1's clock is 60.0 s ahead of (± 0.1 s) the storage's; of 1" in finding.line
    code, output, _ = launch(capsys, "doctor", f"--workdir={tmp_path}")
    assert code == 1 and "WRONG   clock: host 1's clock is 60.0 s ahead of" in output
    assert doctor.check_clock("s3://b/run1").is_well is None


@pytest.fixture
def service():
    """Returns Google's client of a service here whose clock is 100 s behind."""
    storage = pytest.importorskip("google.cloud.storage", reason="needs google-cloud-storage")
    from google.auth.credentials import AnonymousCredentials

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            updated = datetime.fromtimestamp(time.time() - 100, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            answer = json.dumps(
                {"kind": "storage#object", "updated": updated, "timeCreated": updated}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield storage.Client("p", AnonymousCredentials(), client_options={"api_endpoint": address})
    server.shutdown()
    server.server_close()


def test_a_bucket_stamps_by_the_clock_of_the_service(service):
    measured = measure(Bucket(service), "gs://b/run1/launch/clocks", "3")
    assert abs(measured.ahead - 100) <= measured.within < 2
    assert judge(measured, [])[1].startswith("host 3's clock is 100.0 s ahead of (± ")
