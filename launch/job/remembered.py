"""Jobs that were submitted from this machine, remembered by name."""

import os
from contextlib import suppress
from pathlib import Path

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.workdir.files import write_whole
from launch.job.job import Job, from_json, require_name

FOLDER_VARIABLE = "EFFICIENTNET_POD_JOBS"
UNREADABLE = (ValueError, TypeError, KeyError)


def jobs_folder() -> Path:
    """Returns the folder of remembered jobs: this user's, or the one that ``EFFICIENTNET_POD_JOBS`` names."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return Path(folder)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "efficientnet-pod" / "jobs"


def remember(job: Job) -> None:
    """Writes a job down; it replaces an earlier one of the same name."""
    folder = jobs_folder()
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{job.name}.json", job.to_json().encode())


def recall(name: str) -> Job:
    """Returns the job of a name.

    Raises:
      UserError: no job of that name was submitted from here, or its file cannot be read.
    """
    path = jobs_folder() / f"{require_name(name)}.json"
    try:
        return from_json(path.read_text("utf-8"))
    except FileNotFoundError:
        names = [job.name for job in all_jobs()]
        hint = did_you_mean(name, names) if names else "; none was submitted from here"
        raise UserError(f"no job '{name}' is known here{hint}") from None
    except UNREADABLE as error:
        raise UserError(f"'{path}' cannot be read as a job ({error}); remove it") from error


def all_jobs() -> list[Job]:
    """Returns every job that can be read, by name."""
    jobs = []
    for path in sorted(jobs_folder().glob("*.json")):
        with suppress(*UNREADABLE):
            jobs.append(from_json(path.read_text("utf-8")))
    return jobs
