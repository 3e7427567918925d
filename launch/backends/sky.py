"""Owns the back end ``sky``: a managed job of SkyPilot, which finds machines and recovers them."""

import tempfile
from pathlib import Path
from typing import Any

from launch.backends.backend import Document, State
from launch.backends.manifest import to_yaml
from launch.backends.tools import call, require_tool
from launch.job.job import Job
from launch.job.script import startup_script

_REMEDY = "it is a tool with an environment of its own: uv tool install 'skypilot[gcp]'"


class Sky:
    """Jobs as SkyPilot's managed jobs."""

    needs_bucket = True
    restarts = "SkyPilot finds new machines by itself (job_recovery)"

    def render(self, job: Job) -> list[Document]:
        """Returns the task; the start-up script is in it."""
        return [Document(f"SkyPilot task (sky jobs launch -n {job.name} TASK.yaml)", to_yaml(task(job)))]

    def check(self, job: Job) -> None:
        """Looks for the tool; the clouds are asked by its own checks."""
        require_tool("sky", _REMEDY)

    def submit(self, job: Job) -> int:
        """Launches the managed job and leaves it to SkyPilot."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "task.yaml"
            path.write_text(to_yaml(task(job)))
            call(["sky", "jobs", "launch", "--yes", "--detach-run", "--name", job.name, str(path)])
        return 0

    def state(self, job: Job) -> State:
        """Returns the line of the job in SkyPilot's queue."""
        listed = call(["sky", "jobs", "queue", "--refresh"]) or ""
        lines = [" ".join(line.split()) for line in listed.splitlines() if job.name in line.split()]
        if not lines:
            return State("GONE", "no such managed job", "gone")
        known = ("PENDING", "STARTING", "RUNNING", "RECOVERING", "SUCCEEDED", "CANCELLED", "FAILED")
        word = next((word for word in known if word in lines[0]), "unknown")
        return State(word, "", "running" if word in known[:4] else "gone")

    def cancel(self, job: Job) -> None:
        """Cancels the managed job; its machines go with it."""
        call(["sky", "jobs", "cancel", "--yes", "--name", job.name], missing=("No managed job", "not found"))


def task(job: Job) -> dict[str, Any]:
    """Returns a job as SkyPilot reads it."""
    resources: dict[str, Any] = {
        "infra": "gcp" if job.zone in ("", "ZONE") else f"gcp/{job.zone.rpartition('-')[0]}/{job.zone}",
        "accelerators": f"tpu-{job.machine.api_type}",
        "accelerator_args": {"runtime_version": job.runtime or job.machine.runtime, "tpu_vm": True},
        "use_spot": job.spot,
        # Exit code 42 says that all is saved. Another one is not tried again: 2 is a mistake of the user's.
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
