"""Owns the back end ``qr``: Cloud TPU queued resources through Google's own client."""

import json
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from efficientnet_pod.errors import RunError, UserError
from launch.backends.api_errors import name_taken, said_in_one_line
from launch.backends.backend import Document, State
from launch.job.job import LABEL, Job
from launch.job.script import startup_script

CALL_SECONDS = 60.0
_OPERATION_SECONDS = 300.0
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"

# What the states of a queued resource mean here; the last word of the API on one that has ended is SUSPENDED
# or FAILED, never that the run is done: worker 0 deletes the resource then.
_PHASES = {
    "CREATING": "waiting",
    "ACCEPTED": "waiting",
    "PROVISIONING": "waiting",
    "WAITING_FOR_RESOURCES": "waiting",
    "ACTIVE": "running",
    "SUSPENDING": "leaving",
    "SUSPENDED": "lost",
    "FAILED": "lost",
    "DELETING": "leaving",
}


class QueuedResources:
    """Jobs as queued resources; one may be of several slices."""

    needs_bucket = True
    restarts = "watch"

    def __init__(self, client: Callable[[], Any]):
        """Takes what makes a ``TpuClient``, which is asked for when the API is needed first."""
        self._make_client = client
        self._made: Any = None
        self.call_seconds = CALL_SECONDS

    @property
    def client(self) -> Any:
        """The client; raises `UserError` where there is no package or there are no credentials."""
        if self._made is None:
            self._made = self._make_client()
        return self._made

    def render(self, job: Job) -> list[Document]:
        """Returns the request and the start-up script in it."""
        script = startup_script(job)
        shown = request(job, "<the start-up script below>")
        return [
            Document("CreateQueuedResource", json.dumps(shown, indent=1)),
            Document("startup-script", script),
        ]

    def check(self, job: Job) -> None:
        """Asks the API whether the machine is offered in the zone and the name is free."""
        machine = job.machine
        with said_in_one_line(job):
            offered = self.client.list_accelerator_types(
                parent=job.parent, retry=None, timeout=self.call_seconds
            )
            types = sorted(each.name.rpartition("/")[2] for each in offered) or sorted(
                each.type_ for each in offered
            )
        if machine.api_type not in types:
            family = str(machine.api_type).rpartition("-")[0]
            there = [name for name in types if name.startswith(family)] or types
            raise UserError(
                f"{machine.name} ({machine.api_type}) is not offered in {job.zone}; there: "
                f"{', '.join(there) or 'no TPU at all'}; choose another --zone or --tpu"
            )
        if self.state(job).word != "GONE":
            raise name_taken(job)

    def submit(self, job: Job) -> int:
        """Creates the resource; on any failure deletes what may have come of it."""
        job = replace(job, submission=secrets.token_hex(4))
        made = request(job, startup_script(job))
        from google.cloud import tpu_v2

        try:
            with said_in_one_line(job):
                operation = self.client.create_queued_resource(
                    tpu_v2.CreateQueuedResourceRequest(made), retry=None, timeout=self.call_seconds
                )
                # Until the resource is accepted; then it waits for machines by itself.
                self._wait(job, operation)
        except BaseException:
            self._remove_own(job)
            raise
        return 0

    def _wait(self, job: Job, operation: Any) -> None:
        deadline = time.monotonic() + _OPERATION_SECONDS
        while not operation.done(retry=None):
            if self.state(job).phase in ("waiting", "running"):
                return
            if time.monotonic() > deadline:
                raise RunError(f"the TPU API did not accept '{job.name}' in {_OPERATION_SECONDS:.0f} s")
            time.sleep(0.5)
        operation.result(retry=None)

    def state(self, job: Job) -> State:
        """Returns the state of the resource, and of its nodes where one was pre-empted."""
        from google.api_core import exceptions as api
        from google.cloud import tpu_v2

        with said_in_one_line(job):
            try:
                found = self.client.get_queued_resource(
                    name=_name(job), retry=None, timeout=self.call_seconds
                )
            except api.NotFound:
                return State("GONE", "no such queued resource", "gone")
        word = tpu_v2.QueuedResourceState.State(found.state.state).name
        detail = found.state.failed_data.error.message if word == "FAILED" else ""
        return State(word, " ".join(detail.split()), _PHASES.get(word, "unknown"))

    def cancel(self, job: Job) -> None:
        """Deletes the resource with its nodes; returns when the API says that it is gone."""
        from google.api_core import exceptions as api

        with said_in_one_line(job), suppress(api.NotFound):
            self._delete(job)
            deadline = time.monotonic() + _OPERATION_SECONDS
            while self.state(job).word != "GONE":
                if time.monotonic() > deadline:
                    raise RunError(f"'{job.name}' is still being deleted after {_OPERATION_SECONDS:.0f} s")
                time.sleep(0.5)

    def _delete(self, job: Job) -> None:
        from google.cloud import tpu_v2

        wanted = tpu_v2.DeleteQueuedResourceRequest(name=_name(job), force=True)
        self.client.delete_queued_resource(wanted, retry=None, timeout=self.call_seconds)

    def _remove_own(self, job: Job) -> None:
        """Deletes what a failed `submit` has made, if anything, and never another one of that name."""
        try:
            found = self.client.get_queued_resource(name=_name(job), retry=None, timeout=self.call_seconds)
            labels = [dict(spec.node.labels) for spec in found.tpu.node_spec]
            if all(each.get("submission") == job.submission for each in labels):
                self._delete(job)
        except Exception as error:  # whatever it is, what went wrong before is what counts
            if type(error).__name__ != "NotFound":
                print(
                    f"launch: it is not known whether '{job.name}' was made; look: python -m launch status "
                    f"{job.name}",
                    file=sys.stderr,
                )


def request(job: Job, script: str) -> dict[str, Any]:
    """Returns the request that creates a job's resource, with the names of the API's fields."""
    machine = job.machine
    node: dict[str, Any] = {
        "accelerator_type": machine.api_type,
        "runtime_version": job.runtime or machine.runtime,
        "network_config": {"enable_external_ips": True} | ({"network": job.network} if job.network else {}),
        "service_account": {"scope": [_SCOPE]}
        | ({"email": job.service_account} if job.service_account else {}),
        "labels": {"made-by": LABEL, "submission": job.submission},
        "metadata": {"startup-script": script},
    }
    spec: dict[str, Any] = {"parent": job.parent, "node": node}
    if job.slices > 1:
        spec["multislice_params"] = {"node_count": job.slices, "node_id_prefix": job.name}
    else:
        spec["node_id"] = job.name
    resource: dict[str, Any] = {"tpu": {"node_spec": [spec]}}
    if job.spot:
        resource["spot"] = {}
    if job.valid_hours:
        resource["queueing_policy"] = {"valid_until_duration": {"seconds": 3600 * job.valid_hours}}
    return {"parent": job.parent, "queued_resource_id": job.name, "queued_resource": resource}


def cloud() -> QueuedResources:
    """Returns the back end on Google's API, with the credentials of this machine."""
    return QueuedResources(_cloud_client)


def _cloud_client() -> Any:
    require_package()
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import tpu_v2

    try:
        return tpu_v2.TpuClient()
    except DefaultCredentialsError as error:
        raise UserError(
            "there are no Google Cloud credentials here; run: gcloud auth application-default login"
        ) from error


def require_package() -> None:
    """Returns if Google's client is installed; raises `UserError` with the extra that has it."""
    try:
        import google.cloud.tpu_v2  # noqa: F401
    except ImportError:
        raise UserError(
            "this back end needs Google's TPU client; pip install 'efficientnet-pod[launch]'"
        ) from None


def _name(job: Job) -> str:
    return f"{job.parent}/queuedResources/{job.name}"
