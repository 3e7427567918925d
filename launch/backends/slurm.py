"""The backend ``slurm``: a batch script for clusters of GPUs, with one process on each host."""

import re

from efficientnet_pod.errors import RunError, UserError
from launch.backends.backend import Document, State
from launch.backends.tools import call, require_tool
from launch.job.job import Job
from launch.job.script import startup_script

_PHASES = {"PENDING": "waiting", "CONFIGURING": "waiting", "RUNNING": "running", "COMPLETING": "running"}
_STOP_SECONDS = 300  # before the time limit, to write a checkpoint


class Slurm:
    """Jobs as batch jobs; all hosts share the file system of the workdir."""

    needs_bucket = False
    restarts = "the script puts itself into the queue again (scontrol requeue)"

    def render(self, job: Job) -> list[Document]:
        """Returns the batch script."""
        return [Document("batch script (sbatch)", batch_script(job))]

    def check(self, job: Job) -> None:
        """Checks that the tool is installed."""
        require_tool("sbatch", "submit from a login node of the cluster")

    def submit(self, job: Job) -> int:
        """Gives the script to sbatch, through its standard input."""
        printed = call(["sbatch", "--parsable"], stdin=batch_script(job)) or ""
        if not re.match(r"\d+", printed):
            raise RunError(f"sbatch gave no job number but: {printed.strip()[:200]}")
        return 0

    def state(self, job: Job) -> State:
        """Returns the state of the newest job of that name in the queue."""
        queue = call(["squeue", "--noheader", "--me", f"--name={job.name}", "--format=%T %R"]) or ""
        if not queue.strip():
            return State("GONE", "not in the queue", "gone")
        word, _, detail = queue.strip().splitlines()[-1].partition(" ")
        return State(word, detail, _PHASES.get(word, "unknown"))

    def cancel(self, job: Job) -> None:
        """Cancels all jobs of this name."""
        call(["scancel", "--me", f"--name={job.name}"])

    def own_log(self, job: Job, worker: int) -> str:
        """Returns the command for the file that sbatch writes."""
        return f"cat {job.folder}/slurm-*.log"


def batch_script(job: Job) -> str:
    """Returns the script: options of sbatch, then the start-up script for every host.

    Raises:
      UserError: sbatch would read another path than that of the workdir.
    """
    if not re.fullmatch(r"[\w./+=,:@~-]+", job.folder):  # % and \ are patterns, spaces and quotes end it
        raise UserError(
            f"--workdir={job.workdir} has characters that sbatch does not take as they are; use letters, "
            "digits and . _ - + = , : @ with --backend=slurm"
        )
    per_host = job.machine.chips_per_host
    options = {
        "job-name": job.name,
        "nodes": job.hosts,
        "ntasks-per-node": 1,
        "gpus-per-node": per_host,
        "output": f"{job.folder}/slurm-%j.log",
        "signal": f"TERM@{_STOP_SECONDS}",
        "open-mode": "append",
    }
    if job.queue:
        options["partition"] = job.queue
    lines = ["#!/bin/bash", *(f"#SBATCH --{name}={value}" for name, value in options.items())]
    lines += ["#SBATCH --requeue", "set -uo pipefail", ""]
    # Under SLURM, JAX gives each process one GPU; here a process uses all GPUs of its host.
    lines += [f"export JAX_LOCAL_DEVICE_IDS={','.join(map(str, range(per_host)))}"]
    lines += ["read -r -d '' STARTUP <<'END_OF_STARTUP_SCRIPT' || true"]
    lines += [startup_script(job, extras="cuda", tear_down=False).rstrip(), "END_OF_STARTUP_SCRIPT", ""]
    lines += ['srun bash -c "$STARTUP"', "code=$?"]
    lines += ["# 42: all is saved, and the same job goes on when there is room again."]
    lines += ['if [ "$code" = 42 ]; then exec scontrol requeue "$SLURM_JOB_ID"; fi', 'exit "$code"']
    return "\n".join(lines) + "\n"
