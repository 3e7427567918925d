"""Instance groups: gcloud's words against what its reference demands, and a stub of it that answers."""

import json
import os
import re
from dataclasses import replace

import pytest
from launch_jobs import launch

from efficientnet_pod.errors import RunError, UserError
from launch.backends.mig import Mig, creations, deletions
from launch.job.job import Job
from launch.job.slices import known_slices

JOB = Job(
    "run1", "mig", "v6e-64", "gs://b/run1", ("--config=x",), project="p", zone="us-east5-b", code="c.tar.gz"
)
# Writes its words down and keeps the start-up script; fails, or answers, where its words match.
GCLOUD = """#!/bin/bash
echo "$*" >>"$CALLS"
for word in "$@"; do case "$word" in --metadata-from-file=*) cp "${word##*=}" "$CALLS.script" ;; esac; done
if [[ -n "${FAILS:-}" && "$*" == $FAILS ]]; then echo "ERROR: $SAYS" >&2; exit 1; fi
if [[ "$*" == *list-instances* ]]; then
  if [ -n "${MACHINES:-}" ]; then echo "$MACHINES"; else echo "ERROR: run1 was not found" >&2; exit 1; fi
fi
if [[ "$*" == *describe* ]]; then echo "${TORUS:-null}"; fi
"""


@pytest.fixture
def gcloud(tmp_path, monkeypatch):
    """Puts a stub on the path; returns what it was called with, without what is the same in all calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gcloud").write_text(GCLOUD)
    (folder / "gcloud").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))

    def calls():
        lines = (tmp_path / "calls").read_text().splitlines()
        (tmp_path / "calls").unlink()
        shown = re.compile(
            r"compute ((?:instance-groups managed|instance-templates|resource-policies)) (\S+)"
        )
        return [" ".join(shown.match(line).groups()) for line in lines]

    return calls


def test_a_slice_is_a_policy_a_template_and_a_group_in_bulk_mode():
    policy, template, group = creations(
        replace(JOB, spot=True, network="n", service_account="sa"), "startup.sh"
    )
    assert {"--type=HIGH_THROUGHPUT", "--accelerator-topology=8x8", "--region=us-east5"} <= set(policy)
    assert {
        "--machine-type=ct6e-standard-4t",
        "--image-family=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e",
        "--provisioning-model=SPOT",
        "--metadata-from-file=startup-script=startup.sh",
        "--network=n",
        "--service-account=sa",
    } <= set(template)
    assert {
        "--size=16",
        "--target-size-policy-mode=bulk",
        "--default-action-on-vm-failure=do-nothing",
        # A bare name is malformed.
        "--workload-policy=projects/p/regions/us-east5/resourcePolicies/run1-topology",
        "--template=projects/p/regions/us-east5/instanceTemplates/run1-template",
        "--zone=us-east5-b",
    } <= set(group)
    created = [
        next(word for word in words if word.startswith("run1")) for words in creations(JOB, "startup.sh")
    ]
    deleted = [next(word for word in words if word.startswith("run1")) for words in deletions(JOB)]
    assert created == ["run1-topology", "run1-template", "run1"] == deleted[::-1]
    template, group = creations(replace(JOB, tpu="v6e-4"), "startup.sh")  # of one machine: no torus to name
    assert "--machine-type=ct6e-standard-4t" in template and not any("policy" in word for word in group)
    assert "--provisioning-model=SPOT" not in template
    policy, template, group = creations(replace(JOB, tpu="v6e-8"), "startup.sh")
    assert "--machine-type=ct6e-standard-4t" in template and "--size=2" in group
    assert "--accelerator-topology=2x4" in policy and replace(JOB, tpu="v6e-8").hosts == 2


def test_flex_start_makes_an_empty_group_and_enlarges_it():
    _, template, group, resize = creations(replace(JOB, flex_hours=24), "startup.sh")
    assert {
        "--provisioning-model=FLEX_START",
        "--max-run-duration=24h",
        "--instance-termination-action=DELETE",
    } <= set(template)
    assert "--size=0" in group and "resize" in resize and resize[-1] == "--size=16"
    template, group, resize = creations(replace(JOB, tpu="v6e-4", flex_hours=1), "startup.sh")
    assert "--size=0" in group and resize[-1] == "--size=1"


def test_a_reservation_is_named_in_the_template():
    _, template, group = creations(replace(JOB, reservation="ours"), "startup.sh")
    assert {
        "--provisioning-model=RESERVATION_BOUND",
        "--reservation-affinity=specific",
        "--reservation=projects/p/reservations/ours",
        "--instance-termination-action=DELETE",
    } <= set(template)
    assert "--size=16" in group


def test_which_machines_there_are_groups_of():
    served = {machine.target.chip.name for machine in known_slices() if "mig" in machine.backends}
    assert served == {"v5p", "v6e", "tpu7x"}
    types = {machine.on("mig").machine_type for machine in known_slices() if "mig" in machine.backends}
    assert types == {
        "ct5p-hightpu-4t",
        "ct6e-standard-1t",
        "ct6e-standard-4t",
        "tpu7x-standard-4t",
    }


def test_submit_makes_and_cancel_deletes_in_the_other_order(gcloud, tmp_path):
    mig = Mig()
    mig.check(JOB)
    assert mig.submit(JOB) == 0
    assert gcloud() == [
        "instance-groups managed list-instances",
        "instance-templates delete",  # left over from a run that freed its machines itself
        "resource-policies delete",
        "resource-policies create",
        "instance-templates create",
        "instance-groups managed create",
    ]
    assert "NAME='run1'" in (tmp_path / "calls.script").read_text()
    mig.cancel(JOB)
    deleted = ["instance-groups managed delete", "instance-templates delete", "resource-policies delete"]
    assert gcloud() == deleted


@pytest.mark.parametrize(
    "fails, says, deleted",
    [
        (
            "*instance-groups*create*",
            "Quota exceeded",
            ["instance-groups managed", "instance-templates", "resource"],
        ),
        ("*instance-groups*create*", "run1 already exists", ["instance-templates", "resource"]),
        ("*workload-policy*", "no permission", ["resource"]),
        ("*resize*", "INTERNAL_ERROR", ["instance-groups managed", "instance-templates", "resource"]),
    ],
)
def test_a_failure_leaves_nothing_and_takes_nothing_of_others(gcloud, monkeypatch, fails, says, deleted):
    monkeypatch.setenv("FAILS", fails)
    monkeypatch.setenv("SAYS", says)
    hint = "; of TPUs, this mostly means that the zone has no room: .*" if says == "INTERNAL_ERROR" else ""
    with pytest.raises(RunError, match=f"^gcloud compute .* failed with exit code 1: ERROR: {says}{hint}$"):
        Mig().submit(replace(JOB, flex_hours=24))
    after = gcloud()[2:]
    after = after[next(n for n, words in enumerate(after) if "delete" in words) :]
    assert len(after) == len(deleted)
    assert all(words.startswith(kind) for words, kind in zip(after, deleted, strict=True))


@pytest.mark.parametrize(
    "words, word, phase",
    [
        ([], "CREATING", "waiting"),
        (["", "RUNNING"], "CREATING", "waiting"),
        (["RUNNING", "STAGING"], "STAGING", "waiting"),
        (["RUNNING", "RUNNING"], "RUNNING", "running"),
        (["RUNNING", "TERMINATED"], "TERMINATED", "lost"),
        (["RUNNING", "STOPPING", "STAGING"], "STOPPING", "lost"),
        (["NEW_WORD", "RUNNING"], "NEW_WORD", "unknown"),
    ],
)
def test_a_group_is_what_its_worst_machine_is(gcloud, monkeypatch, words, word, phase):
    machines = [{"instanceStatus": state} if state else {"currentAction": "CREATING"} for state in words]
    monkeypatch.setenv("MACHINES", json.dumps(machines))
    state = Mig().state(JOB)
    assert (state.word, state.phase) == (word, phase)
    assert state.detail == f"{words.count('RUNNING')} of 16 machines run"
    with pytest.raises(
        UserError, match="there is an instance group 'run1' in us-east5-b already; choose anoth"
    ):
        Mig().check(JOB)


@pytest.mark.parametrize(
    "torus, word, phase",
    [
        ("ACTIVE", "RUNNING", "running"),
        ("ACTIVATING", "ACTIVATING", "waiting"),
        ("INCOMPLETE", "INCOMPLETE", "waiting"),
        ("FAILED", "FAILED", "lost"),
        ("", "RUNNING", "running"),  # a service that does not say
    ],
)
def test_machines_that_run_are_a_slice_once_the_torus_is_active(gcloud, monkeypatch, torus, word, phase):
    monkeypatch.setenv("MACHINES", json.dumps([{"instanceStatus": "RUNNING"}] * 16))
    topology = {"acceleratorTopology": "8x8", "state": torus}
    monkeypatch.setenv("TORUS", json.dumps({"status": {"appliedAcceleratorTopologies": [topology]}}))
    state = Mig().state(JOB)
    assert (state.word, state.phase) == (word, phase) and "16 of 16 machines run" in state.detail


def test_a_group_that_is_gone_and_a_tool_that_is_missing(gcloud, monkeypatch):
    assert Mig().state(JOB).word == "GONE"
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        UserError, match="calls gcloud, which is not on the path; install the Google Cloud CLI"
    ):
        Mig().check(JOB)


def test_what_has_no_groups_is_refused_with_what_serves_it(capsys):
    flags = ["--backend=mig", "--tpu=v3-32", "--workdir=gs://b/run1", "--", "--config=configs/digits.py"]
    code, _, errors = launch(capsys, "render", *flags)
    assert code == 2 and "--backend=mig does not serve v3-32; choose --backend=qr" in errors
