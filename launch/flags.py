"""Flags of the launcher, and their checks that need nothing but the command line."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from absl import flags

from efficientnet_pod.cli.flags import define_number, parse_flags
from efficientnet_pod.cli.help import example_of
from efficientnet_pod.errors import UserError
from efficientnet_pod.optim.ranges import Range
from efficientnet_pod.workdir.files import absolute
from launch.backends.backend import NAMES, Backend, backend_named
from launch.job.capacity import MOST_FLEX_HOURS, parse_capacity
from launch.job.job import Job, require_name, require_no_secrets
from launch.job.remembered import recall
from launch.job.slices import parse_slice, require_served
from launch.workdir.job_file import newest, read_job
from launch.workdir.storage import require_path, storage_of

PROGRAM = "efficientnet-pod launch"
EXAMPLE = example_of("submit", PROGRAM)
_STRINGS = {
    "backend": f"Service or tool that runs the job: {', '.join(NAMES)}.",
    "tpu": "Machine: v3-1024, v5e-256, v3:16x32 (chips); cuda:h100x16 for slurm.",
    "name": "Name of the job; by default the last part of its workdir.",
    "workdir": "Folder of the run, gs://BUCKET/RUN; the same workdir resumes.",
    "project": "Project of Google Cloud; by default $GOOGLE_CLOUD_PROJECT.",
    "zone": "Zone of Google Cloud, e.g. us-central2-b; by default $CLOUDSDK_COMPUTE_ZONE.",
    "network": "VPC network of the machines.",
    "service_account": "E-mail address of the machines' service account.",
    "runtime": "Image of TPU machines (mig: its family); by default the one of their generation.",
    "capacity": "on-demand, spot, flex-start (with --flex-hours) or reservation:NAME; by default on-demand.",
    "image": "Container for gke, as `launch image build` makes it; or any with bash, curl, gcloud, Python.",
    "queue": "Kueue's local queue (gke), partition (slurm).",
    "python": "Version to install, or the path of an interpreter with all packages.",
}
_BOOLS = {
    "spot": "Short for --capacity=spot: machines that may be taken away, at a lower price.",
    "keep": "Keep the machines when the run has ended.",
    "allow_dirty": "Send a tree that differs from its commit.",
    "preflight": "Compile the run for the machine first: does it fit, at what price?",
    "force": "Submit a run that does not fit, according to preflight, or whose images are not found.",
}
_NUMBERS = {  # with the least and the largest value
    "slices": (1, 1024, "Number of slices."),
    "max_restarts": (0, 1_000_000, "Most restarts of the whole job after its machines were taken away."),
    "flex_hours": (0, MOST_FLEX_HOURS, "Hours of flex-start, after which its machines are given back."),
    "valid_hours": (0, 100_000, "Hours that a request may wait for machines; 0: no limit."),
}

# Flags that `submit` needs, by backend, beside those that each one needs.
_NEEDED = {"qr": ("project", "zone"), "mig": ("project", "zone"), "gke": ("image",)}


@dataclass(frozen=True)
class Submission:
    """A parsed and checked command line of `submit` or `render`.

    Attributes:
      job: the job.
      backend: backend that serves it.
      allow_dirty, preflight, force: values of their flags.
      missing: names of flags that `submit` needs and that were not given.
    """

    job: Job
    backend: Backend
    allow_dirty: bool
    preflight: bool
    force: bool
    missing: tuple[str, ...] = ()


def parse_submission(command: str, arguments: Sequence[str], *, placeholders: bool = False) -> Submission:
    """Returns the submission that the launcher's flags, ``--`` and the trainer's flags describe.

    With `placeholders`, words take the place of a missing project and zone, for a job that is only shown.

    Raises:
      UserError: the arguments are invalid; nothing outside this process was asked yet.
    """
    own, trainer = split_arguments(arguments)
    values = parse_flags(command, own, _define, program=PROGRAM)
    for flag in ("backend", "tpu", "workdir"):
        if getattr(values, flag) is None:
            raise UserError(f"{command} needs --{flag}, e.g. {EXAMPLE}")
    backend = backend_named(values.backend)
    machine = parse_slice(values.tpu)
    require_served(machine, values.slices, values.backend)
    capacity = parse_capacity(
        values.capacity,
        spot=values.spot,
        flex_hours=values.flex_hours,
        backend=values.backend,
        slices=values.slices,
    )
    name = require_name(values.name or values.workdir.rstrip("/").rpartition("/")[2])
    require_path(values.workdir, bucket=backend.needs_bucket)
    workdir = str(absolute(values.workdir))  # as each worker will have it
    env = tuple((word.partition("=")[0], word.partition("=")[2]) for word in values.env)
    require_no_secrets(tuple(trainer), env)
    # SkyPilot takes its project from gcloud and looks for machines in every zone, unless it is told one.
    project, zone = _place(values)
    given_words = {"project": project, "zone": zone, "image": values.image}
    missing = tuple(flag for flag in _NEEDED.get(values.backend, ()) if not given_words[flag])
    if placeholders:
        project, zone = project or "PROJECT", zone or "ZONE"
    else:
        _require_place(missing)
    fields = {field.name for field in dataclasses.fields(Job)}
    given = {flag: value for flag, value in values.flag_values_dict().items() if flag in fields}
    given |= {"name": name, "tpu": machine.name, "workdir": workdir, "project": project, "zone": zone}
    given |= capacity
    job = Job(**(given | {"arguments": tuple(trainer), "env": env}))
    return Submission(job, backend, values.allow_dirty, values.preflight, values.force, missing)


def parse_job_name(
    command: str, arguments: Sequence[str], define: Callable[[flags.FlagValues], None] | None = None
) -> tuple[Any, Job]:
    """Returns the flags of a command and the job that it names, or the job of its ``--workdir``.

    Raises:
      UserError: the arguments are invalid, no such job was submitted from this machine, or none in the
        workdir.
      RunError: the storage of the workdir does not answer.
    """
    words: list[str] = []

    def define_all(values: flags.FlagValues) -> None:
        define_workdir(values)
        if define:
            define(values)

    values: Any = parse_flags(command, arguments, define_all, words=words, program=PROGRAM)
    jobs = jobs_named(words, values.workdir)
    if len(jobs) != 1:
        raise UserError(f"{command} needs the name of one job, e.g. {PROGRAM} {command} run1")
    return values, jobs[0]


def define_workdir(values: flags.FlagValues) -> None:
    """Defines the flag that names a job by its workdir."""
    about = (
        "Folder of the run, in place of the name of its job, which only the machine that submitted it knows."
    )
    flags.DEFINE_string("workdir", None, about, flag_values=values)


def jobs_named(names: Sequence[str], workdir: str | None) -> list[Job]:
    """Returns the jobs of these names, and the job of a workdir, each as its last start left it.

    Raises:
      UserError: a name is not known here, or the workdir has no job.
      RunError: the storage of the workdir does not answer.
    """
    jobs = [recall(name) for name in names]
    for number, job in enumerate(jobs):
        with suppress(UserError):  # without credentials it is known as this machine has left it
            jobs[number] = newest(job, storage_of(job.workdir))
    if workdir:
        require_path(workdir, bucket=False)
        place = str(absolute(workdir))
        jobs.append(read_job(place, storage_of(place)))
    return jobs


def split_arguments(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Returns the launcher's flags, and the trainer's flags after ``--``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end + 1 :]


def _define(values: flags.FlagValues) -> None:
    fields = {field.name for field in dataclasses.fields(Job)}
    for name, about in _STRINGS.items():
        default = getattr(Job, name, None) if name in fields else None
        flags.DEFINE_string(name, default, about, flag_values=values)
    for name, about in _BOOLS.items():
        flags.DEFINE_bool(name, name == "preflight", about, flag_values=values)
    for name, (least, most, about) in _NUMBERS.items():
        define_number(values, name, getattr(Job, name), about, Range(least, most, whole=True))
    about = "NAME=VALUE for the workers; no secrets. May be given several times."
    flags.DEFINE_multi_string("env", [], about, flag_values=values)


def _place(values: Any) -> tuple[str, str]:
    project = values.project or os.environ.get("GOOGLE_CLOUD_PROJECT", "")
    return project, values.zone or os.environ.get("CLOUDSDK_COMPUTE_ZONE", "")


def _require_place(missing: Sequence[str]) -> None:
    if "project" in missing:
        raise UserError("--project is missing: the Google Cloud project that pays; or $GOOGLE_CLOUD_PROJECT")
    if "zone" in missing:
        raise UserError("--zone is missing: where the machines are, e.g. --zone=us-central2-b")
