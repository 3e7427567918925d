"""The job in its workdir, ``launch/job.json``: any machine that reads the workdir knows the job."""

from contextlib import suppress

from efficientnet_pod.errors import RunError, UserError
from launch.job.job import Job, from_json
from launch.job.remembered import UNREADABLE
from launch.workdir.storage import Storage

_FILE = "launch/job.json"


def write_job(job: Job, storage: Storage) -> None:
    """Writes a job into its workdir; raises `RunError`."""
    storage.write(_path(job.workdir), job.to_json().encode())


def read_job(workdir: str, storage: Storage) -> Job:
    """Returns the job of a workdir, as its last start left it.

    Raises:
      UserError: there is none, or its file cannot be read as a job.
      RunError: the storage does not answer.
    """
    text = storage.read(_path(workdir))
    if text is None:
        raise UserError(f"'{_path(workdir)}' does not exist: no job was submitted with --workdir={workdir}")
    try:
        return from_json(text.decode())
    except UNREADABLE as error:
        raise UserError(f"'{_path(workdir)}' cannot be read as a job ({error}); submit it again") from error


def newest(job: Job, storage: Storage) -> Job:
    """Returns a job as its workdir has it, where a watch elsewhere may have gone on; else as it is."""
    with suppress(UserError, RunError):
        there = read_job(job.workdir, storage)
        if there.name == job.name and there.attempt >= job.attempt:
            return there
    return job


def _path(workdir: str) -> str:
    return f"{workdir.rstrip('/')}/{_FILE}"
