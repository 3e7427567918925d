"""Errors of the TPU API as one line each, with the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.redact import redact
from launch.job.job import Job

_DISABLED = ("SERVICE_DISABLED", "has not been used in project", "is disabled")


class QuotaError(UserError):
    """The quota is too small now; it may suffice later."""


@contextmanager
def api_errors_in_one_line(job: Job) -> Iterator[None]:
    """Turns an error of the API into a `UserError`, or into a `RunError` if the user cannot correct it."""
    from google.api_core import exceptions as api
    from google.auth.exceptions import GoogleAuthError

    try:
        yield
    except api.AlreadyExists as error:
        raise name_taken(job) from error
    except (api.Unauthenticated, GoogleAuthError) as error:
        raise UserError(
            "the TPU API does not accept the credentials here; run: gcloud auth application-default login"
        ) from error
    except api.PermissionDenied as error:
        message = _message(error)
        if any(sign in message for sign in _DISABLED):
            raise UserError(
                f"the TPU API is not enabled in project {job.project}; run: gcloud services enable "
                f"tpu.googleapis.com --project={job.project}"
            ) from error
        raise UserError(
            f"permission denied in project {job.project} ({message}); ask its owner for the role TPU Admin "
            "(roles/tpu.admin)"
        ) from error
    except api.ResourceExhausted as error:
        kind = "spot " if job.spot else ""
        raise QuotaError(
            f"the quota of project {job.project} for {kind}{job.machine.name} in {job.zone} does not suffice "
            f"({_message(error)}); choose a smaller --tpu or another --zone, or ask for more quota"
        ) from error
    except api.NotFound as error:
        raise UserError(
            f"the TPU API knows no '{job.parent}' or no such thing in it ({_message(error)}); correct "
            "--project and --zone"
        ) from error
    except (api.InvalidArgument, api.FailedPrecondition, api.OutOfRange) as error:
        raise UserError(f"the TPU API refuses the request: {_message(error)}; change the command") from error
    except (api.DeadlineExceeded, api.RetryError) as error:
        raise RunError(
            f"the TPU API did not answer in time ({_message(error)}); the same command may be given again"
        ) from error
    except (api.ServerError, api.Aborted, api.Cancelled, api.TooManyRequests) as error:
        raise RunError(
            f"the TPU API failed ({_message(error)}); give the same command again later"
        ) from error
    except api.GoogleAPICallError as error:
        raise RunError(f"the TPU API failed: {_message(error)}") from error


def name_taken(job: Job, kind: str = "a queued resource") -> UserError:
    """Returns the error for a job whose name is in use; `kind` is the kind of resource that has it."""
    return UserError(
        f"there is {kind} '{job.resource}' in {job.zone} already; choose another --name, or end that "
        f"one: efficientnet-pod launch cancel {job.name}"
    )


def _message(error: Exception) -> str:
    message = getattr(error, "message", None) or str(error)
    return redact(" ".join(str(message).split()))[:300]
