"""Owns the back end ``mig``: a managed instance group of Compute Engine, which follows queued resources.

A slice of several hosts is a group in bulk mode, whose workload policy names the torus; its machines come
from a template. All three are made with gcloud. Source: Cloud TPU documentation, "Create a MIG with
multi-host TPU slice" and "Request TPU Spot VMs"; gcloud's reference. It has not been run on the service yet.
"""

import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

from launch.backends.api_errors import name_taken
from launch.backends.backend import Document, State
from launch.backends.tools import call, require_tool
from launch.job.job import LABEL, Job
from launch.job.script import startup_script

_REMEDY = "install the Google Cloud CLI, then run: gcloud auth login"
_MISSING = ("was not found", "notFound")
_DISK = "200GB"  # Python, its packages and the code; the images of a run come from elsewhere
# Of a machine, from the best to the worst: the group is what its worst one is.
_PHASES = {
    "RUNNING": "running",
    "PENDING": "waiting",
    "PROVISIONING": "waiting",
    "STAGING": "waiting",
    "": "waiting",  # none yet
    "REPAIRING": "lost",
    "SUSPENDED": "lost",
    "SUSPENDING": "lost",
    "STOPPED": "lost",
    "STOPPING": "lost",
    "TERMINATED": "lost",
}


class Mig:
    """Jobs as managed instance groups of one slice each."""

    needs_bucket = True
    restarts = "watch"

    def render(self, job: Job) -> list[Document]:
        """Returns the commands in their order, and the start-up script they hand over."""
        lines = [shlex.join(["gcloud", *words]) for words in creations(job, "startup.sh")]
        return [
            Document("gcloud commands", "\n".join(lines)),
            Document("startup.sh", startup_script(job)),
        ]

    def check(self, job: Job) -> None:
        """Asks whether the name is free; what is offered in the zone the commands find out."""
        require_tool("gcloud", _REMEDY)
        if self.state(job).word != "GONE":
            raise name_taken(job, "an instance group")

    def submit(self, job: Job) -> int:
        """Makes policy, template and group; on any failure deletes what has come of them."""
        _delete(deletions(job)[1:])  # what a run that freed its machines itself has left
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "startup.sh"
            script.write_text(startup_script(job))
            commands, made = creations(job, str(script)), 0
            try:
                for words in commands:
                    call(["gcloud", *words])
                    made += 1
            except BaseException as error:
                made += "already exists" not in str(error)  # the one that failed may be there, unless it was
                _delete(deletions(job)[len(commands) - made :])
                raise
        return 0

    def state(self, job: Job) -> State:
        """Returns the state of the worst machine of the group."""
        asked = ["compute", "instance-groups", "managed", "list-instances", job.name, *_where(job)]
        found = call(["gcloud", *asked, "--format=json"], missing=_MISSING)
        if found is None:
            return State("GONE", "no such instance group", "gone")
        machines: list[dict[str, Any]] = json.loads(found)
        words = [each.get("instanceStatus", "") for each in machines] or [""]
        known = list(_PHASES)
        word = max(words, key=lambda each: known.index(each) if each in known else len(known))
        running = words.count("RUNNING")
        return State(
            word or "CREATING", f"{running} of {job.hosts} machines run", _PHASES.get(word, "unknown")
        )

    def cancel(self, job: Job) -> None:
        """Deletes the group with its machines, then the template and the policy."""
        _delete(deletions(job))


def creations(job: Job, script: str) -> list[list[str]]:
    """Returns gcloud's words for all that a job is made of, in the order they must be made in.

    Args:
      job: of one slice.
      script: file with its start-up script.
    """
    machine = job.machine
    template = ["compute", "instance-templates", "create", _template(job), f"--project={job.project}"]
    template += [f"--instance-template-region={_region(job)}", f"--machine-type={machine.machine_type}"]
    template += [f"--image-family={job.runtime or machine.vm_image}"]
    template += ["--image-project=ubuntu-os-accelerator-images", f"--boot-disk-size={_DISK}"]
    template += ["--maintenance-policy=TERMINATE", "--scopes=cloud-platform", f"--labels=made-by={LABEL}"]
    template += [f"--metadata-from-file=startup-script={script}"]
    if job.spot:
        template += ["--provisioning-model=SPOT", "--instance-termination-action=STOP"]
    if job.network:
        template += [f"--network={job.network}"]
    if job.service_account:
        template += [f"--service-account={job.service_account}"]
    in_region = f"projects/{job.project}/regions/{_region(job)}"
    group = ["compute", "instance-groups", "managed", "create", job.name, *_where(job)]
    group += [f"--template={in_region}/instanceTemplates/{_template(job)}", f"--size={machine.target.hosts}"]
    group += ["--default-action-on-vm-failure=do-nothing"]  # a slice is made again whole, by `watch`
    if machine.target.hosts == 1:
        return [template, group]
    policy = ["compute", "resource-policies", "create", "workload-policy", _policy(job)]
    policy += [f"--project={job.project}", f"--region={_region(job)}", "--type=HIGH_THROUGHPUT"]
    policy += [f"--accelerator-topology={'x'.join(map(str, machine.target.grid))}"]
    group += [
        "--target-size-policy-mode=bulk",
        f"--workload-policy={in_region}/resourcePolicies/{_policy(job)}",
    ]
    return [policy, template, group]


def deletions(job: Job) -> list[list[str]]:
    """Returns gcloud's words that delete all of a job: `creations` from the last to the first."""
    found = [["compute", "instance-groups", "managed", "delete", job.name, *_where(job)]]
    project, region = f"--project={job.project}", f"--region={_region(job)}"
    found += [["compute", "instance-templates", "delete", _template(job), project, region]]
    if job.machine.target.hosts > 1:
        found += [["compute", "resource-policies", "delete", _policy(job), project, region]]
    return found


def _delete(commands: list[list[str]]) -> None:
    for words in commands:
        call(["gcloud", *words, "--quiet"], missing=_MISSING)


def _where(job: Job) -> list[str]:
    return [f"--project={job.project}", f"--zone={job.zone}"]


def _region(job: Job) -> str:
    return job.zone.rpartition("-")[0] or "REGION"


def _template(job: Job) -> str:
    return f"{job.name}-template"


def _policy(job: Job) -> str:
    return f"{job.name}-topology"
