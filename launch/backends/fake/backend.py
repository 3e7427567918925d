"""The backend ``fake``: queued resources on this machine, through the client of the real ones."""

import json
import sys
from dataclasses import replace
from typing import cast

import grpc
from google.cloud.tpu_v2 import TpuClient
from google.cloud.tpu_v2.services.tpu.transports import TpuGrpcTransport

from efficientnet_pod.errors import RunError, UserError
from launch.backends.backend import Document, State
from launch.backends.fake import daemon
from launch.backends.fake.service import PREEMPT
from launch.backends.queued_resources import QueuedResources
from launch.job.job import Job
from launch.job.remembered import jobs_folder
from launch.job.slices import smaller_slice

PROJECT, ZONE = "fake-project", "fake-zone"
MOST_WORKERS = 8


class FakeBackend(QueuedResources):
    """Jobs whose workers are processes here, with CPU devices in place of TPUs."""

    needs_bucket = False

    def __init__(self) -> None:
        super().__init__(lambda: running_client(start=True))

    def render(self, job: Job) -> list[Document]:
        """Returns the request, and the start-up script that is a part of it."""
        return super().render(_local(job))

    def check(self, job: Job) -> None:
        """Checks that the job is not too large to be run here, and that its name is free."""
        super().check(_local(job))

    def require_offered(self, job: Job) -> None:
        """Refuses a machine that is too large for this one; then asks the service."""
        machine = job.machine
        if not machine.api_type:
            raise UserError(
                f"--backend=fake rehearses what the TPU API serves, not {machine.name}; e.g. --tpu=v4-16"
            )
        if job.hosts > MOST_WORKERS:
            raise UserError(
                f"{machine.name} has {job.hosts} workers, and --backend=fake runs at most {MOST_WORKERS} "
                f"here; rehearse with --tpu={smaller_slice(machine, MOST_WORKERS)}"
            )
        super().require_offered(_local(job))

    def submit(self, job: Job) -> int:
        """Creates the resource."""
        return super().submit(_local(job))

    def state(self, job: Job) -> State:
        """Returns the state of the resource; never starts the service."""
        try:
            if daemon.running_port() is not None:
                return super().state(_local(job))
        except RunError:
            if daemon.running_port() is not None:
                raise
        return State("GONE", "the fake service has ended", "gone")

    def cancel(self, job: Job) -> None:
        """Deletes the resource and its processes."""
        if self.state(job).word != "GONE":
            super().cancel(_local(job))

    def own_log(self, job: Job, worker: int) -> str:
        """Returns the command for what a worker's process has printed."""
        return f"cat {jobs_folder()}/fake/{job.resource}-*/worker{worker}/console.log"

    def preempt(self, job: Job, worker: int | None) -> None:
        """Takes the machines away as a spot slice loses them, first from one worker or from all at once.

        Raises:
          UserError: the job does not run.
        """
        channel = daemon.channel(start=False)
        if channel is None:
            raise UserError(f"'{job.name}' does not run; submit it with --backend=fake")
        message = {"name": f"{_local(job).parent}/queuedResources/{job.resource}", "worker": worker}
        try:
            channel.unary_unary(PREEMPT)(json.dumps(message).encode(), timeout=self.call_seconds)
        except grpc.RpcError as error:
            details = str(cast(grpc.Call, error).details()).rpartition("/")[2]
            raise UserError(f"'{job.name}' cannot be pre-empted: {details}") from error


def running_client(*, start: bool) -> TpuClient:
    """Returns Google's client on the service; raises `UserError` if none runs and none is to be started."""
    channel = daemon.channel(start=start)
    if channel is None:
        raise UserError("the fake service does not run; submit a job with --backend=fake")
    return client_on(channel)


def client_on(channel: grpc.Channel) -> TpuClient:
    """Returns Google's client on a channel."""
    return TpuClient(transport=TpuGrpcTransport(channel=channel))


def _local(job: Job) -> Job:
    """Returns the job as processes here run it: with this interpreter, and CPU devices in place of TPUs."""
    given = {word.partition("=")[0] for word in job.arguments}
    flags = ("--config.platform=cpu", f"--config.cpu_replicas={job.machine.devices_per_host}")
    added = [flag for flag in flags if flag.partition("=")[0] not in given]
    return replace(
        job,
        project=PROJECT,
        zone=ZONE,
        arguments=(*job.arguments, *added),
        python=job.python if "/" in job.python else sys.executable,
    )
