"""Owns the back end ``fake``: queued resources on this machine, through the same client as the real ones."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc

from efficientnet_pod.errors import RunError, UserError
from launch.backends.backend import Document, State
from launch.backends.queued_resources import QueuedResources, require_package
from launch.job.job import Job
from launch.job.slices import smaller

PROJECT, ZONE = "fake-project", "fake-zone"
MOST_WORKERS = 8


class FakeBackend(QueuedResources):
    """Jobs whose workers are processes here, with CPU devices in place of TPUs."""

    needs_bucket = False

    def __init__(self) -> None:
        """Starts nothing."""
        require_package()
        super().__init__(lambda: client(start=True))

    def render(self, job: Job) -> list[Document]:
        """Returns the request and the start-up script in it."""
        return super().render(_local(job))

    def check(self, job: Job) -> None:
        """Refuses what is too large for one machine; then asks the service."""
        machine = job.machine
        if not machine.api_type:
            raise UserError(
                f"--backend=fake rehearses what the TPU API serves, not {machine.name}; e.g. --tpu=v4-16"
            )
        if job.hosts > MOST_WORKERS:
            raise UserError(
                f"{machine.name} has {job.hosts} workers, and --backend=fake runs at most {MOST_WORKERS} "
                f"here; rehearse with --tpu={smaller(machine, MOST_WORKERS)}"
            )
        super().check(_local(job))

    def submit(self, job: Job) -> int:
        """Creates the resource."""
        return super().submit(_local(job))

    def state(self, job: Job) -> State:
        """Returns the state of the resource; of a service that has ended there is none."""
        if self._made is None:
            here = _channel(start=False)
            if here is None:
                return State("GONE", "the fake service has ended", "gone")
            self._made = _client_on(here)
        try:
            return super().state(_local(job))
        except RunError:
            if _channel(start=False) is None:
                return State("GONE", "the fake service has ended", "gone")
            raise

    def cancel(self, job: Job) -> None:
        """Deletes the resource and its processes."""
        if self.state(job).word != "GONE":
            super().cancel(_local(job))

    def preempt(self, job: Job, worker: int | None) -> None:
        """Takes the machines away, beginning with one worker or with all, as a spot slice loses them.

        Raises:
          UserError: the job does not run.
        """
        from launch.backends.fake.service import PREEMPT

        here = _channel(start=False)
        if here is None:
            raise UserError(f"'{job.name}' does not run; submit it with --backend=fake")
        asked = {"name": f"{_local(job).parent}/queuedResources/{job.name}", "worker": worker}
        try:
            here.unary_unary(PREEMPT)(json.dumps(asked).encode(), timeout=self.call_seconds)
        except grpc.RpcError as error:
            said = str(cast(grpc.Call, error).details()).rpartition("/")[2]
            raise UserError(f"'{job.name}' cannot be pre-empted: {said}") from error


def client(*, start: bool) -> Any:
    """Returns Google's client on the service; raises `UserError` where none runs or is to be started."""
    here = _channel(start=start)
    if here is None:
        raise UserError("the fake service does not run; submit a job with --backend=fake")
    return _client_on(here)


def _channel(*, start: bool) -> grpc.Channel | None:
    from launch.backends.fake import daemon

    return daemon.channel(start=start)


def _client_on(channel: Any) -> Any:
    from google.cloud.tpu_v2 import TpuClient
    from google.cloud.tpu_v2.services.tpu.transports import TpuGrpcTransport

    return TpuClient(transport=TpuGrpcTransport(channel=channel))


def _local(job: Job) -> Job:
    """Returns the job as processes here run it: this interpreter, and CPU devices for the TPU's."""
    machine = job.machine
    devices = machine.target.replicas // machine.target.hosts
    words = list(job.arguments)
    for flag in ("--config.platform=cpu", f"--config.cpu_replicas={devices}"):
        name = flag.partition("=")[0]
        if not any(word.partition("=")[0] == name for word in words):
            words.append(flag)
    return replace(
        job,
        project=PROJECT,
        zone=ZONE,
        workdir=job.workdir if "://" in job.workdir else str(Path(job.workdir).absolute()),
        arguments=tuple(words),
        python=job.python if "/" in job.python else sys.executable,
    )
