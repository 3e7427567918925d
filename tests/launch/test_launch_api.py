"""The real TPU client against the service that ships: states, errors and what the user sees of each."""

import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("google.cloud.tpu_v2", reason="needs the extra 'launch'")
import grpc  # noqa: E402
from google.auth.exceptions import DefaultCredentialsError  # noqa: E402
from google.cloud import tpu_v2  # noqa: E402

from efficientnet_pod.errors import RunError, UserError  # noqa: E402
from launch.backends.backend import backend_named  # noqa: E402
from launch.backends.fake.backend import client_on  # noqa: E402
from launch.backends.fake.service import FakeTpu, Refusal  # noqa: E402
from launch.backends.queued_resources import QueuedResources, cloud  # noqa: E402
from launch.job.job import Job  # noqa: E402

JOB = Job("run1", "qr", "v3-32", "gs://b/run1", spot=True, project="p", zone="z", code="code.tar.gz")
NAME = "projects/p/locations/z/queuedResources/run1"
CODES = grpc.StatusCode


@pytest.fixture
def fake():
    with FakeTpu(offered=("v3-8", "v3-32", "v6e-16"), state_seconds=0.05) as service:
        yield service


@pytest.fixture
def backend(fake):
    with grpc.insecure_channel(f"127.0.0.1:{fake.port}") as channel:
        queued = QueuedResources(lambda: client_on(channel))
        queued.call_seconds = 5.0
        yield queued


def refuse(code, message):
    def fault():
        raise Refusal(code, message)

    return fault


def wait_for(backend, word, job=JOB):
    deadline = time.monotonic() + 10
    while (state := backend.state(job)).word != word:
        assert time.monotonic() < deadline, state
        time.sleep(0.02)
    return state


def test_a_resource_goes_through_its_states_and_is_made_again(backend, fake):
    backend.check(JOB)
    assert backend.submit(JOB) == 0
    assert wait_for(backend, "ACTIVE").phase == "running"
    definition = fake.resources[NAME].definition
    (spec,) = definition.tpu.node_spec
    assert "spot" in definition and spec.node_id == "run1" and spec.node.accelerator_type == "v3-32"
    assert spec.node.metadata["startup-script"].startswith("#!/bin/bash\n")
    fake.preempt(NAME)
    assert wait_for(backend, "SUSPENDED").phase == "lost"
    backend.cancel(JOB)
    assert backend.state(JOB).word == "GONE"
    assert backend.submit(JOB.again()) == 0
    wait_for(backend, "ACTIVE")
    backend.cancel(JOB)
    backend.cancel(JOB)  # twice is once
    once = ["CREATING", "ACCEPTED", "PROVISIONING", "ACTIVE"]
    expected = [*once, "SUSPENDING", "SUSPENDED", "DELETING", "GONE", *once, "DELETING", "GONE"]
    assert [state for _, state in fake.history] == expected


def test_a_request_beyond_the_capacity_waits_until_there_is_more():
    chips = [16]
    with FakeTpu(offered=("v3-32",), state_seconds=0.05, capacity=lambda: chips[0]) as fake:
        with grpc.insecure_channel(f"127.0.0.1:{fake.port}") as channel:
            backend = QueuedResources(lambda: client_on(channel))
            backend.submit(JOB)
            wait_for(backend, "ACTIVE")
            two = replace(JOB, name="run2", slices=2)
            backend.submit(two)
            assert wait_for(backend, "WAITING_FOR_RESOURCES", two).phase == "waiting"
            time.sleep(0.3)
            assert backend.state(two).phase == "waiting" and backend.state(JOB).word == "ACTIVE"
            chips[0] = 32
            wait_for(backend, "ACTIVE", two)
    states = [state for name, state in fake.history if name.endswith("run2")]
    assert states == ["CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]


def test_a_second_resource_beside_the_first_has_its_own_name_and_may_be_deleted_alone(backend, fake):
    backend.submit(JOB)
    beside = JOB.again(suffix="-a002", held=True)
    backend.submit(beside)
    wait_for(backend, "ACTIVE", beside)
    (spec,) = fake.resources[f"{NAME}-a002"].definition.tpu.node_spec
    script = spec.node.metadata["startup-script"]
    assert spec.node_id == "run1-a002" and "NAME='run1-a002'" in script and "HELD='yes'" in script
    backend.cancel(beside)
    assert list(fake.resources) == [NAME]


def test_several_slices_are_one_request(backend, fake):
    backend.submit(replace(JOB, slices=3, spot=False, valid_hours=2))
    definition = fake.resources[NAME].definition
    (spec,) = definition.tpu.node_spec
    assert (spec.multislice_params.node_count, spec.multislice_params.node_id_prefix) == (3, "run1")
    assert "spot" not in definition and definition.queueing_policy.valid_until_duration.seconds == 7200


def test_what_is_not_offered_or_taken_is_said_before_anything_is_made(backend, fake):
    with pytest.raises(UserError, match=r"v3-128 \(v3-128\) is not offered in z; there: v3-32, v3-8; choose"):
        backend.check(replace(JOB, tpu="v3-128"))
    assert not fake.history
    backend.submit(JOB)
    with pytest.raises(UserError, match="there is a queued resource 'run1' in z already; choose another --n"):
        backend.check(JOB)
    with pytest.raises(UserError, match="'run1' in z already"):
        backend.submit(JOB)
    assert NAME in fake.resources, "a submission that failed must not remove another's resource"


ERRORS = [
    (CODES.RESOURCE_EXHAUSTED, "Quota 'TPUV3sPerProject' exhausted. Limit: 8", UserError,
     "the quota of project p for spot v3-32 in z does not suffice (Quota 'TPUV3sPerProject' exhausted. "
     "Limit: 8); choose a smaller --tpu or another --zone, or ask for more quota"),
    (CODES.PERMISSION_DENIED, "Permission 'tpu.nodes.create' denied", UserError,
     "permission denied in project p (Permission 'tpu.nodes.create' denied); ask its owner for the role TPU "
     "Admin (roles/tpu.admin)"),
    (CODES.PERMISSION_DENIED, "Cloud TPU API has not been used in project p before or it is disabled.",
     UserError, "the TPU API is not enabled in project p; run: gcloud services enable tpu.googleapis.com "
     "--project=p"),
    (CODES.UNAUTHENTICATED, "Request had invalid authentication credentials", UserError,
     "the TPU API does not accept the credentials here; run: gcloud auth application-default login"),
    (CODES.ALREADY_EXISTS, "Resource already exists", UserError,
     "there is a queued resource 'run1' in z already; choose another --name, or end that one: "
     "efficientnet-pod launch cancel run1"),
    (CODES.NOT_FOUND, "Location z is not found", UserError,
     "the TPU API knows no 'projects/p/locations/z' or no such thing in it (Location z is not found); "
     "correct --project and --zone"),
    (CODES.INVALID_ARGUMENT, "runtime_version is\nnot valid", UserError,
     "the TPU API refuses the request: runtime_version is not valid; change the command"),
    (CODES.UNAVAILABLE, "The service is currently unavailable.", RunError,
     "the TPU API failed (The service is currently unavailable.); give the same command again later"),
    (CODES.INTERNAL, "Internal error", RunError,
     "the TPU API failed (Internal error); give the same command again later"),
]  # fmt: skip


@pytest.mark.parametrize("code, message, kind, line", ERRORS, ids=lambda value: getattr(value, "name", None))
def test_each_error_of_the_api_is_one_line_and_leaves_nothing(
    backend, fake, capsys, code, message, kind, line
):
    fake.faults["CreateQueuedResource"] = refuse(code, message)
    with pytest.raises(kind) as raised:
        backend.submit(JOB)
    assert str(raised.value) == line and "\n" not in line
    assert not fake.resources and not capsys.readouterr().err


def test_a_slow_api_is_said_and_what_it_made_after_all_is_removed(backend, fake):
    call = fake._CreateQueuedResource

    def late(asked):
        answer = call(asked)
        fake._lock.release()  # the service is slow to answer, not to work
        time.sleep(1.5)
        fake._lock.acquire()
        return answer

    fake._CreateQueuedResource = late
    backend.call_seconds = 1.0
    with pytest.raises(RunError, match=r"the TPU API did not answer in time \(Deadline Exceeded\); the same"):
        backend.submit(JOB)
    deadline = time.monotonic() + 5
    while fake.resources and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not fake.resources


def test_one_that_fails_while_it_is_accepted_is_removed(backend, fake):
    fake.faults["GetOperation"] = refuse(CODES.INTERNAL, "Internal error")
    fake._seconds = 5.0
    with pytest.raises(RunError, match="Internal error"):
        backend.submit(JOB)
    assert [state for _, state in fake.history] == ["CREATING", "DELETING"]


def test_no_credentials_are_one_line(monkeypatch):
    def none(*_, **__):
        raise DefaultCredentialsError("a page of text")

    monkeypatch.setattr(tpu_v2, "TpuClient", none)
    with pytest.raises(UserError, match="^there are no Google Cloud credentials here; run: gcloud auth app"):
        cloud().check(JOB)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.tpu_v2", None)
    with pytest.raises(UserError, match=r"pip install 'efficientnet-pod\[launch\]'"):
        cloud().check(JOB)
    monkeypatch.delitem(sys.modules, "launch.backends.fake.backend")
    with pytest.raises(UserError, match=r"pip install 'efficientnet-pod\[launch\]'"):
        backend_named("fake")


def test_no_secret_of_the_environment_is_in_a_request(monkeypatch, backend):
    monkeypatch.setenv("MY_API_TOKEN", "hunter2hunter2")
    texts = [document.text for document in backend.render(JOB)]
    assert not any("hunter2" in text for text in texts)


def test_the_error_of_a_failed_resource_is_shown():
    state = tpu_v2.QueuedResourceState(state="FAILED", failed_data={"error": {"message": "no\ncapacity"}})
    client = SimpleNamespace(get_queued_resource=lambda **_: tpu_v2.QueuedResource(state=state))
    failed = QueuedResources(lambda: client).state(JOB)
    assert (failed.word, failed.detail, failed.phase) == ("FAILED", "no capacity", "lost")
