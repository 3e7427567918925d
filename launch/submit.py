"""Owns the order of a submission: everything is checked before anything is made."""

from dataclasses import replace
from pathlib import Path

from launch.fit import price_line, require_fit
from launch.flags import PROGRAM, Asked
from launch.job.remembered import remember
from launch.job.source_code import pack
from launch.workdir.progress import next_attempt
from launch.workdir.storage import Folder, storage_of


def submit(asked: Asked) -> int:
    """Starts a job and prints what it costs and what to do next; returns the exit code of the command.

    Raises:
      UserError: something about the job cannot be; nothing was made.
      RunError: an engine failed; what it may have made is gone again.
    """
    job, backend = asked.job, asked.backend
    code = pack(Path.cwd(), allow_dirty=asked.allow_dirty)
    job = replace(job, commit=code.commit, code=code.file, sha256=code.sha256)
    storage = storage_of(job.workdir)
    if not isinstance(storage, Folder):
        storage.require(job.workdir)
    backend.check(job)
    if isinstance(storage, Folder):
        job = replace(job, workdir=str(Path(job.workdir).absolute()))
    lines = require_fit(job, force=asked.force) if asked.preflight else [price_line(job)]
    for line in lines:
        print(line, flush=True)
    storage.require(job.workdir)
    job = replace(job, attempt=next_attempt(job, storage))
    storage.write(f"{job.folder}/{job.code}", code.tarball)
    storage.write(f"{job.folder}/job.json", job.to_json().encode())
    ended = backend.submit(job)
    remember(job)
    if job.backend == "local":
        return ended
    dirty = "; the tree differs from it" if code.commit.endswith("-dirty") else ""
    left_out = f"; {len(code.untracked)} untracked files are left out" if code.untracked else ""
    print(
        f"submitted {job.name} at commit {code.commit[:12]}{dirty}{left_out}\n"
        f"follow it: {PROGRAM} status {job.name} · {PROGRAM} logs {job.name} --follow"
        + (f" · {PROGRAM} watch {job.name}" if backend.restarts == "watch" else "")
        + f"\nstop it: {PROGRAM} cancel {job.name}"
    )
    return ended
