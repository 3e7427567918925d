"""Owns the flags that describe a job, and its checks that need nothing but the command and this machine."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from absl import flags

from efficientnet_pod.cli.flags import parse_flags
from efficientnet_pod.errors import UserError, did_you_mean
from launch.backends.backend import NAMES, Backend, backend_named
from launch.job.job import Job, name_of_workdir, require_name, require_no_secrets
from launch.job.slices import parse_slice, require_served
from launch.workdir.storage import require_path

PROGRAM = "python -m launch"
EXAMPLE = (
    "python -m launch submit --backend=qr --tpu=v3-1024 --spot --workdir=gs://b/run1 -- "
    "--config=configs/supercomputer.py:b5,65536"
)
_FLAGS: tuple[tuple[str, str, Any, str], ...] = (
    ("string", "backend", None, f"Engine: {', '.join(NAMES)}."),
    ("string", "tpu", None, "Machine: v3-1024, v5e-256, v3:16x32 (chips); cuda:h100x16 for slurm."),
    ("string", "name", None, "Of the job; by default the last part of its workdir."),
    ("string", "workdir", None, "Of the run: gs://BUCKET/RUN; the same workdir resumes."),
    ("bool", "spot", False, "Machines that may be taken away, at a lower price."),
    ("string", "project", None, "Of Google Cloud; by default $GOOGLE_CLOUD_PROJECT."),
    ("string", "zone", None, "Of Google Cloud, e.g. us-central2-b; by default $CLOUDSDK_COMPUTE_ZONE."),
    ("string", "network", "", "VPC network of the machines."),
    ("string", "service_account", "", "Of the machines, by its address."),
    (
        "string",
        "runtime",
        "",
        "Image of TPU machines (mig: its family); by default that of their generation.",
    ),
    ("string", "image", "", "Container with bash, gcloud and Python, for gke."),
    ("string", "queue", "", "Kueue's local queue (gke), partition (slurm)."),
    ("string", "python", "3.12", "Version to install, or the path of an interpreter with everything."),
    ("bool", "keep", False, "Keep the machines when the run has ended."),
    ("bool", "allow_dirty", False, "Send a tree that differs from its commit."),
    ("bool", "preflight", True, "Compile the run for the machine first: does it fit, at what price?"),
    ("bool", "force", False, "Submit what preflight says does not fit."),
)
_NUMBERS = (
    ("slices", 1, 1, "Of the machine."),
    ("max_restarts", 50, 0, "Of the whole job after machines were taken away."),
    ("valid_hours", 0, 0, "For which a request may wait for machines; 0: for ever."),
)


@dataclass(frozen=True)
class Asked:
    """What a command asks for.

    Attributes:
      job: described and checked.
      backend: that serves it.
      recipe: of the run.
      allow_dirty, preflight, force: as their flags.
    """

    job: Job
    backend: Backend
    recipe: Any
    allow_dirty: bool
    preflight: bool
    force: bool


def parse_job(command: str, arguments: Sequence[str], *, placeholders: bool = False) -> Asked:
    """Returns what the arguments of a command describe.

    Args:
      command: its name.
      arguments: the launcher's flags, ``--``, the trainer's flags.
      placeholders: whether project and zone may be missing, for what is only shown.

    Raises:
      UserError: something in them cannot be; nothing was asked of anybody yet.
    """
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    values = parse_flags(command, words[:end], _define, program=PROGRAM)
    trainer = tuple(words[end + 1 :])
    for flag in ("backend", "tpu", "workdir"):
        if getattr(values, flag) is None:
            raise UserError(f"{command} needs --{flag}, e.g. {EXAMPLE}")
    if values.backend not in NAMES:
        raise UserError(f"--backend={values.backend} is unknown{did_you_mean(values.backend, NAMES)}")
    machine = parse_slice(values.tpu)
    require_served(machine, values.slices, values.backend)
    name = require_name(values.name or name_of_workdir(values.workdir))
    backend = backend_named(values.backend)
    require_path(values.workdir, bucket=backend.needs_bucket)
    env = tuple((word.partition("=")[0], word.partition("=")[2]) for word in values.env)
    require_no_secrets(trainer, env)
    # SkyPilot takes its project from gcloud and looks for machines in every zone, unless it is told one.
    project, zone = _place(values, required=values.backend in ("qr", "mig"), placeholders=placeholders)
    job = Job(
        name=name,
        backend=values.backend,
        tpu=machine.name,
        workdir=values.workdir,
        arguments=trainer,
        project=project,
        zone=zone,
        env=env,
        **{
            field: getattr(values, field)
            for field in (
                "slices spot network service_account runtime image queue python keep max_restarts valid_hours"
            ).split()
        },
    )
    return Asked(job, backend, _recipe(job), values.allow_dirty, values.preflight, values.force)


def _define(values: flags.FlagValues) -> None:
    define = {"string": flags.DEFINE_string, "bool": flags.DEFINE_bool}
    for kind, name, default, about in _FLAGS:
        define[kind](name, default, about, flag_values=values)
    for name, default, least, about in _NUMBERS:
        flags.DEFINE_integer(name, default, about, least, flag_values=values)
    about = "NAME=VALUE for the workers; no secrets. May be given several times."
    flags.DEFINE_multi_string("env", [], about, flag_values=values)


def _place(values: Any, *, required: bool, placeholders: bool) -> tuple[str, str]:
    project = values.project or os.environ.get("GOOGLE_CLOUD_PROJECT", "")
    zone = values.zone or os.environ.get("CLOUDSDK_COMPUTE_ZONE", "")
    if placeholders:
        return project or "PROJECT", zone or "ZONE"
    if required and not project:
        raise UserError("--project is missing: the Google Cloud project that pays; or $GOOGLE_CLOUD_PROJECT")
    if required and not zone:
        raise UserError("--zone is missing: where the machines are, e.g. --zone=us-central2-b")
    return project, zone


def _recipe(job: Job) -> Any:
    """Returns the recipe of the trainer's flags, once it is known that the machine can run it."""
    for word in job.arguments:
        flag = word.partition("=")[0].replace("-", "_")
        if flag in ("__workdir", "__coordinator", "__processes", "__process"):
            raise UserError(f"'{word}' is the launcher's to set; leave it out after --")
    if not any(word.startswith("--config=") for word in job.arguments):
        raise UserError(f"the trainer's flags follow --, and --config is not among them; e.g. {EXAMPLE}")
    values: Any = parse_flags("train", job.arguments, config=True)
    from efficientnet_pod.recipe.recipe import read_recipe

    recipe = read_recipe(values.config.to_dict())
    _require_plan(job, recipe)
    return recipe


def _require_plan(job: Job, recipe: Any) -> None:
    from efficientnet_pod.recipe.plan import resolve
    from efficientnet_pod.run.run import image_numbers

    target = job.machine.target
    replicas, word = target.replicas * job.slices, f"{target.chip.replica}s"
    where = f"{job.slices} × {job.tpu}" if job.slices > 1 else job.tpu
    if any(each.startswith("--config.cpu_replicas=") for each in job.arguments):
        replicas, word = recipe.cpu_replicas * job.hosts, "CPU devices"
    try:
        resolve(
            recipe,
            **image_numbers(recipe),
            num_replicas=replicas,
            num_hosts=job.hosts,
            default_dtype="float32",
        )
    except UserError as error:
        raise UserError(f"{where} has {replicas:,} {word}: {error}") from error
