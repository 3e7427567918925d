"""Owns the back end ``local``: the trainer's own rehearsal of a pod, in the foreground."""

import shlex
import sys
from pathlib import Path

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.rehearsal import rehearse
from launch.backends.backend import Document, State
from launch.job.job import Job

MOST_PROCESSES = 16


class Local:
    """Jobs as processes of this machine, one a host, that end with the command."""

    needs_bucket = False
    restarts = "it ran in the foreground"

    def render(self, job: Job) -> list[Document]:
        """Returns the command of each process and the variables it gets."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in environment(job).items()]
        lines += [shlex.join(["efficientnet-pod", "pod", *_pod_flags(job), "--", *command(job)])]
        return [Document("commands on this machine", "\n".join(lines))]

    def check(self, job: Job) -> None:
        """Refuses more processes than one machine is good for."""
        if job.hosts > MOST_PROCESSES:
            raise UserError(
                f"{job.tpu} has {job.hosts} hosts, and --backend=local runs at most {MOST_PROCESSES} "
                "processes; choose a smaller --tpu, e.g. --tpu=v4-16"
            )

    def submit(self, job: Job) -> int:
        """Runs the job and returns its exit code."""
        python = job.python if "/" in job.python else sys.executable
        return rehearse(
            [python, "-m", "efficientnet_pod", *command(job)],
            processes=job.hosts,
            devices=_devices(job),
            environment=environment(job),
        )

    def state(self, job: Job) -> State:
        """Returns that it is over."""
        return State("GONE", "it ran in the foreground", "gone")

    def cancel(self, job: Job) -> None:
        """Does nothing: the job ends with its command."""


def command(job: Job) -> list[str]:
    """Returns the trainer's words."""
    workdir = job.workdir if "://" in job.workdir else str(Path(job.workdir).absolute())
    return ["train", *job.arguments, f"--workdir={workdir}"]


def environment(job: Job) -> dict[str, str]:
    """Returns the variables that the start-up script gives a worker."""
    script_sets = {"EFFICIENTNET_POD_COMMIT": job.commit, "PYTHONUNBUFFERED": "1"}
    return script_sets | dict(job.env)


def _devices(job: Job) -> int:
    return job.machine.target.replicas // job.machine.target.hosts


def _pod_flags(job: Job) -> list[str]:
    return [f"--processes={job.hosts}", f"--devices-per-process={_devices(job)}"]
