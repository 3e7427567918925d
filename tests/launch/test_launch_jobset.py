"""The JobSet manifest against what its cluster demands: the CRD's structure, and the rules of its webhooks.

The schema below holds facts of kubernetes-sigs/jobset: what is the JobSet's own of the CRD, which is named
``jobset.x-k8s.io/v1alpha2``; the Job that it repeats from Kubernetes is for kubernetes-validate
(`test_launch_render`). It is the CRD of release 0.10, the first with `onJobFailureMessagePatterns`: up to
commit 08dfbdf fields and values were only added. Kubernetes drops unknown fields in silence; here they fail.
"""

import re
from dataclasses import replace

import pytest
import yaml

from efficientnet_pod.errors import UserError
from launch.backends.gke import Gke, manifest, require_names
from launch.job.job import Job

JOB = Job("run1", "gke", "v5e-256", "gs://b/run1", image="trainer:1", code="code.tar.gz")
VARIANTS = {
    "on demand": JOB,
    "spot and queued": replace(JOB, spot=True, queue="tpus"),
    "slices": replace(JOB, tpu="v6e-256", slices=4, service_account="sa@p.iam.gserviceaccount.com"),
    "one chip": replace(JOB, tpu="v5e-1"),
    "v3": replace(JOB, tpu="v3-1024"),
    "tpu7x": replace(JOB, tpu="tpu7x-64", max_restarts=0),
    "flex-start": replace(JOB, flex_hours=24, queue="dws"),
    "reservation": replace(JOB, reservation="ours"),
}
NAMES = {"type": list, "items": {"type": str}}
STRINGS = {"type": dict, "values": {"type": str}}
SCHEMA = {
    "type": dict,
    "required": ("apiVersion", "kind", "metadata", "spec"),
    "fields": {
        "apiVersion": {"type": str, "enum": ("jobset.x-k8s.io/v1alpha2",)},
        "kind": {"type": str, "enum": ("JobSet",)},
        "metadata": {
            "type": dict,
            "required": ("name",),
            "fields": {
                "name": {"type": str},
                "labels": STRINGS,
                "annotations": STRINGS,
                "namespace": {"type": str},
            },
        },
        "spec": {
            "type": dict,
            "fields": {
                "coordinator": {
                    "type": dict,
                    "required": ("replicatedJob",),
                    "fields": {
                        "jobIndex": {"type": int},
                        "podIndex": {"type": int},
                        "replicatedJob": {"type": str},
                    },
                },
                "failurePolicy": {
                    "type": dict,
                    "fields": {
                        "maxRestarts": {"type": int, "least": 0},
                        "restartStrategy": {"type": str, "enum": ("Recreate", "BlockingRecreate")},
                        "rules": {
                            "type": list,
                            "items": {
                                "type": dict,
                                "required": ("action", "name"),
                                "fields": {
                                    "action": {
                                        "type": str,
                                        "enum": (
                                            "FailJobSet",
                                            "RestartJobSet",
                                            "RestartJobSetAndIgnoreMaxRestarts",
                                        ),
                                    },
                                    "name": {
                                        "type": str,
                                        "pattern": r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
                                    },
                                    "onJobFailureReasons": {
                                        "type": list,
                                        "items": {
                                            "type": str,
                                            "enum": (
                                                "BackoffLimitExceeded",
                                                "DeadlineExceeded",
                                                "FailedIndexes",
                                                "MaxFailedIndexesExceeded",
                                                "PodFailurePolicy",
                                            ),
                                        },
                                    },
                                    "onJobFailureMessagePatterns": NAMES,
                                    "targetReplicatedJobs": NAMES,
                                },
                            },
                        },
                    },
                },
                "managedBy": {"type": str},
                "network": {
                    "type": dict,
                    "fields": {
                        "enableDNSHostnames": {"type": bool},
                        "publishNotReadyAddresses": {"type": bool},
                        "subdomain": {"type": str},
                    },
                },
                "replicatedJobs": {
                    "type": list,
                    "items": {
                        "type": dict,
                        "required": ("name", "template"),
                        "fields": {
                            "name": {"type": str},
                            "replicas": {"type": int},
                            "dependsOn": {"type": list},
                            "template": {
                                "type": dict,
                                "fields": {"metadata": {"type": dict}, "spec": {"type": dict}},
                            },
                        },
                    },
                },
                "startupPolicy": {
                    "type": dict,
                    "required": ("startupPolicyOrder",),
                    "fields": {"startupPolicyOrder": {"type": str, "enum": ("AnyOrder", "InOrder")}},
                },
                "successPolicy": {
                    "type": dict,
                    "required": ("operator",),
                    "fields": {
                        "operator": {"type": str, "enum": ("All", "Any")},
                        "targetReplicatedJobs": NAMES,
                    },
                },
                "suspend": {"type": bool},
                "ttlSecondsAfterFinished": {"type": int, "least": 0},
            },
        },
    },
}
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")
DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


def faults(value, schema, where="JobSet"):
    """Yields what of a document a structural schema refuses."""
    if type(value) is not schema["type"]:
        yield f"{where} is no {schema['type'].__name__}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where} is '{value}'"
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        yield f"{where} is '{value}'"
    if "least" in schema and value < schema["least"]:
        yield f"{where} is {value}"
    yield from (f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value)
    if "items" in schema:
        for number, item in enumerate(value):
            yield from faults(item, schema["items"], f"{where}[{number}]")
    if schema["type"] is dict and ("fields" in schema or "values" in schema):
        for name, item in value.items():
            inner = schema.get("values") or schema["fields"].get(name)
            yield from faults(item, inner, f"{where}.{name}") if inner else [f"{where}.{name} is unknown"]


def written(job):
    """Returns a JobSet as `render` writes it and the cluster reads it."""
    (document,) = Gke().render(job)
    return yaml.safe_load(document.text)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_manifest_has_the_structure_of_the_crd(name):
    job, jobset = VARIANTS[name], written(VARIANTS[name])
    assert list(faults(jobset, SCHEMA)) == []
    assert jobset == manifest(job)  # YAML changes nothing: no 'no' becomes False, no '1' a number
    (child,) = jobset["spec"]["replicatedJobs"]
    assert (child["replicas"], child["template"]["spec"]["completions"]) == (
        job.slices,
        job.machine.vms,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_the_manifest_obeys_the_webhooks(name):
    jobset = written(VARIANTS[name])
    (child,) = jobset["spec"]["replicatedJobs"]
    inner = child["template"]["spec"]
    last = f"{child['name']}-{child['replicas'] - 1}-{inner['completions'] - 1}"
    pod = f"{jobset['metadata']['name']}-{last}-abcde"
    assert DNS_LABEL.fullmatch(pod) and len(pod) <= 63
    # Kubernetes takes a failure policy of pods only where it does not start them again itself.
    assert inner["completionMode"] == "Indexed" and inner["template"]["spec"]["restartPolicy"] == "Never"
    names = [rule["name"] for rule in jobset["spec"]["failurePolicy"]["rules"]]
    assert len(set(names)) == len(names)
    for key, value in jobset["metadata"]["labels"].items():
        assert LABEL_VALUE.fullmatch(value) and len(value) <= 63, key
    # Kueue reads this label of the JobSet, and suspends it itself.
    queue = VARIANTS[name].queue
    assert jobset["metadata"]["labels"].get("kueue.x-k8s.io/queue-name", "") == queue
    assert "suspend" not in jobset["spec"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda spec: spec.update(sucessPolicy={}), "JobSet.spec.sucessPolicy is unknown"),
        (lambda spec: spec["failurePolicy"].update(maxRestarts="3"), "maxRestarts is no int"),
        (lambda spec: spec["failurePolicy"]["rules"][0].update(action="Fail"), "rules[0].action is 'Fail'"),
        (lambda spec: spec["failurePolicy"]["rules"][0].update(name="no-dash"), "rules[0].name is 'no-dash'"),
        (lambda spec: spec["replicatedJobs"][0].pop("template"), "replicatedJobs[0].template is missing"),
        (lambda spec: spec.update(suspend=1), "JobSet.spec.suspend is no bool"),
    ],
)
def test_the_check_finds_what_is_wrong(change, message):
    jobset = written(JOB)
    change(jobset["spec"])
    (fault,) = faults(jobset, SCHEMA)
    assert message in fault


def test_names_that_the_cluster_would_refuse_are_refused_before():
    fits = "a" * 46
    require_names(replace(JOB, name=fits, queue="team-a.tpus"))
    with pytest.raises(UserError) as refused:
        require_names(replace(JOB, name=fits + "bc"))
    assert str(refused.value) == (
        f"job name '{fits}bc' has 48 letters, and its pods are NAME-slice-0-63-abcde, of which 63 are "
        f"allowed: at most 46; try --name={fits}"
    )
    with pytest.raises(UserError, match="at most 44"):
        require_names(replace(JOB, name=fits, slices=11, tpu="v3-1024"))
    for queue in ("My_Queue", "a" * 64, "-tpus", "tpus."):
        with pytest.raises(
            UserError, match=f"^--queue={queue} names no queue of Kueue: .*kubectl get localq"
        ):
            require_names(replace(JOB, queue=queue))


# Failures of a Job as Kubernetes writes them; the index is that of the rule. Source: JobSet's KEP-262, story
# 5; Kubernetes, pkg/controller/job/pod_failure_policy.go.
FAILURES = {
    "preempted": ("PodFailurePolicy", "Pod default/x has condition DisruptionTarget matching FailJob rule at "
                  "index 0"),
    "mistake": ("PodFailurePolicy", "Container trainer for pod default/x failed with exit code 2 matching "
                "FailJob rule at index 1"),
    "exit code 21": ("PodFailurePolicy", "Container trainer for pod default/x failed with exit code 21 "
                     "matching FailJob rule at index 1"),
    "crash": ("BackoffLimitExceeded", "Job has reached the specified backoff limit"),
}  # fmt: skip


def action_for(jobset, reason, message):
    """Returns the action of the first rule that applies, as JobSet's controller finds it; None: a restart."""
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        applies = reason in rule.get("onJobFailureReasons", [reason])
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if applies and any(re.search(pattern, message) for pattern in patterns):
            return rule["action"]
    return None


@pytest.mark.parametrize(
    "failure, action",
    [
        ("preempted", "RestartJobSetAndIgnoreMaxRestarts"),
        ("mistake", "FailJobSet"),
        ("exit code 21", None),
        ("crash", None),
    ],
)
def test_a_preemption_uses_up_no_restart_and_a_mistake_ends_the_set(failure, action):
    assert action_for(written(JOB), *FAILURES[failure]) == action


def pod_of(job):
    (child,) = written(job)["spec"]["replicatedJobs"]
    return child["template"]["spec"]["template"]["spec"]


def test_pods_go_to_nodes_of_their_capacity_and_tolerate_the_taint_of_spot():
    labels = {name: set(pod_of(VARIANTS[name])["nodeSelector"].items()) for name in VARIANTS}
    spot, flex, ours = labels["spot and queued"], labels["flex-start"], labels["reservation"]
    assert spot - labels["on demand"] == {("cloud.google.com/gke-spot", "true")}
    assert flex - labels["on demand"] == {("cloud.google.com/gke-flex-start", "true")}
    assert ours - labels["on demand"] == {("cloud.google.com/reservation-name", "ours")}
    (toleration,) = pod_of(VARIANTS["spot and queued"])["tolerations"]
    taint = {"key": "cloud.google.com/gke-spot", "value": "true", "effect": "NoSchedule"}
    assert toleration == taint | {"operator": "Equal"} and "tolerations" not in pod_of(JOB)
    (toleration,) = pod_of(VARIANTS["flex-start"])["tolerations"]
    assert toleration["key"] == "cloud.google.com/gke-queued" and toleration["effect"] == "NoSchedule"
    annotations = written(VARIANTS["flex-start"])["metadata"]["annotations"]
    assert annotations["provreq.kueue.x-k8s.io/maxRunDurationSeconds"] == "86400"


def test_a_machine_of_tpu7x_has_a_container_for_each_memory_node():
    job = VARIANTS["tpu7x"]
    first, second = pod_of(job)["containers"]
    assert (first["name"], second["name"]) == ("trainer-1", "trainer-2")
    assert all(one["resources"]["limits"] == {"google.com/tpu": 2} for one in (first, second))
    assert "ports" in first and "ports" not in second  # one network, one coordinator
    (child,) = written(job)["spec"]["replicatedJobs"]
    assert child["template"]["spec"]["completions"] == 8 and "HOSTS='16'" in first["command"][2]
    assert [one["name"] for one in pod_of(JOB)["containers"]] == ["trainer"]
