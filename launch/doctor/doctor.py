"""Owns ``doctor``: what can be wrong with a machine before a run, each check one line with its remedy."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import glob
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import flags

from efficientnet_pod.cli.flags import parse_flags
from efficientnet_pod.errors import UserError
from efficientnet_pod.workdir.redact import redact
from launch.doctor import clock
from launch.flags import PROGRAM
from launch.job.slices import parse_slice
from launch.workdir.storage import is_bucket, storage_of

LEAST_DISK_GIB = 10.0


@dataclass(frozen=True)
class Finding:
    """One check: what it is about, whether it is well (None: it could not be told), and what was found."""

    about: str
    is_well: bool | None
    said: str


def run_doctor(arguments: Sequence[str]) -> int:
    """Prints what was found; returns 0 if nothing is wrong, else 1."""
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    values = parse_flags("doctor", words[:end], _define, program=PROGRAM)
    recipe = _recipe(words[end + 1 :])
    expected = values.devices
    if values.tpu:
        target = parse_slice(values.tpu).target
        expected = target.replicas // target.hosts
    checks: dict[str, Callable[[], Finding]] = {
        "versions": check_versions,
        "TPU in use": check_holders,
        "devices": lambda: check_devices(expected),
        "disk": lambda: check_disk(values.workdir or "."),
        "credentials": check_credentials,
    }
    if values.workdir:
        checks["workdir"] = lambda: check_workdir(values.workdir)
        checks["clock"] = lambda: check_clock(values.workdir)
    if recipe is not None:
        checks["images"] = lambda: check_images(recipe)
    if values.project and values.zone:
        checks["TPU API"] = lambda: check_api(values.project, values.zone)
    found = []
    for about, check in checks.items():
        finding = _safely(about, check)
        found.append(finding)
        mark = {True: "ok     ", False: "WRONG  ", None: "unknown"}[finding.is_well]
        print(f"{mark} {finding.about}: {redact(finding.said)}", flush=True)
    return int(any(finding.is_well is False for finding in found))


def check_versions() -> Finding:
    """Python, JAX, jaxlib and libtpu, and whether JAX and jaxlib belong together."""
    versions = {name: _version(name) for name in ("jax", "jaxlib", "libtpu", "flax")}
    said = f"Python {sys.version.split()[0]}, " + ", ".join(f"{k} {v or 'none'}" for k, v in versions.items())
    if versions["jax"] != versions["jaxlib"]:
        return Finding("versions", False, f"{said}; install both anew from the constraints file")
    return Finding("versions", True, said)


def check_holders() -> Finding:
    """Other processes that hold an accelerator: a TPU serves one at a time."""
    devices = glob("/dev/accel*") + glob("/dev/vfio/[0-9]*")
    if not devices:
        return Finding("TPU in use", True, "there is no TPU on this machine")
    holders = {
        path.split("/")[2]
        for path in glob("/proc/[0-9]*/fd/*")
        if _target(path) in devices and path.split("/")[2] != str(os.getpid())
    }
    if holders:
        pids = ", ".join(sorted(holders, key=int))
        return Finding("TPU in use", False, f"process {pids} holds it; end that process, then start")
    return Finding("TPU in use", True, "no other process of this user holds it")


def check_devices(expected: int | None) -> Finding:
    """What JAX finds, beside what was expected."""
    from efficientnet_pod.pod import runtime

    try:
        started = runtime.start("any", None)
    except UserError as error:
        return Finding("devices", False, str(error))
    said = f"{len(started.devices)} × {started.device_kind} ({started.platform})"
    if expected is not None and len(started.devices) != expected:
        return Finding(
            "devices", False, f"{said}, and {expected} are expected; correct --tpu, or the machine"
        )
    return Finding("devices", True, said)


def check_disk(folder: str) -> Finding:
    """Room where the workdir is, or here for one in a bucket."""
    here = Path("." if "://" in folder else folder).absolute()
    here = next(path for path in (here, *here.parents) if path.exists())
    free = shutil.disk_usage(here).free / 2**30
    said = f"{free:,.0f} GiB free at {here}"
    if free < LEAST_DISK_GIB:
        return Finding("disk", False, f"{said}; make room for {LEAST_DISK_GIB:g} GiB")
    return Finding("disk", True, said)


def check_workdir(workdir: str) -> Finding:
    """Whether the trainer can write in the workdir."""
    from etils import epath

    from efficientnet_pod.workdir.files import make_writable

    make_writable(epath.Path(workdir))
    return Finding("workdir", True, f"{workdir} can be written")


def check_clock(workdir: str) -> Finding:
    """This host's clock beside that of where the workdir is, and beside those that other hosts left there."""
    if "://" in workdir and not is_bucket(workdir):
        return Finding("clock", None, "it is compared with that of gs:// and of folders only")
    storage = storage_of(workdir)
    folder = f"{workdir.rstrip('/')}/launch/clocks"
    mine = clock.measure(storage, folder, clock.this_host())
    return Finding("clock", *clock.judge(mine, clock.others(storage, folder, mine)))


def check_images(recipe: Any) -> Finding:
    """Whether the recipe's images are here, and how many."""
    from efficientnet_pod.run.run import open_images

    source = open_images(recipe)
    said = f"{source.num_train:,} to train, {source.num_eval:,} to evaluate, {source.num_classes:,} classes"
    return Finding(f"images '{recipe.data.name}'", True, said)


def check_credentials() -> Finding:
    """Whether Google's libraries find credentials; their values are not looked at."""
    try:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError
    except ImportError:
        return Finding("credentials", None, "pip install 'efficientnet-pod[launch]' to look for them")
    try:
        _, project = google.auth.default()
    except DefaultCredentialsError:
        remedy = "for the cloud, run: gcloud auth application-default login"
        return Finding("credentials", None, f"there are none of Google Cloud; {remedy}")
    return Finding("credentials", True, f"of Google Cloud, project {project or 'not set'}")


def check_api(project: str, zone: str) -> Finding:
    """Whether the TPU API answers, and what it offers in a zone."""
    from launch.backends.api_errors import said_in_one_line
    from launch.backends.queued_resources import CALL_SECONDS, cloud
    from launch.job.job import Job

    job = Job("doctor", "qr", "v3-8", "", project=project, zone=zone)
    with said_in_one_line(job):
        offered = list(
            cloud().client.list_accelerator_types(parent=job.parent, retry=None, timeout=CALL_SECONDS)
        )
    return Finding("TPU API", bool(offered), f"{len(offered)} machine types are offered in {zone}")


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "To write in, on this machine or gs://.", flag_values=values)
    about = "Devices that JAX must find: cores of v2, v3 and tpu7x, chips of other TPUs."
    flags.DEFINE_integer("devices", None, about, 1, flag_values=values)
    about = "Machine of which this is one worker, e.g. v3-32: what JAX must find here follows."
    flags.DEFINE_string("tpu", None, about, flag_values=values)
    flags.DEFINE_string("project", os.environ.get("GOOGLE_CLOUD_PROJECT"), "To ask.", flag_values=values)
    flags.DEFINE_string("zone", os.environ.get("CLOUDSDK_COMPUTE_ZONE"), "To ask about.", flag_values=values)


def _recipe(trainer: Sequence[str]) -> Any:
    if not trainer:
        return None
    from efficientnet_pod.recipe.recipe import read_recipe

    values: Any = parse_flags("train", trainer, config=True)
    return read_recipe(values.config.to_dict())


def _safely(about: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # a check that cannot be made is a finding itself
        return Finding(about, False, " ".join(str(error).split())[:300] or type(error).__name__)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""
