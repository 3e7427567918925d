"""Owns the description of a job: what runs, where, and where its records go; the same for every back end."""

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
    """One run on some machines.

    Attributes:
      name: of the job; also its resource's, on every back end.
      backend: that it was made for.
      tpu: machine, as `launch.job.slices.parse_slice` reads it.
      slices: so many of them.
      spot: whether the machines may be taken away, at a lower price.
      workdir: of the run; ``gs://bucket/…``, or a folder that all workers see.
      arguments: of ``efficientnet-pod train``, but for the workdir.
      project: of Google Cloud.
      zone: likewise.
      network: VPC network of the VMs; empty: the default one.
      service_account: of the VMs; empty: the default one.
      runtime: image of the VMs; empty: that of the machine.
      image: container with bash, gcloud and Python, for ``gke``.
      queue: Kueue's local queue, for ``gke``; partition, for ``slurm``.
      python: version that workers install, or the path of an interpreter with everything in it already.
      env: variables that workers get besides their own.
      keep: whether the machines stay when the run has ended.
      max_restarts: of the whole job.
      valid_hours: for which a request may wait for machines; 0: for ever.
      commit: of the code; ``-dirty`` behind it if tracked files differ.
      code: file of the code, in `folder`.
      sha256: of that file; empty where it is only shown.
      attempt: which start this is, from 1.
      submission: which `submit` made the resource, to tell it from another one of that name.
    """

    name: str
    backend: str
    tpu: str
    workdir: str
    arguments: tuple[str, ...] = ()
    slices: int = 1
    spot: bool = False
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

    @property
    def machine(self) -> Slice:
        """One slice of it."""
        return parse_slice(self.tpu)

    @property
    def hosts(self) -> int:
        """JAX processes of all slices."""
        return self.machine.target.hosts * self.slices

    @property
    def parent(self) -> str:
        """The location, as the TPU API names it."""
        return f"projects/{self.project}/locations/{self.zone}"

    @property
    def folder(self) -> str:
        """Where the launcher's own files are: code, logs, how workers ended."""
        return f"{self.workdir.rstrip('/')}/launch"

    def to_json(self) -> str:
        """Returns it as text that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def again(self) -> "Job":
        """Returns the next attempt of the same job."""
        return dataclasses.replace(self, attempt=self.attempt + 1)


def from_json(text: str) -> Job:
    """Returns the job that `Job.to_json` wrote; raises `ValueError` or `TypeError` for another text."""
    values: dict[str, Any] = json.loads(text)
    values["arguments"] = tuple(values["arguments"])
    values["env"] = tuple((name, value) for name, value in values["env"])
    return Job(**values)


def name_of_workdir(workdir: str) -> str:
    """Returns the job's name where none is given: the last part of its workdir."""
    return workdir.rstrip("/").rpartition("/")[2]


def require_name(name: str) -> str:
    """Returns the name if every back end takes it as one.

    Raises:
      UserError: it does not; says the rule and a name that would do.
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
    """Returns if nothing in a job's command and variables looks like a secret.

    Raises:
      UserError: something does, and would stand in scripts, metadata and logs.
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
