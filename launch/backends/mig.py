"""The backend ``mig``: managed instance groups of Compute Engine, the successor of queued resources.

A slice of several hosts is a group in bulk mode; a workload policy names its torus, and a template describes
its machines. All three are made with gcloud. This backend has not been run on the service yet. Source: Cloud
TPU documentation, "Create a MIG with multi-host TPU slice" and "Request TPU Spot VMs"; gcloud's reference; a
public account of such groups of v6e, 2026-07-20.
"""

import json
import shlex
import tempfile
from pathlib import Path

from efficientnet_pod.errors import RunError
from launch.backends.api_errors import name_taken
from launch.backends.backend import Document, State
from launch.backends.tools import call, require_tool
from launch.job.job import LABEL, Job
from launch.job.script import startup_script

_MISSING = ("was not found", "notFound")
_DISK = "200GB"  # for Python, its packages and the code, but not for a data set
# States of a machine, from the best to the worst; the worst one is the state of the group.
_PHASES = {
    "RUNNING": "running",
    **dict.fromkeys(("PENDING", "PROVISIONING", "STAGING", ""), "waiting"),  # "": none yet
    **dict.fromkeys(("REPAIRING", "SUSPENDED", "SUSPENDING", "STOPPED", "STOPPING", "TERMINATED"), "lost"),
}
# States of a group's torus, without which its running machines are no slice. ACTIVE is the only good one.
_TORUS_PHASES = {
    **dict.fromkeys(("ACTIVATING", "REACTIVATING", "INCOMPLETE"), "waiting"),
    **dict.fromkeys(("DEACTIVATING", "FAILED"), "lost"),
}
_HINTS = {
    "INTERNAL_ERROR": "of TPUs, this mostly means that the zone has no room: try later, or another --zone",
    "ZONE_RESOURCE_POOL_EXHAUSTED": "the zone has no room: try later, or another --zone or --capacity",
}


class Mig:
    """Jobs as managed instance groups of one slice each."""

    needs_bucket = True
    restarts = "watch"

    def render(self, job: Job) -> list[Document]:
        """Returns the commands in their order, and the start-up script that they refer to."""
        lines = [shlex.join(["gcloud", *words]) for words in creations(job, "startup.sh")]
        script = startup_script(job)
        return [Document("gcloud commands", "\n".join(lines)), Document("startup.sh", script)]

    def check(self, job: Job) -> None:
        """Checks that the name is free; the commands themselves find out what the zone offers."""
        require_tool("gcloud", "install the Google Cloud CLI, then run: gcloud auth login")
        if self.state(job).word != "GONE":
            raise name_taken(job, "an instance group")

    def require_offered(self, job: Job) -> None:
        """Checks nothing: the commands themselves find out what the zone offers."""

    def submit(self, job: Job) -> int:
        """Makes policy, template and group; after any failure deletes those that were made."""
        _delete(deletions(job)[1:])  # left over from a run that deleted its group itself
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "startup.sh"
            script.write_text(startup_script(job), "utf-8")
            commands, attempted = creations(job, str(script)), 0
            try:
                for words in commands:
                    attempted += 1
                    call(["gcloud", *words])
            except BaseException as error:
                made = min(attempted, len(deletions(job)))  # the last command may only make the group larger
                if "already exists" in str(error):  # and belongs to another job
                    made -= 1
                _delete(deletions(job)[len(deletions(job)) - made :])
                if hint := next((hint for word, hint in _HINTS.items() if word in str(error)), ""):
                    raise RunError(f"{error}; {hint}") from error
                raise
        return 0

    def state(self, job: Job) -> State:
        """Returns the state of the worst machine of the group, or of the torus once all machines run."""
        words = ["compute", "instance-groups", "managed", "list-instances", job.resource, *_place(job)]
        printed = call(["gcloud", *words, "--format=json"], missing=_MISSING)
        if printed is None:
            return State("GONE", "no such instance group", "gone")
        states = [machine.get("instanceStatus", "") for machine in json.loads(printed)] or [""]
        order = list(_PHASES)
        worst = max(states, key=lambda state: order.index(state) if state in order else len(order))
        detail = f"{states.count('RUNNING')} of {job.hosts} machines run"
        if worst == "RUNNING" and job.machine.vms > 1 and (torus := _torus(job)) in _TORUS_PHASES:
            return State(torus, f"{detail}; the torus is {torus}", _TORUS_PHASES[torus])
        return State(worst or "CREATING", detail, _PHASES.get(worst, "unknown"))

    def cancel(self, job: Job) -> None:
        """Deletes the group with its machines, then the template and the policy."""
        _delete(deletions(job))

    def own_log(self, job: Job, worker: int) -> str:
        """Returns gcloud's commands: for the names of the machines, and for what one of them has printed."""
        words = ["compute", "instance-groups", "managed", "list-instances", job.resource, *_place(job)]
        log = ["compute", "instances", "get-serial-port-output", "MACHINE", *_place(job)]
        return f"gcloud {shlex.join(words)}; then gcloud {shlex.join(log)}"


def creations(job: Job, script: str) -> list[list[str]]:
    """Returns gcloud's words that create a job, in order; `script` names the file of its start-up script."""
    machine = job.machine
    template = ["compute", "instance-templates", "create", _template(job), f"--project={job.project}"]
    template += [f"--instance-template-region={_region(job)}", f"--machine-type={machine.machine_type}"]
    template += [f"--image-family={job.runtime or machine.vm_image}"]
    template += ["--image-project=ubuntu-os-accelerator-images", f"--boot-disk-size={_DISK}"]
    template += ["--maintenance-policy=TERMINATE", "--scopes=cloud-platform", f"--labels=made-by={LABEL}"]
    template += [f"--metadata-from-file=startup-script={script}"]
    template += _capacity(job)
    if job.network:
        template += [f"--network={job.network}"]
    if job.service_account:
        template += [f"--service-account={job.service_account}"]
    in_region = f"projects/{job.project}/regions/{_region(job)}"
    group = ["compute", "instance-groups", "managed", "create", job.resource, *_place(job)]
    group += [
        f"--template={in_region}/instanceTemplates/{_template(job)}",
        f"--size={0 if job.flex_hours else machine.vms}",
    ]
    group += ["--default-action-on-vm-failure=do-nothing"]  # `watch` starts the whole slice again
    # A group of flex-start machines is made empty. Source: a public account of such groups, 2026-07-20.
    resize = ["compute", "instance-groups", "managed", "resize", job.resource, *_place(job)]
    grow = [[*resize, f"--size={machine.vms}"]] if job.flex_hours else []
    if machine.vms == 1:
        return [template, group, *grow]
    policy = ["compute", "resource-policies", "create", "workload-policy", _policy(job)]
    policy += [f"--project={job.project}", f"--region={_region(job)}", "--type=HIGH_THROUGHPUT"]
    policy += [f"--accelerator-topology={'x'.join(map(str, machine.target.grid))}"]
    group += ["--target-size-policy-mode=bulk"]
    group += [f"--workload-policy={in_region}/resourcePolicies/{_policy(job)}"]
    return [policy, template, group, *grow]


def deletions(job: Job) -> list[list[str]]:
    """Returns the words of gcloud that delete a job: the opposite of `creations`, in the opposite order."""
    commands = [["compute", "instance-groups", "managed", "delete", job.resource, *_place(job)]]
    project, region = f"--project={job.project}", f"--region={_region(job)}"
    commands += [["compute", "instance-templates", "delete", _template(job), project, region]]
    if job.machine.vms > 1:
        commands += [["compute", "resource-policies", "delete", _policy(job), project, region]]
    return commands


def _torus(job: Job) -> str:
    """Returns the state of the group's torus; empty: the service does not say."""
    words = ["compute", "instance-groups", "managed", "describe", job.resource, *_place(job)]
    printed = call(["gcloud", *words, "--format=json(status.appliedAcceleratorTopologies)"], missing=_MISSING)
    status = (json.loads(printed or "null") or {}).get("status") or {}
    return next((torus.get("state", "") for torus in status.get("appliedAcceleratorTopologies", [])), "")


def _capacity(job: Job) -> list[str]:
    """Returns the words of the template for this kind of capacity.

    Source: Cloud TPU documentation, "Request TPU Spot VMs", "Consume a reservation" (also of calendar mode);
    Compute Engine, "Create a MIG that uses the bulk mode".
    """
    if job.reservation:
        name = f"projects/{job.project}/reservations/{job.reservation}"
        words = ["--provisioning-model=RESERVATION_BOUND", "--instance-termination-action=DELETE"]
        return [*words, "--reservation-affinity=specific", f"--reservation={name}"]
    if job.flex_hours:
        words = ["--provisioning-model=FLEX_START", "--instance-termination-action=DELETE"]
        return [*words, f"--max-run-duration={job.flex_hours}h", "--reservation-affinity=none"]
    return ["--provisioning-model=SPOT", "--instance-termination-action=STOP"] if job.spot else []


def _delete(commands: list[list[str]]) -> None:
    for words in commands:
        call(["gcloud", *words, "--quiet"], missing=_MISSING)


def _place(job: Job) -> list[str]:
    return [f"--project={job.project}", f"--zone={job.zone}"]


def _region(job: Job) -> str:
    return job.zone.rpartition("-")[0] or "REGION"


def _template(job: Job) -> str:
    return f"{job.resource}-template"


def _policy(job: Job) -> str:
    return f"{job.resource}-topology"
