"""The backend ``gke``: a JobSet of Kubernetes with Kueue's labels, applied with kubectl."""

import json
import re
from typing import Any

from efficientnet_pod.errors import RunError, UserError
from launch.backends.api_errors import name_taken
from launch.backends.backend import Document, State
from launch.backends.tools import call, require_tool, to_yaml
from launch.job.job import LABEL, Job
from launch.job.script import startup_script

_REMEDY = "install it with: gcloud components install kubectl, and get the cluster's credentials"
_MISSING = ("NotFound", "not found")
_SET = "slice"  # name of the one replicated job
_MOST_LETTERS = 63  # of a name, or of a label's value, in Kubernetes
# Valid both as the name of a resource and as the value of a label.
_QUEUE = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
# The most that a pool of Spot machines can be made to give its pods. By default it gives 15 s, whatever a pod
# asks for. Source: GKE, "Spot VMs"; kubelet's shutdownGracePeriodSeconds.
_STOP_SECONDS = 120
_FAILURE_SECONDS = 45  # in which a preempted pod is marked, before the others report that they have lost it
_SPOT = "cloud.google.com/gke-spot"
_QUEUED = "cloud.google.com/gke-queued"
_FLEX_START = "cloud.google.com/gke-flex-start"
_PHASES = {"Completed": "gone", "Failed": "gone", "Suspended": "waiting", "Running": "running"}


class Gke:
    """Jobs as JobSets; Kueue admits those that name a queue."""

    needs_bucket = True
    restarts = "the JobSet starts its pods again (failurePolicy)"

    def render(self, job: Job) -> list[Document]:
        """Returns the manifest, which contains the start-up script."""
        return [Document("JobSet (kubectl apply -f -)", to_yaml(manifest(job)))]

    def check(self, job: Job) -> None:
        """Refuses a job without an image, with invalid names, or with a name that is in use."""
        if not job.image:
            raise UserError(
                "--image is missing: pods need a container with the trainer; make one: efficientnet-pod "
                "launch image build --tag=REGISTRY/trainer:1"
            )
        require_names(job)
        require_tool("kubectl", _REMEDY)
        if self.state(job).word != "GONE":
            raise name_taken(job)

    def submit(self, job: Job) -> int:
        """Creates the JobSet; after a failure deletes what is left of it."""
        try:
            call(["kubectl", "create", "-f", "-"], stdin=to_yaml(manifest(job)))
        except RunError as error:
            if "AlreadyExists" not in str(error):
                self.cancel(job)
            raise
        return 0

    def state(self, job: Job) -> State:
        """Returns the last condition of the JobSet that is true."""
        printed = call(["kubectl", "get", "jobset", job.name, "-o", "json"], missing=_MISSING)
        if printed is None:
            return State("GONE", "no such JobSet", "gone")
        status = json.loads(printed).get("status", {})
        conditions = status.get("conditions", [])
        words = [condition["type"] for condition in conditions if condition.get("status") == "True"]
        word = next((word for word in _PHASES if word in words), "Running")
        return State(word, f"{status.get('restarts', 0)} restarts", _PHASES.get(word, "unknown"))

    def cancel(self, job: Job) -> None:
        """Deletes the JobSet with its pods."""
        call(["kubectl", "delete", "jobset", job.name, "--ignore-not-found"], missing=_MISSING)

    def own_log(self, job: Job, worker: int) -> str:
        """Returns kubectl's command for the log of a pod."""
        index, pod = divmod(worker, job.machine.target.hosts)
        labels = f"jobset.sigs.k8s.io/jobset-name={job.name},jobset.sigs.k8s.io/job-index={index}"
        labels += f",batch.kubernetes.io/job-completion-index={pod}"
        return f"kubectl logs --selector={labels} --container=trainer --tail=-1"


def require_names(job: Job) -> None:
    """Checks that the cluster accepts the names of a job and of its queue.

    Source: JobSet's and Kueue's validating webhooks. JobSet refuses a set if the name of one of its pods is
    too long for a label.

    Raises:
      UserError: the cluster would refuse a name; the message has the rule and a valid name.
    """
    ending = f"-{_SET}-{job.slices - 1}-{job.machine.vms - 1}-abcde"
    room = _MOST_LETTERS - len(ending)
    if len(job.name) > room:
        raise UserError(
            f"job name '{job.name}' has {len(job.name)} letters, and its pods are NAME{ending}, of which "
            f"{_MOST_LETTERS} are allowed: at most {room}; try --name={job.name[:room].rstrip('-')}"
        )
    if job.queue and not (_QUEUE.fullmatch(job.queue) and len(job.queue) <= _MOST_LETTERS):
        raise UserError(
            f"--queue={job.queue} names no queue of Kueue: small letters, digits, '-' and '.', at most "
            f"{_MOST_LETTERS}; list them with: kubectl get localqueues"
        )


def manifest(job: Job) -> dict[str, Any]:
    """Returns the JobSet of a job: a child job for each slice, with a pod for each virtual machine.

    A preempted pod starts all pods again without using up the restarts, and a mistake of the user's (exit
    code 2) ends the set. Both fail their job by its `podFailurePolicy`; its message tells them apart. The
    job fails with its first pod, so pods that lose a preempted one wait before they fail too.
    Source: JobSet's KEP-262, story 5; the message patterns need JobSet 0.10.
    """
    vms = job.machine.vms
    labels = {"app.kubernetes.io/managed-by": LABEL}
    annotations = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    if job.queue:
        labels["kueue.x-k8s.io/queue-name"] = job.queue
    if job.flex_hours:  # Kueue gives it to the request for machines, which end then
        annotations["provreq.kueue.x-k8s.io/maxRunDurationSeconds"] = str(3600 * job.flex_hours)
    preempted = {"type": "DisruptionTarget", "status": "True"}
    child = {
        "parallelism": vms,
        "completions": vms,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": [preempted]},
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}},
            ]
        },
        "template": {"spec": _pod(job)},
    }
    rules = [
        _rule("preempted", "RestartJobSetAndIgnoreMaxRestarts", "has condition DisruptionTarget"),
        _rule("mistake", "FailJobSet", "failed with exit code 2 "),
    ]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": job.name,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {
            "failurePolicy": {"maxRestarts": job.max_restarts, "rules": rules},
            "replicatedJobs": [{"name": _SET, "replicas": job.slices, "template": {"spec": child}}],
        },
    }


def _rule(name: str, action: str, message: str) -> dict[str, Any]:
    """Returns a rule of the set's failure policy for jobs whose failure has this message."""
    return {
        "name": name,
        "action": action,
        "onJobFailureReasons": ["PodFailurePolicy"],
        "onJobFailureMessagePatterns": [message],
    }


def _pod(job: Job) -> dict[str, Any]:
    selector = {
        "cloud.google.com/gke-tpu-accelerator": job.machine.gke_accelerator,
        "cloud.google.com/gke-tpu-topology": job.machine.gke_topology,
    }
    selector |= _capacity(job)
    containers = [_container(job, f"trainer-{number}") for number in range(1, job.machine.containers + 1)]
    if len(containers) == 1:
        containers[0]["name"] = "trainer"
    containers[0]["ports"] = [{"containerPort": 8482}]  # of JAX's coordinator
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _STOP_SECONDS,
        "nodeSelector": selector,
        "containers": containers,
    }
    # Pools of Spot that GKE makes by itself have a taint, and those of flex-start with queued provisioning.
    if taint := _SPOT if job.spot else _QUEUED if job.flex_hours else "":
        pod["tolerations"] = [{"key": taint, "operator": "Equal", "value": "true", "effect": "NoSchedule"}]
    if job.service_account:
        pod["serviceAccountName"] = job.service_account
    return pod


def _container(job: Job, name: str) -> dict[str, Any]:
    chips = {"google.com/tpu": job.machine.chips_per_host}
    return {
        "name": name,
        "image": job.image or "IMAGE",
        "command": ["bash", "-c", startup_script(job, tear_down=False)],
        "env": [{"name": "FAILURE_SECONDS", "value": str(_FAILURE_SECONDS)}],
        # The device files of TPUs belong to root. Source: kubernetes/kubernetes issue 92211.
        "securityContext": {"runAsUser": 0},
        "resources": {"requests": dict(chips), "limits": dict(chips)},
    }


def _capacity(job: Job) -> dict[str, str]:
    """Returns the labels of the nodes that have this kind of capacity.

    Source: GKE, "Spot VMs", "About flex-start", "Consume reserved zonal resources"; xpk's ``capacity.py``.
    """
    if job.reservation:
        return {"cloud.google.com/reservation-name": job.reservation}
    if job.flex_hours:
        return {_FLEX_START: "true"}
    return {_SPOT: "true"} if job.spot else {}
