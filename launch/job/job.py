"""The description of a job: what runs, on which machines, and where its records go; for every backend."""

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

from efficientnet_pod.errors import UserError
from efficientnet_pod.workdir.redact import redact
from launch.job.slices import Slice, parse_slice

LABEL = "efficientnet-pod"
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Job:
    """One run on some machines. Fields that are flags too are described in `launch.flags`.

    Attributes:
      name: name of the job.
      backend: name of the backend that runs it.
      tpu: machine, as `launch.job.slices.parse_slice` reads it.
      workdir: folder of the run: ``gs://BUCKET/RUN``, or a folder that all workers see.
      arguments: flags of ``efficientnet-pod train`` without the workdir.
      env: names and values of additional variables of the workers.
      commit: commit of the code; it ends in ``-dirty`` if tracked files differ.
      code: name of the file with the code, in `folder`.
      sha256: digest of that file; empty where the job is only shown.
      reservation: name of the reservation that the machines come from; empty: none.
      attempt: number of this start, from 1.
      submission: random word of the `submit` that made the resource, which tells it from others of its name.
      suffix: end of the resource's name, for one that was asked for while another one trained.
      held: whether the workers wait for their turn before they train, because others may still do.
      wishes: machines that the run may go on with, the preferred one first; empty: `tpu` alone.
      beside: request for a preferred machine, made while this one trains.
    """

    name: str
    backend: str
    tpu: str
    workdir: str
    arguments: tuple[str, ...] = ()
    slices: int = 1
    spot: bool = False
    flex_hours: int = 0
    reservation: str = ""
    project: str = ""
    zone: str = ""
    network: str = ""
    service_account: str = ""
    runtime: str = ""
    image: str = ""
    queue: str = ""
    python: str = "3.12"
    env: tuple[tuple[str, str], ...] = ()
    keep: bool = False
    max_restarts: int = 50
    valid_hours: int = 0
    commit: str = ""
    code: str = ""
    sha256: str = ""
    attempt: int = 1
    submission: str = "at-submit"
    suffix: str = ""
    held: bool = False
    wishes: tuple[str, ...] = ()
    beside: "Job | None" = None

    @property
    def resource(self) -> str:
        """Name of its resource, on every backend."""
        return self.name + self.suffix

    @property
    def capacity(self) -> str:
        """Kind of its capacity, as ``--capacity`` names it."""
        if self.reservation:
            return f"reservation:{self.reservation}"
        return "spot" if self.spot else "flex-start" if self.flex_hours else "on-demand"

    @property
    def machine(self) -> Slice:
        """One slice of its machines, in as many hosts as the backend makes."""
        return parse_slice(self.tpu).on(self.backend)

    @property
    def machines(self) -> str:
        """Name of all its machines, e.g. ``v3-1024`` or ``2 × v3-1024``."""
        return f"{self.slices} × {self.tpu}" if self.slices > 1 else self.tpu

    @property
    def hosts(self) -> int:
        """Number of JAX processes on all slices."""
        return self.machine.target.hosts * self.slices

    @property
    def given_zone(self) -> str:
        """The zone; empty where none is given, or a word takes its place in what is only shown."""
        return "" if self.zone == "ZONE" else self.zone

    @property
    def parent(self) -> str:
        """Name of the location in the TPU API."""
        return f"projects/{self.project}/locations/{self.zone}"

    @property
    def folder(self) -> str:
        """Folder of the launcher's own files in the workdir: code, logs, exit codes of workers."""
        return f"{self.workdir.rstrip('/')}/launch"

    def to_json(self) -> str:
        """Returns the job as a text that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def again(self, **changes: Any) -> "Job":
        """Returns the next attempt of the same job, with some fields changed."""
        fields: dict[str, Any] = {"attempt": self.attempt + 1, "held": False, "beside": None}
        return dataclasses.replace(self, **(fields | changes))


def from_json(text: str) -> Job:
    """Returns the job that `Job.to_json` wrote; raises ValueError, TypeError or KeyError for other texts."""
    return _job(json.loads(text))


def _job(values: dict[str, Any]) -> Job:
    fields = values | {
        "arguments": tuple(values["arguments"]),
        "env": tuple((name, value) for name, value in values["env"]),
        "wishes": tuple(values.get("wishes", ())),
        "beside": _job(values["beside"]) if values.get("beside") else None,
    }
    return Job(**fields)


def require_name(name: str) -> str:
    """Returns the name if every backend accepts it as the name of a job.

    Raises:
      UserError: it is not acceptable; the message has the rule and a similar name that is.
    """
    if _NAME.fullmatch(name):
        return name
    near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:49].strip("-")
    near = near if near[:1].isalpha() else f"run-{near}".rstrip("-")
    raise UserError(
        f"job name '{name}' is invalid: small letters, digits and '-', a letter first, at most 49; "
        f"try --name={near}"
    )


def require_no_secrets(arguments: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> None:
    """Checks that nothing in a job's command and variables looks like a secret.

    Raises:
      UserError: something does; it would be readable in scripts, metadata and logs.
    """
    for name, value in env:
        if not _VARIABLE.fullmatch(name):
            raise UserError(f"--env={name} names no variable; write --env=NAME=VALUE")
        if redact(f"{name}={value}") != f"{name}={value}":
            raise UserError(
                f"--env={name} looks like a secret, and would be readable in the machine's metadata; let "
                "the workers' service account read it from Secret Manager"
            )
    for word in arguments:
        if redact(word) != word:
            raise UserError(
                f"'{redact(word)}' holds what looks like a secret, and would be readable in the machine's "
                "metadata; leave it out of the command"
            )
