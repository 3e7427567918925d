"""The backend ``qr``: Cloud TPU queued resources through Google's own client.

Google's library is imported where it is first needed: `render` works without it, and it takes seconds.
"""

import json
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from efficientnet_pod.errors import RunError, UserError
from launch.backends.api_errors import api_errors_in_one_line, name_taken
from launch.backends.backend import NO_PACKAGE, Document, State
from launch.backends.tools import call, require_tool
from launch.job.job import LABEL, Job
from launch.job.script import startup_script
from launch.workdir.storage import NO_CREDENTIALS

CALL_SECONDS = 60.0
_OPERATION_SECONDS = 300.0
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"

# A resource whose machines were taken away ends as SUSPENDED or FAILED. No state says that the run is done:
# worker 0 deletes the resource then.
_PHASES = {
    **dict.fromkeys(("CREATING", "ACCEPTED", "PROVISIONING", "WAITING_FOR_RESOURCES"), "waiting"),
    "ACTIVE": "running",
    **dict.fromkeys(("SUSPENDED", "FAILED"), "lost"),
    **dict.fromkeys(("SUSPENDING", "DELETING"), "leaving"),
}


class QueuedResources:
    """Jobs as queued resources, each of one slice or several."""

    needs_bucket = True
    restarts = "watch"

    def __init__(self, make_client: Callable[[], Any]):
        """Takes a function that makes a ``TpuClient``; it is called once the API is needed."""
        self._make_client = make_client
        self.call_seconds = CALL_SECONDS

    @cached_property
    def client(self) -> Any:
        """The client; raises `UserError` if the package or the credentials are missing."""
        return self._make_client()

    def render(self, job: Job) -> list[Document]:
        """Returns the request, and the start-up script that is a part of it."""
        if job.flex_hours:
            command = shlex.join(flex_start(job, "startup.sh"))
            return [Document("gcloud command", command), Document("startup.sh", startup_script(job))]
        shown = request(job, "<the start-up script below>")
        return [
            Document("CreateQueuedResource", json.dumps(shown, indent=1)),
            Document("startup-script", startup_script(job)),
        ]

    def check(self, job: Job) -> None:
        """Checks by the API that the zone offers the machine and that the name is free."""
        if job.flex_hours:
            require_tool(
                "gcloud", "install the Google Cloud CLI with its alpha commands, then: gcloud auth login"
            )
        self.require_offered(job)
        if self.state(job).word != "GONE":
            raise name_taken(job)

    def require_offered(self, job: Job) -> None:
        """Checks by the API that the zone offers the machine; raises `UserError` if not."""
        machine = job.machine
        types = self.offered_types(job)
        if machine.api_type not in types:
            family = str(machine.api_type).rpartition("-")[0]
            near = [name for name in types if name.startswith(family)] or types
            raise UserError(
                f"{machine.name} ({machine.api_type}) is not offered in {job.zone}; there: "
                f"{', '.join(near) or 'no TPU at all'}; choose another --zone or --tpu"
            )

    def offered_types(self, job: Job) -> list[str]:
        """Returns the sorted accelerator types that the job's zone offers."""
        with api_errors_in_one_line(job):
            types = list(
                self.client.list_accelerator_types(parent=job.parent, retry=None, timeout=self.call_seconds)
            )
        return sorted(kind.name.rpartition("/")[2] or kind.type_ for kind in types)

    def submit(self, job: Job) -> int:
        """Creates the resource; after any failure deletes it."""
        from google.cloud import tpu_v2

        job = replace(job, submission=secrets.token_hex(4))
        if job.flex_hours:
            return self._submit_flex_start(job)
        creation = tpu_v2.CreateQueuedResourceRequest(request(job, startup_script(job)))
        try:
            with api_errors_in_one_line(job):
                operation = self.client.create_queued_resource(
                    creation, retry=None, timeout=self.call_seconds
                )
                # Until the resource is accepted; after that it waits for machines by itself.
                self._wait(job, operation)
        except BaseException:
            self._remove_own(job)
            raise
        return 0

    def _submit_flex_start(self, job: Job) -> int:
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "startup.sh"
            script.write_text(startup_script(job), "utf-8")
            try:
                call(flex_start(job, str(script)))
            except BaseException:
                self._remove_own(job)
                raise
        return 0

    def _wait(self, job: Job, operation: Any) -> None:
        for _ in _looks(f"the TPU API did not accept '{job.resource}' in {_OPERATION_SECONDS:.0f} s"):
            if operation.done(retry=None):
                operation.result(retry=None)
                return
            if self.state(job).phase in ("waiting", "running"):
                return

    def state(self, job: Job) -> State:
        """Returns the state of the resource, with the API's message if it failed."""
        from google.api_core.exceptions import NotFound
        from google.cloud import tpu_v2

        with api_errors_in_one_line(job):
            try:
                resource = self._get(job)
            except NotFound:
                return State("GONE", "no such queued resource", "gone")
        word = tpu_v2.QueuedResourceState.State(resource.state.state).name
        detail = resource.state.failed_data.error.message if word == "FAILED" else ""
        return State(word, " ".join(detail.split()), _PHASES.get(word, "unknown"))

    def cancel(self, job: Job) -> None:
        """Deletes the resource with its nodes; returns when the API says that it is gone."""
        from google.api_core.exceptions import NotFound

        with api_errors_in_one_line(job), suppress(NotFound):
            self._delete(job)
            for _ in _looks(f"'{job.resource}' is still being deleted after {_OPERATION_SECONDS:.0f} s"):
                if self.state(job).word == "GONE":
                    return

    def own_log(self, job: Job, worker: int) -> str:
        """Returns gcloud's command for the log of the start-up script on a machine."""
        index, number = divmod(worker, job.machine.target.hosts)
        node = f"{job.resource}-{index}" if job.slices > 1 else job.resource
        command = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", node, f"--worker={number}"]
        command += [f"--project={job.project}", f"--zone={job.zone}"]
        return shlex.join([*command, "--command=sudo journalctl -u google-startup-scripts"])

    def _get(self, job: Job) -> Any:
        return self.client.get_queued_resource(name=_name(job), retry=None, timeout=self.call_seconds)

    def _delete(self, job: Job) -> None:
        from google.cloud import tpu_v2

        deletion = tpu_v2.DeleteQueuedResourceRequest(name=_name(job), force=True)
        self.client.delete_queued_resource(deletion, retry=None, timeout=self.call_seconds)

    def _remove_own(self, job: Job) -> None:
        """Deletes the resource if this `submit` made it, and never another one of its name."""
        try:
            labels = [dict(spec.node.labels) for spec in self._get(job).tpu.node_spec]
            if all(label.get("submission") == job.submission for label in labels):
                self._delete(job)
        except Exception as error:  # the error of `submit` is the one to raise
            if type(error).__name__ != "NotFound":
                print(
                    f"launch: it is not known whether '{job.resource}' was made; look: "
                    f"efficientnet-pod launch status {job.name}",
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
        spec["multislice_params"] = {"node_count": job.slices, "node_id_prefix": job.resource}
    else:
        spec["node_id"] = job.resource
    resource: dict[str, Any] = {"tpu": {"node_spec": [spec]}}
    if job.spot:
        resource["spot"] = {}
    if job.reservation:
        node["scheduling_config"] = {"reserved": True}
        resource["reservation_name"] = f"{job.parent}/reservations/{job.reservation}"
    if job.valid_hours:
        resource["queueing_policy"] = {"valid_until_duration": {"seconds": 3600 * job.valid_hours}}
    return {"parent": job.parent, "queued_resource_id": job.resource, "queued_resource": resource}


def flex_start(job: Job, script: str) -> list[str]:
    """Returns gcloud's command that asks for machines for a time; `script` names the start-up script's file.

    Google's client 1.28 has no field for it. When the time is over the machines are deleted, and the resource
    ends as SUSPENDED. Source: Cloud TPU documentation, "Request Cloud TPUs using Flex-start"; gcloud's
    reference, alpha compute tpus queued-resources create.
    """
    machine = job.machine
    words = ["gcloud", "alpha", "compute", "tpus", "queued-resources", "create", job.resource]
    words += [f"--project={job.project}", f"--zone={job.zone}", f"--node-id={job.resource}"]
    words += [f"--accelerator-type={machine.api_type}", f"--runtime-version={job.runtime or machine.runtime}"]
    words += ["--provisioning-model=flex-start", f"--max-run-duration={job.flex_hours}h"]
    words += [f"--labels=made-by={LABEL},submission={job.submission}", f"--scopes={_SCOPE}"]
    words += [f"--metadata-from-file=startup-script={script}"]
    words += [f"--network={job.network}"] if job.network else []
    words += [f"--service-account={job.service_account}"] if job.service_account else []
    words += [f"--valid-until-duration={job.valid_hours}h"] if job.valid_hours else []
    return [*words, "--async", "--quiet"]


def cloud() -> QueuedResources:
    """Returns the backend on Google's API, with the credentials of this machine."""
    return QueuedResources(_cloud_client)


def _cloud_client() -> Any:
    try:
        import google.cloud.tpu_v2 as tpu_v2
        from google.auth.exceptions import DefaultCredentialsError
    except ImportError:
        raise UserError(NO_PACKAGE) from None
    try:
        return tpu_v2.TpuClient()
    except DefaultCredentialsError as error:
        raise UserError(NO_CREDENTIALS) from error


def _looks(failure: str) -> Iterator[None]:
    """Yields twice a second; raises `RunError` with the message after `_OPERATION_SECONDS`."""
    deadline = time.monotonic() + _OPERATION_SECONDS
    while time.monotonic() <= deadline:
        yield
        time.sleep(0.5)
    raise RunError(failure)


def _name(job: Job) -> str:
    return f"{job.parent}/queuedResources/{job.resource}"
