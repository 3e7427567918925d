"""Owns what this machine remembers of the jobs it submitted, by name, so that a name is enough later."""

import os
from pathlib import Path

from efficientnet_pod.errors import UserError, did_you_mean
from launch.job.job import Job, from_json, require_name

FOLDER_VARIABLE = "EFFICIENTNET_POD_JOBS"


def jobs_folder() -> Path:
    """Returns where jobs are remembered: of this user, or what ``EFFICIENTNET_POD_JOBS`` names."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "efficientnet-pod" / "jobs"


def remember(job: Job) -> None:
    """Writes a job down, in place of an earlier one of its name."""
    folder = jobs_folder()
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{job.name}.partial"
    scratch.write_text(job.to_json())
    scratch.replace(folder / f"{job.name}.json")


def recall(name: str) -> Job:
    """Returns the job of a name.

    Raises:
      UserError: no such job was submitted from here, or what was written down cannot be read.
    """
    path = jobs_folder() / f"{require_name(name)}.json"
    try:
        return from_json(path.read_text())
    except FileNotFoundError:
        known = [each.name for each in all_jobs()]
        hint = did_you_mean(name, known) if known else "; none was submitted from here"
        raise UserError(f"no job '{name}' is known here{hint}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"'{path}' cannot be read as a job ({error}); remove it") from error


def all_jobs() -> list[Job]:
    """Returns every job that can be read, by name."""
    found = []
    for path in sorted(jobs_folder().glob("*.json")):
        try:
            found.append(from_json(path.read_text()))
        except (ValueError, TypeError, KeyError):
            continue
    return found
