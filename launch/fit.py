"""Owns the question before a job costs money: does the run fit its machine, for how long, at what price?"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientnet_pod.errors import UserError
from launch.job.job import Job


@dataclass(frozen=True)
class Fit:
    """What preflight found.

    Attributes:
      line: for people.
      fits: whether the run does; None: it is not known.
    """

    line: str
    fits: bool | None


def why_not_asked(job: Job) -> str | None:
    """Returns why preflight cannot answer for a job; None if it can."""
    if job.backend in ("fake", "local"):
        return "its workers are CPU processes on this machine"
    if job.slices > 1:
        return f"it knows one slice, and this is {job.slices}"
    return None


def ask_preflight(job: Job) -> Fit:
    """Returns what ``efficientnet-pod preflight`` says of a job; compiles, which may take minutes.

    It runs in a process of its own: it starts JAX as for a machine that is not here.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "preflight.json"
        command = [sys.executable, "-m", "efficientnet_pod", "preflight", *job.arguments]
        command += [f"--topology={job.machine.target.name}", f"--json={answer}"]
        ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if answer.exists():
            return read_fit(job, json.loads(answer.read_text()), ended.stderr)
    said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
    return Fit(f"preflight could not say: {said[-1].removeprefix('efficientnet-pod: ')}", None)


def read_fit(job: Job, found: dict[str, Any], errors: str) -> Fit:
    """Returns preflight's document in one line; ``errors`` says the remedy where the run does not fit."""
    if not found["fits"]:
        said = errors.strip().splitlines() or [f"it does not fit {job.tpu}"]
        return Fit(f"preflight: {said[-1].removeprefix('efficientnet-pod: ')}", False)
    hours, usd = found.get("hours"), found.get("usd_spot" if job.spot else "usd")
    took = "hours unknown" if hours is None else f"about {hours:.2g} hours"
    price = "price unknown" if usd is None else f"about ${usd:,.{2 * (usd < 100)}f}{' on spot' * job.spot}"
    return Fit(f"preflight: it fits {job.tpu}; {took}, {price} (estimates)", True)


def price_line(job: Job) -> str:
    """Returns what an hour of the job's machines costs, by the list."""
    usd = job.machine.usd_per_hour(spot=job.spot)
    kind = "spot" if job.spot else "on demand"
    slices = f"{job.slices} × " if job.slices > 1 else ""
    chips = job.machine.target.chips * job.slices
    price = "no price is published" if usd is None else f"about ${usd * job.slices:,.2f} an hour, {kind}"
    here = "processes here in place of " if job.backend in ("fake", "local") else ""
    return f"{here}{slices}{job.tpu}: {chips:,} chips on {job.hosts:,} host{'s' * (job.hosts > 1)}; {price}"


def require_fit(job: Job, *, force: bool) -> list[str]:
    """Returns lines on fit, hours and price.

    Raises:
      UserError: the run does not fit and is not forced to start.
    """
    lines = [price_line(job)]
    if why := why_not_asked(job):
        return [*lines, f"preflight is left out: {why}"]
    found = ask_preflight(job)
    if found.fits is False and not force:
        raise UserError(f"{found.line}; or submit it all the same with --force")
    return [*lines, found.line]
