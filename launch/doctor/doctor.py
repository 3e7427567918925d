"""The command `doctor`: checks of a machine before a run, each one line with its remedy.

Libraries that may be broken are imported inside the checks, whose errors are findings.
"""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from etils import epath

from efficientnet_pod.cli.flags import define_number, parse_flags
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.recipe.recipe import Recipe
from efficientnet_pod.workdir.files import make_writable
from efficientnet_pod.workdir.redact import redact
from launch.backends.queued_resources import cloud
from launch.doctor import clock
from launch.flags import PROGRAM, split_arguments
from launch.job.job import Job
from launch.job.slices import parse_slice
from launch.workdir.storage import is_bucket, storage_of

LEAST_DISK_GIB = 10.0


class Finding(NamedTuple):
    """The result of a check: whether all is well (None: it cannot be told), and a line for people."""

    is_well: bool | None
    line: str


def run_doctor(arguments: Sequence[str]) -> int:
    """Prints the result of each check; returns 1 if something is wrong, else 0."""
    own, trainer = split_arguments(arguments)
    values = parse_flags("doctor", own, _define, program=PROGRAM)
    expected = parse_slice(values.tpu).devices_per_host if values.tpu else values.devices
    checks: dict[str, Callable[[], Finding]] = {
        "versions": check_versions,
        "TPU in use": check_holders,
        "devices": partial(check_devices, expected),
        "disk": partial(check_disk, values.workdir or "."),
        "credentials": check_credentials,
    }
    if values.workdir:
        checks["workdir"] = partial(check_workdir, values.workdir)
        checks["clock"] = partial(check_clock, values.workdir)
    if trainer:
        config: Any = parse_flags("train", trainer, config=True).config
        recipe = read_recipe(config.to_dict())
        checks[f"images '{recipe.data.name}'"] = partial(check_images, recipe)
    if values.project and values.zone:
        checks["TPU API"] = partial(check_api, values.project, values.zone)
    findings = []
    for about, check in checks.items():
        try:
            finding = check()
        except Exception as error:  # a check that cannot be made is a finding itself
            finding = Finding(False, " ".join(str(error).split())[:300] or type(error).__name__)
        mark = {True: "ok     ", False: "WRONG  ", None: "unknown"}[finding.is_well]
        print(f"{mark} {about}: {redact(finding.line)}", flush=True)
        findings.append(finding)
    return int(any(finding.is_well is False for finding in findings))


def check_versions() -> Finding:
    """Checks that JAX and jaxlib belong together."""
    from efficientnet_pod.pod.runtime import version_of

    versions = {name: version_of(name) for name in ("jax", "jaxlib", "libtpu", "flax")}
    line = f"Python {sys.version.split()[0]}, "
    line += ", ".join(f"{name} {version or 'none'}" for name, version in versions.items())
    if versions["jax"] != versions["jaxlib"]:
        return Finding(False, f"{line}; install both anew from the constraints file")
    return Finding(True, line)


def check_holders() -> Finding:
    """Checks that no other process uses the TPU, which serves one process at a time."""
    devices = glob("/dev/accel*") + glob("/dev/vfio/[0-9]*")
    if not devices:
        return Finding(True, "there is no TPU on this machine")
    files = [path for path in glob("/proc/[0-9]*/fd/*") if _target(path) in devices]
    holders = {int(path.split("/")[2]) for path in files} - {os.getpid()}
    if holders:
        numbers = ", ".join(map(str, sorted(holders)))
        return Finding(False, f"process {numbers} holds it; end that process, then start")
    return Finding(True, "no other process of this user holds it")


def check_devices(expected: int | None) -> Finding:
    """Checks that JAX finds the expected number of devices."""
    from efficientnet_pod.pod import runtime

    try:
        started = runtime.start("any", None)
    except UserError as error:
        return Finding(False, str(error))
    line = f"{len(started.devices)} × {started.device_kind} ({started.platform})"
    if expected is not None and len(started.devices) != expected:
        return Finding(False, f"{line}, and {expected} are expected; correct --tpu, or the machine")
    return Finding(True, line)


def check_disk(folder: str) -> Finding:
    """Checks the free space at the workdir, or here for one in a bucket."""
    place = Path("." if "://" in folder else folder).absolute()
    place = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(place).free / 2**30
    line = f"{free:,.0f} GiB free at {place}"
    if free < LEAST_DISK_GIB:
        return Finding(False, f"{line}; make room for {LEAST_DISK_GIB:g} GiB")
    return Finding(True, line)


def check_workdir(workdir: str) -> Finding:
    """Checks that the trainer can write in the workdir."""
    make_writable(epath.Path(workdir))
    return Finding(True, f"{workdir} can be written")


def check_clock(workdir: str) -> Finding:
    """Compares this host's clock with that of the workdir's storage and those of the other hosts."""
    if "://" in workdir and not is_bucket(workdir):
        return Finding(None, "it can be compared only with that of gs:// or of a folder")
    storage = storage_of(workdir)
    folder = f"{workdir.rstrip('/')}/launch/clocks"
    mine = clock.measure(storage, folder, clock.this_host())
    return Finding(*clock.judge(mine, clock.others(storage, folder, mine)))


def check_images(recipe: Recipe) -> Finding:
    """Checks that the recipe's images are here, and counts them."""
    from efficientnet_pod.run.run import open_images

    source = open_images(recipe)
    line = f"{source.num_train:,} to train, {source.num_eval:,} to evaluate, {source.num_classes:,} classes"
    return Finding(True, line)


def check_credentials() -> Finding:
    """Checks that Google's libraries find credentials, without looking at their values."""
    try:  # late: the extra 'launch' has it
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError
    except ImportError:
        return Finding(None, "pip install 'efficientnet-pod[launch]' to look for them")
    try:
        _, project = google.auth.default()
    except DefaultCredentialsError:
        return Finding(None, "none for Google Cloud; to use it, run: gcloud auth application-default login")
    return Finding(True, f"for Google Cloud, project {project or 'not set'}")


def check_api(project: str, zone: str) -> Finding:
    """Checks that the TPU API answers, and counts the machine types of a zone."""
    types = cloud().offered_types(Job("doctor", "qr", "v3-8", "", project=project, zone=zone))
    return Finding(bool(types), f"{len(types)} machine types are offered in {zone}")


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run, here or gs://.", flag_values=values)
    about = "Devices that JAX must find: cores of v2, v3 and tpu7x, chips of other TPUs."
    define_number(values, "devices", None, about)
    about = "Machine that this worker belongs to, e.g. v3-32; it sets the number of devices."
    flags.DEFINE_string("tpu", None, about, flag_values=values)
    project, zone = os.environ.get("GOOGLE_CLOUD_PROJECT"), os.environ.get("CLOUDSDK_COMPUTE_ZONE")
    flags.DEFINE_string("project", project, "Project for the check of the TPU API.", flag_values=values)
    flags.DEFINE_string("zone", zone, "Zone for the check of the TPU API.", flag_values=values)


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""
