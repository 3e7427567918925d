"""The backend ``local``: the trainer's own rehearsal of a pod, in the foreground."""

import shlex
import sys

from etils import epath

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.rehearsal import rehearse
from efficientnet_pod.workdir.owner_record import holder_of
from launch.backends.backend import Document, State
from launch.job.job import Job

MOST_PROCESSES = 16
_ENDED = "it ran in the foreground"


class Local:
    """Jobs as processes of this machine, one for each host; they end with the command."""

    needs_bucket = False
    restarts = _ENDED

    def render(self, job: Job) -> list[Document]:
        """Returns the command of the rehearsal and the variables of its processes."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in _environment(job).items()]
        flags = [f"--processes={job.hosts}", f"--devices-per-process={job.machine.devices_per_host}"]
        lines += [shlex.join(["efficientnet-pod", "pod", *flags, "--", *_command(job)])]
        return [Document("commands on this machine", "\n".join(lines))]

    def check(self, job: Job) -> None:
        """Refuses a job with more processes than one machine can run well."""
        if job.hosts > MOST_PROCESSES:
            raise UserError(
                f"{job.tpu} has {job.hosts} hosts, and --backend=local runs at most {MOST_PROCESSES} "
                "processes; choose a smaller --tpu, e.g. --tpu=v4-16"
            )

    def submit(self, job: Job) -> int:
        """Runs the job and returns its exit code."""
        python = job.python if "/" in job.python else sys.executable
        return rehearse(
            [python, "-m", "efficientnet_pod", *_command(job)],
            processes=job.hosts,
            devices=job.machine.devices_per_host,
            environment=_environment(job),
        )

    def state(self, job: Job) -> State:
        """Returns whether the job runs: it ends with its command."""
        holder = holder_of(epath.Path(job.workdir))
        if holder and holder.lives:
            return State("RUNNING", "in the foreground of its own terminal", "running")
        return State("GONE", _ENDED, "gone")

    def cancel(self, job: Job) -> None:
        """Does nothing: the job ends with its command."""

    def own_log(self, job: Job, worker: int) -> str:
        """Returns that the log was printed."""
        return "the terminal of its submit, which printed it"


def _command(job: Job) -> list[str]:
    return ["train", *job.arguments, f"--workdir={job.workdir}"]


def _environment(job: Job) -> dict[str, str]:
    """Returns the variables that a worker would get from the start-up script."""
    return {"EFFICIENTNET_POD_COMMIT": job.commit, "PYTHONUNBUFFERED": "1"} | dict(job.env)
