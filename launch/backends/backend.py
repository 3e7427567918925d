"""Owns what a back end is: a few verbs on a job; and where each one is found."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from efficientnet_pod.errors import UserError, did_you_mean
from launch.job.job import Job


@dataclass(frozen=True)
class Document:
    """A text that a back end would send or run: its title and what it holds."""

    title: str
    text: str


@dataclass(frozen=True)
class State:
    """Where a job is: the word its engine has for it, what that engine adds, and what it means here.

    Attributes:
      word: ``ACTIVE``, ``SUSPENDED`` …; ``GONE`` where the engine knows of no such job.
      detail: more of it, in one line.
      phase: ``waiting``, ``running``, ``lost`` (to be made again), ``leaving``,
        ``gone`` or ``unknown``.
    """

    word: str
    detail: str = ""
    phase: str = "unknown"


class Backend(Protocol):
    """One engine that runs jobs.

    Attributes:
      needs_bucket: whether workers reach nothing but a bucket.
      restarts: who starts a job again that was pre-empted: ``watch``, or the engine's own words for it.
    """

    needs_bucket: bool
    restarts: str

    def render(self, job: Job) -> list[Document]:
        """Returns what `submit` would send; touches nothing."""
        ...

    def check(self, job: Job) -> None:
        """Returns if the engine would take the job; creates nothing; raises `UserError` if it would not."""
        ...

    def submit(self, job: Job) -> int:
        """Starts the job, whose code is where its workers look; returns the exit code of the command.

        Raises `UserError` or `RunError`, and then leaves nothing behind.
        """
        ...

    def state(self, job: Job) -> State:
        """Returns where the job is."""
        ...

    def cancel(self, job: Job) -> None:
        """Stops the job and frees its machines; does nothing where there is none."""
        ...


_FACTORIES = {
    "qr": "launch.backends.queued_resources:cloud",
    "fake": "launch.backends.fake.backend:FakeBackend",
    "gke": "launch.backends.gke:Gke",
    "mig": "launch.backends.mig:Mig",
    "sky": "launch.backends.sky:Sky",
    "slurm": "launch.backends.slurm:Slurm",
    "local": "launch.backends.local:Local",
}
NAMES = tuple(_FACTORIES)


def backend_named(name: str) -> Backend:
    """Returns a back end; raises `UserError` for an unknown one, or where its package is missing."""
    if name not in _FACTORIES:
        raise UserError(f"--backend={name} is unknown{did_you_mean(name, NAMES)}")
    module, _, member = _FACTORIES[name].partition(":")
    factory: Callable[[], Backend] = getattr(import_module(module), member)
    return factory()
