"""The interface of all backends, and the table of those that exist."""

from importlib import import_module
from typing import NamedTuple, Protocol

from efficientnet_pod.errors import UserError, did_you_mean
from launch.job.job import Job


class Document(NamedTuple):
    """A text that a backend would send or run, and its title."""

    title: str
    text: str


class State(NamedTuple):
    """The state of a job.

    Attributes:
      word: the backend's own word for it, e.g. ``ACTIVE``; ``GONE``: it knows no such job.
      detail: more information, in one line.
      phase: meaning for the launcher: ``waiting``, ``running``, ``lost`` (it must be started again),
        ``leaving``, ``gone`` or ``unknown``.
    """

    word: str
    detail: str = ""
    phase: str = "unknown"


class Backend(Protocol):
    """A service or tool that runs jobs.

    Attributes:
      needs_bucket: whether workers can reach nothing but a bucket.
      restarts: ``watch`` if `launch watch` starts a pre-empted job again; else a sentence on who does.
    """

    needs_bucket: bool
    restarts: str

    def render(self, job: Job) -> list[Document]:
        """Returns everything that `submit` would send; touches nothing."""
        ...

    def check(self, job: Job) -> None:
        """Checks that the backend would accept the job; creates nothing; raises `UserError` if not."""
        ...

    def submit(self, job: Job) -> int:
        """Starts the job, whose code is in its folder; returns the exit code of the command.

        Raises `UserError` or `RunError`, and then leaves nothing behind.
        """
        ...

    def state(self, job: Job) -> State:
        """Returns the state of the job."""
        ...

    def cancel(self, job: Job) -> None:
        """Stops the job and frees its machines; does nothing if there is no such job."""
        ...

    def own_log(self, job: Job, worker: int) -> str:
        """Returns where a worker's log is before it is in the workdir: a command, in one line."""
        ...


class Restarted(Backend, Protocol):
    """A backend whose lost jobs `launch watch` starts again."""

    def require_offered(self, job: Job) -> None:
        """Checks that the backend has the job's machine, free or not; raises `UserError` if not."""
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
NO_PACKAGE = "this backend needs Google's TPU client; pip install 'efficientnet-pod[launch]'"


def backend_named(name: str) -> Backend:
    """Returns a backend; raises `UserError` for an unknown name, or if Google's package is missing."""
    if name not in _FACTORIES:
        raise UserError(f"--backend={name} is unknown{did_you_mean(name, NAMES)}")
    module, _, member = _FACTORIES[name].partition(":")
    try:
        return getattr(import_module(module), member)()
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("google", "grpc"):
            raise
        raise UserError(NO_PACKAGE) from None
