"""The commands `submit` and `render`: a job is checked and priced before anything is made."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.prices import Price, age_note, why_no_price
from efficientnet_pod.pod.terminal import plural
from efficientnet_pod.recipe.recipe import Recipe
from launch.flags import PROGRAM, Submission, parse_submission
from launch.images import location_of, look, render_line, unreachable
from launch.job.job import Job
from launch.job.remembered import remember
from launch.job.source_code import Code, name_of, pack
from launch.recipe import require_plan
from launch.workdir.job_file import write_job
from launch.workdir.progress import next_attempt
from launch.workdir.storage import Folder, storage_of


class Fit(NamedTuple):
    """The answer of preflight: whether the run fits its machine (None: unknown), and a line for people."""

    fits: bool | None
    line: str


def run_submit(arguments: Sequence[str]) -> int:
    """Starts a job, prints its price and the next commands; returns the exit code of the command.

    Raises:
      UserError: the job is impossible; nothing was made.
      RunError: a backend failed; anything it made is deleted.
    """
    submission = parse_submission("submit", arguments)
    job, backend = submission.job, submission.backend
    recipe = require_plan(job)
    if backend.needs_bucket and not submission.force and (reason := unreachable(job, recipe.data)):
        raise UserError(reason)
    code = pack(Path.cwd(), allow_dirty=submission.allow_dirty)
    job = replace(job, commit=code.commit, code=code.file, sha256=code.sha256)
    storage = storage_of(job.workdir)
    if not isinstance(storage, Folder):
        storage.require(job.workdir)
    backend.check(job)
    lines = [price_line(job), *cautions(job)]
    if not submission.force:
        lines.append(look(job, recipe, bucket=backend.needs_bucket, storage_of=storage_of))
    if submission.preflight:
        lines.append(require_fit(job, force=submission.force))
    print("\n".join(lines), flush=True)
    storage.require(job.workdir)
    job = replace(job, attempt=next_attempt(job, storage))
    storage.write(f"{job.folder}/{job.code}", code.tarball)
    write_job(job, storage)
    if job.backend == "local":  # in the foreground: other terminals may ask for its state meanwhile
        remember(job)
        return backend.submit(job)
    exit_code = backend.submit(job)
    remember(job)
    dirty = "; the tree differs from it" if code.is_dirty else ""
    left_out = plural(len(code.untracked), "untracked file is", "untracked files are")
    left_out = f"; {left_out} left out" if code.untracked else ""
    watch = f" · {PROGRAM} watch {job.name}" if backend.restarts == "watch" else ""
    print(
        f"submitted {job.name} at commit {code.commit[:12]}{dirty}{left_out}\n"
        f"follow it: {PROGRAM} status {job.name} · {PROGRAM} logs {job.name} --follow{watch}\n"
        f"stop it: {PROGRAM} cancel {job.name}"
    )
    return exit_code


def run_render(arguments: Sequence[str]) -> None:
    """Prints everything that `submit` would send; raises `UserError` for an impossible job."""
    submission = parse_submission("render", arguments, placeholders=True)
    recipe = require_plan(submission.job)
    code = name_of(Path.cwd())
    documents = submission.backend.render(replace(submission.job, commit=code.commit, code=code.file))
    print("\n".join(f"# {line}" for line in summary(submission, recipe, code)) + "\n")
    print("\n\n".join(f"# ---- {document.title}\n{document.text.rstrip()}" for document in documents))


def summary(submission: Submission, recipe: Recipe, code: Code) -> list[str]:
    """Returns lines on a job that is only shown: machine, price, places, and what is not given."""
    job, needs_bucket = submission.job, submission.backend.needs_bucket
    missing = [f"--{flag}" for flag in submission.missing]
    if needs_bucket and location_of(job, recipe.data) == "":
        missing.append("--config.data.data_dir")
    where = "the files here" if job.backend == "local" else f"{job.folder}/{code.file}"
    dirty = "; the tree differs from it, so submit needs --allow-dirty" if code.is_dirty else ""
    lines = [
        f"machine: {price_line(job)}",
        f"workdir: {job.workdir}",
        f"images: {render_line(job, recipe, bucket=needs_bucket)}",
        f"code: commit {code.commit[:12]}, from {where}{dirty}",
    ]
    return [*lines, f"not given, and needed by submit: {', '.join(missing)}"] if missing else lines


def require_fit(job: Job, *, force: bool) -> str:
    """Returns a line on fit, hours and price, from preflight where it can answer.

    Raises:
      UserError: the run does not fit and is not forced to start.
    """
    if job.backend in ("fake", "local"):
        return "preflight is left out: the workers are CPU processes on this machine"
    if job.slices > 1:
        return f"preflight is left out: it knows one slice, and this is {job.slices}"
    fit = ask_preflight(job)
    if fit.fits is False and not force:
        raise UserError(f"{fit.line}; or submit it anyway with --force")
    return fit.line


def ask_preflight(job: Job) -> Fit:
    """Returns the answer of ``efficientnet-pod preflight``; it compiles, which may take minutes.

    Preflight runs in its own process, because it starts JAX as for a machine that is not here.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "preflight.json"
        command = [sys.executable, "-m", "efficientnet_pod", "preflight", *job.arguments]
        command += [f"--topology={job.machine.target.name}", f"--json={answer}"]
        if job.given_zone and job.machine.target.chip.platform == "tpu":
            command.append(f"--zone={job.given_zone}")
        variables = os.environ | {"PYTHONIOENCODING": "utf-8"}
        ended = subprocess.run(
            command,
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        if answer.exists():
            return read_fit(job, json.loads(answer.read_text("utf-8")), ended.stderr)
    reason = _last_line(ended.stderr, f"exit code {ended.returncode}")
    return Fit(None, f"preflight could not say: {reason}")


def read_fit(job: Job, estimate: dict[str, Any], errors: str) -> Fit:
    """Returns preflight's document in one line; `errors` has the remedy if the run does not fit."""
    if not estimate["fits"]:
        return Fit(False, f"preflight: {_last_line(errors, f'it does not fit {job.tpu}')}")
    kind = "usd_spot" if job.spot else "usd"
    hours, usd = estimate.get("hours"), estimate.get(kind)
    time = "hours unknown" if hours is None else f"about {hours:.2g} hours"
    price = "price unknown"
    if usd is not None:
        price = f"about {Price(usd, estimate.get(f'{kind}_most') or usd)}"
        price += " on spot" if job.spot else ""
    return Fit(True, f"preflight: it fits {job.tpu}; {time}, {price} (estimates)")


def price_line(job: Job) -> str:
    """Returns the price of an hour of the job's machines, in one line."""
    usd, target = job.machine.usd_per_hour(spot=job.spot, zone=job.given_zone), job.machine.target
    kind = "spot" if job.spot else "on demand"
    kind += f" ({job.capacity} has terms of its own)" if job.flex_hours or job.reservation else ""
    price = why_no_price(target.chip, target.chips, spot=job.spot, zone=job.given_zone)
    if usd is not None:
        price = f"about {usd.times(job.slices)} an hour, {kind}"
        price += f" (cheapest in {usd.cheapest})" if usd.cheapest else ""
    here = "processes here in place of " if job.backend in ("fake", "local") else ""
    chips, hosts = job.machine.target.chips * job.slices, plural(job.hosts, "host")
    return f"{here}{job.machines}: {chips:,} chips on {hosts}; {price}"


def cautions(job: Job) -> list[str]:
    """Returns lines on what to know before the machines are paid for, such as a price that is old."""
    chip = job.machine.target.chip
    lines = () if job.backend in ("fake", "local") else (chip.caution, age_note(chip))
    return [line for line in lines if line]


def _last_line(errors: str, default: str) -> str:
    lines = errors.strip().splitlines() or [default]
    return lines[-1].removeprefix("efficientnet-pod: ")
