"""The start-up script of a job: ``startup.sh`` with the job's values set above it."""

from pathlib import Path

from launch.job.job import Job

_SCRIPT = Path(__file__).with_name("startup.sh")


def startup_script(job: Job, *, extras: str = "tpu,gcs", tear_down: bool = True) -> str:
    """Returns the script that each worker of a job runs, under bash.

    With `tear_down`, worker 0 deletes the machines at the end, unless the job keeps them.
    """
    resource = "instance-groups managed" if job.backend == "mig" else "tpus queued-resources"
    values = {
        "NAME": job.resource,
        "WORKDIR": job.workdir.rstrip("/"),
        "FOLDER": job.folder,
        "CODE": job.code,
        "SHA256": job.sha256,
        "COMMIT": job.commit,
        "HOSTS": str(job.hosts),
        "SLICES": str(job.slices),
        "ATTEMPT": str(job.attempt),
        "HELD": "yes" if job.held else "",
        "PYTHON": job.python,
        "EXTRAS": extras,
        "TEAR_DOWN": resource if tear_down and not job.keep else "",
        "PROJECT": job.project,
        "ZONE": job.zone,
    }
    lines = [f"{name}={_quoted(value)}" for name, value in values.items()]
    lines += [f"ARGUMENTS=({' '.join(map(_quoted, job.arguments))})"]
    lines += [f"export {name}={_quoted(value)}" for name, value in job.env]
    first, _, rest = _SCRIPT.read_text("utf-8").partition("\n")
    no_expansion = "# shellcheck disable=SC2016 # words of the job, in which a dollar is a dollar"
    return "\n".join([first, no_expansion, *lines, rest])


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"
