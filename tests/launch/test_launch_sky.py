"""SkyPilot's tasks: against the keys that one release knows, and by SkyPilot itself where it is installed.

SkyPilot is a tool with an environment of its own, never a dependency of this project. It is asked where its
interpreter is named: ``SKY_PYTHON=…/bin/python pytest tests/launch/test_launch_sky.py``.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from launch.backends.sky import Sky, task
from launch.job.job import Job

JOB = Job(
    "run1",
    "sky",
    "v6e-64",
    "gs://b/run1",
    ("--config=x",),
    zone="us-east5-b",
    project="p",
    code="code.tar.gz",
)
VARIANTS = {
    "spot": replace(JOB, spot=True),
    "on demand": JOB,
    "one host": replace(JOB, tpu="v3-8"),
    "a pod": replace(JOB, tpu="v3-1024", zone="europe-west4-a", spot=True),
    "v2": replace(JOB, tpu="v2-8", zone="us-central1-b"),
    "v4": replace(JOB, tpu="v4-16", zone="us-central2-b"),
    "v5e": replace(JOB, tpu="v5e-16"),
    "v5p": replace(JOB, tpu="v5p-128"),
    "anywhere": replace(JOB, zone="", spot=True),
    "another image": replace(JOB, runtime="tpu-vm-base"),
}
# What `sky.utils.schemas` of SkyPilot 0.14.1 calls a key of a task, and the kinds and bounds of values. These
# are facts about that release, of which the test below asks the release itself.
TASK = (
    "api_server_access config envs event_callback file_mounts inputs managed_secrets name num_nodes outputs "
    "pool resources run secrets service setup volume_mounts volumes workdir"
).split()
RESOURCES = (
    "accelerator_args accelerators any_of autostop cloud cpus disk_size disk_tier ephemeral_storage image_id "
    "infra instance_type job_recovery labels local_disk max_hourly_cost memory network_tier ordered ports "
    "priority priority_class region use_spot volumes zone"
).split()
ACCELERATOR_ARGS = ("runtime_version", "tpu_name", "tpu_vm", "gcp_queued_resource")
# A dictionary of its own: unknown keys in it pass the schema, and a mistyped one would be lost in silence.
JOB_RECOVERY = ("strategy", "max_restarts_on_errors", "recover_on_exit_codes")
STRATEGIES = ("FAILOVER", "EAGER_NEXT_REGION")
INFRA = re.compile(r"gcp(/(?P<region>[a-z]+-[a-z]+[0-9]+)(/(?P<zone>[a-z]+-[a-z]+[0-9]+-[a-z]))?)?")

ASK = """
import json, sys
import sky
from sky.utils import registry, schemas

whole, resources = schemas.get_task_schema(), schemas.get_resources_schema()
known = {
    "task": list(whole["properties"]), "resources": list(resources["properties"]),
    "accelerator_args": list(resources["properties"]["accelerator_args"]["properties"]),
    "strategies": list(registry.JOBS_RECOVERY_STRATEGY_REGISTRY.keys()),
}
parsed = []
for path in sys.argv[2:]:
    try:
        task = sky.Task.from_yaml(path)
        (wanted,) = task.resources
        parsed.append({
            "name": task.name, "nodes": task.num_nodes, "run": task.run, "accelerators": wanted.accelerators,
            "arguments": wanted.accelerator_args, "spot": wanted.use_spot, "region": wanted.region,
            "zone": wanted.zone, "recovery": wanted.job_recovery,
        })
    except Exception as error:
        parsed.append({"refused": " ".join(str(error).split())})
json.dump({"version": sky.__version__, "known": known, "parsed": parsed}, open(sys.argv[1], "w"))
"""


def written(job):
    """Returns a task as `render` writes it and SkyPilot reads it."""
    (document,) = Sky().render(job)
    return yaml.safe_load(document.text)


@pytest.mark.parametrize("name", VARIANTS)
def test_tasks_hold_what_skypilot_knows(name):
    job, document = VARIANTS[name], written(VARIANTS[name])
    resources = document["resources"]
    assert set(document) <= set(TASK) and set(resources) <= set(RESOURCES)
    assert set(resources["accelerator_args"]) <= set(ACCELERATOR_ARGS)
    recovery = resources["job_recovery"]
    assert set(recovery) == set(JOB_RECOVERY) and recovery["strategy"] in STRATEGIES
    codes = recovery["recover_on_exit_codes"]
    assert len(set(codes)) == len(codes) and all(type(code) is int and 0 <= code <= 255 for code in codes)
    assert type(recovery["max_restarts_on_errors"]) is int and recovery["max_restarts_on_errors"] >= 0
    # SkyPilot counts slices, not hosts.
    assert document["num_nodes"] == 1 and type(resources["use_spot"]) is bool
    place = INFRA.fullmatch(resources["infra"])
    assert (
        place
        and (place["zone"] or "") == job.zone
        and (place["zone"] or "").startswith(place["region"] or "")
    )


@pytest.fixture(scope="module")
def sky_python():
    """Returns an interpreter that has SkyPilot."""
    named = os.environ.get("SKY_PYTHON")
    if not named and importlib.util.find_spec("sky") is None:
        pytest.skip("needs SkyPilot: SKY_PYTHON names an interpreter that has it")
    return named or sys.executable


def asked(sky_python, tasks, folder):
    """Returns what SkyPilot makes of tasks, and what its schema knows."""
    paths = []
    for number, text in enumerate(tasks):
        paths.append(folder / f"{number}.yaml")
        paths[-1].write_text(text)
    variables = os.environ | {"HOME": str(folder), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    variables.pop("PYTHONPATH", None)
    command = [sky_python, "-c", ASK, str(folder / "answer.json"), *map(str, paths)]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return json.loads((folder / "answer.json").read_text())


def test_skypilot_reads_every_task_as_it_is_meant(sky_python, tmp_path):
    tasks = [Sky().render(job)[0].text for job in VARIANTS.values()]
    answer = asked(sky_python, tasks, tmp_path)
    for (name, job), parsed in zip(VARIANTS.items(), answer["parsed"], strict=True):
        assert "refused" not in parsed, (name, parsed)
        meant = task(job)
        assert (parsed["name"], parsed["nodes"], parsed["run"]) == (job.name, 1, meant["run"])
        assert parsed["accelerators"] == {f"tpu-{job.machine.api_type}": 1}
        assert parsed["arguments"] == meant["resources"]["accelerator_args"]
        assert (parsed["spot"], parsed["zone"] or "") == (job.spot, job.zone)
        assert parsed["recovery"] == meant["resources"]["job_recovery"]
    known = answer["known"]
    assert set(TASK) <= set(known["task"]) and set(RESOURCES) <= set(known["resources"]), answer["version"]
    assert set(ACCELERATOR_ARGS) == set(known["accelerator_args"])
    assert {word.lower() for word in STRATEGIES} <= {word.lower() for word in known["strategies"]}


def test_skypilot_refuses_what_these_tests_refuse(sky_python, tmp_path):
    wrong = []
    for change in ({"numnodes": 1}, {"resources": {"accelerator_arg": {}}}, {"num_nodes": "two"}):
        wrong.append(yaml.safe_dump({"run": "true"} | change))
    answer = asked(sky_python, wrong, tmp_path)
    assert all("refused" in parsed for parsed in answer["parsed"]), answer["parsed"]
