"""The backend ``sky``: managed jobs of SkyPilot, which finds machines and replaces lost ones."""

import tempfile
from pathlib import Path
from typing import Any

from launch.backends.backend import Document, State
from launch.backends.tools import call, require_tool, to_yaml
from launch.job.job import Job
from launch.job.script import startup_script

_RUNNING = ("PENDING", "STARTING", "RUNNING", "RECOVERING")
_ENDED = ("SUCCEEDED", "CANCELLED", "FAILED")


class Sky:
    """Jobs as SkyPilot's managed jobs."""

    needs_bucket = True
    restarts = "SkyPilot finds new machines by itself (job_recovery)"

    def render(self, job: Job) -> list[Document]:
        """Returns the task, which contains the start-up script."""
        return [Document(f"SkyPilot task (sky jobs launch -n {job.name} TASK.yaml)", to_yaml(task(job)))]

    def check(self, job: Job) -> None:
        """Checks that the tool is installed; it checks the clouds itself."""
        require_tool("sky", "it is a tool with an environment of its own: uv tool install 'skypilot[gcp]'")

    def submit(self, job: Job) -> int:
        """Launches the managed job; SkyPilot looks after it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "task.yaml"
            path.write_text(to_yaml(task(job)), "utf-8")
            call(["sky", "jobs", "launch", "--yes", "--detach-run", "--name", job.name, str(path)])
        return 0

    def state(self, job: Job) -> State:
        """Returns the line of the job in SkyPilot's queue."""
        queue = call(["sky", "jobs", "queue", "--refresh"]) or ""
        line = next((line for line in queue.splitlines() if job.name in line.split()), None)
        if line is None:
            return State("GONE", "no such managed job", "gone")
        word = next((word for word in (*_RUNNING, *_ENDED) if word in line), "unknown")
        return State(word, "", "running" if word in _RUNNING else "gone")

    def cancel(self, job: Job) -> None:
        """Cancels the managed job; its machines go with it."""
        call(["sky", "jobs", "cancel", "--yes", "--name", job.name], missing=("No managed job", "not found"))

    def own_log(self, job: Job, worker: int) -> str:
        """Returns SkyPilot's command for the log of a job."""
        return f"sky jobs logs --name {job.name}"


def task(job: Job) -> dict[str, Any]:
    """Returns the description of a job that SkyPilot reads."""
    resources: dict[str, Any] = {
        "infra": f"gcp/{job.zone.rpartition('-')[0]}/{job.zone}" if job.given_zone else "gcp",
        "accelerators": f"tpu-{job.machine.api_type}",
        "accelerator_args": {
            "runtime_version": job.runtime or job.machine.runtime,
            "tpu_vm": True,
            "gcp_queued_resource": True,  # waits for capacity where direct creation finds none
        },
        "use_spot": job.spot,
        # Exit code 42 means that everything is saved. After any other one the job is not started again.
        "job_recovery": {
            "strategy": "EAGER_NEXT_REGION",
            "max_restarts_on_errors": 0,
            "recover_on_exit_codes": [42],
        },
    }
    return {
        "name": job.name,
        "num_nodes": job.slices,
        "resources": resources,
        "run": startup_script(job, tear_down=False),
    }
