"""Owns what the TPU API's errors mean to who meets them: one line each."""

from collections.abc import Iterator
from contextlib import contextmanager

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.redact import redact
from launch.job.job import Job


class QuotaError(UserError):
    """The quota does not suffice now; it may later."""


_DISABLED = ("SERVICE_DISABLED", "has not been used in project", "is disabled")


@contextmanager
def said_in_one_line(job: Job) -> Iterator[None]:
    """Turns what the API raises inside into a `UserError`, or into a `RunError` where nobody can mend it."""
    from google.api_core import exceptions as api
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except api.AlreadyExists as error:
        raise UserError(_taken(job)) from error
    except (api.Unauthenticated, GoogleAuthError) as error:
        raise UserError(
            "the TPU API does not accept the credentials here; run: gcloud auth application-default login"
        ) from error
    except api.PermissionDenied as error:
        raise UserError(_denied(job, _said(error))) from error
    except api.ResourceExhausted as error:
        raise QuotaError(_exhausted(job, _said(error))) from error
    except api.NotFound as error:
        raise UserError(
            f"the TPU API knows no '{job.parent}' or no such thing in it ({_said(error)}); correct --project "
            "and --zone"
        ) from error
    except (api.InvalidArgument, api.FailedPrecondition, api.OutOfRange) as error:
        raise UserError(f"the TPU API refuses the request: {_said(error)}; change the command") from error
    except (api.DeadlineExceeded, api.RetryError) as error:
        raise RunError(
            f"the TPU API did not answer in time ({_said(error)}); the same command may be given again"
        ) from error
    except (api.ServerError, api.Aborted, api.Cancelled, api.TooManyRequests) as error:
        raise RunError(f"the TPU API failed ({_said(error)}); give the same command again later") from error
    except api.GoogleAPICallError as error:
        raise RunError(f"the TPU API failed: {_said(error)}") from error


def _taken(job: Job, kind: str = "a queued resource") -> str:
    return (
        f"there is {kind} '{job.name}' in {job.zone} already; choose another --name, or end that "
        f"one: python -m launch cancel {job.name}"
    )


def name_taken(job: Job, kind: str = "a queued resource") -> UserError:
    """Returns the error for a job whose name another one has; ``kind`` is what that one is."""
    return UserError(_taken(job, kind))


def _denied(job: Job, said: str) -> str:
    if any(sign in said for sign in _DISABLED):
        return (
            f"the TPU API is not enabled in project {job.project}; run: gcloud services enable "
            f"tpu.googleapis.com --project={job.project}"
        )
    return (
        f"permission denied in project {job.project} ({said}); ask its owner for the role TPU Admin "
        "(roles/tpu.admin)"
    )


def _exhausted(job: Job, said: str) -> str:
    kind = "spot " if job.spot else ""
    return (
        f"the quota of project {job.project} for {kind}{job.machine.name} in {job.zone} does not suffice "
        f"({said}); choose a smaller --tpu or another --zone, or ask for more quota"
    )


def _said(error: Exception) -> str:
    message = getattr(error, "message", None) or str(error)
    return redact(" ".join(str(message).split()))[:300]
