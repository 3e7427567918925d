"""Owns the launcher's files in a run's workdir: a bucket of Google Cloud Storage, or a folder."""

import re
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from efficientnet_pod.errors import UserError
from efficientnet_pod.workdir.redact import redact

CALL_SECONDS = 60.0
# Source: Cloud Storage documentation, bucket naming; whether it is long enough the service says.
_BUCKET = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")


class Storage(Protocol):
    """Files by their whole path, as `write` was given it."""

    def require(self, workdir: str) -> None:
        """Returns if a workdir can be there; raises `UserError` if not."""
        ...

    def write(self, path: str, contents: bytes) -> None:
        """Writes a file whole."""
        ...

    def stamp(self, path: str, contents: bytes) -> float:
        """Writes a file whole; returns when that was, by the storage's own clock: seconds since 1970."""
        ...

    def read(self, path: str) -> bytes | None:
        """Returns what a file holds; None if there is none."""
        ...

    def names(self, folder: str) -> list[str]:
        """Returns the names of the files right in a folder, sorted; none if there is no folder."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Returns the names of the folders right in a folder, sorted; none if there is no folder."""
        ...


class Folder:
    """Files on this machine."""

    def require(self, workdir: str) -> None:
        """Returns if a workdir can be there; raises `UserError` if not."""
        try:
            Path(workdir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--workdir={workdir} cannot be made: {error.strerror}; choose another"
            ) from error

    def write(self, path: str, contents: bytes) -> None:
        """Writes a file; its folder is made where it is not there."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(f"{path}.partial")
        scratch.write_bytes(contents)
        scratch.replace(path)

    def stamp(self, path: str, contents: bytes) -> float:
        """Writes a file; returns when that was, by the clock of whose disk it is: seconds since 1970."""
        self.write(path, contents)
        return Path(path).stat().st_mtime

    def read(self, path: str) -> bytes | None:
        """Returns what a file holds; None if there is none."""
        return Path(path).read_bytes() if Path(path).is_file() else None

    def names(self, folder: str) -> list[str]:
        """Returns the names of the files right in a folder, sorted; none if there is no folder."""
        here = Path(folder)
        return sorted(path.name for path in here.iterdir() if path.is_file()) if here.is_dir() else []

    def folders(self, folder: str) -> list[str]:
        """Returns the names of the folders right in a folder, sorted; none if there is no folder."""
        here = Path(folder)
        return sorted(path.name for path in here.iterdir() if path.is_dir()) if here.is_dir() else []


class Bucket:
    """Objects of Google Cloud Storage."""

    def __init__(self, client: Any):
        """Takes a ``google.cloud.storage.Client``."""
        self._client = client

    def require(self, workdir: str) -> None:
        """Returns if the bucket is there and may be read; raises `UserError` if not."""
        name, _ = split(workdir)
        try:
            is_there = self._client.bucket(name).exists(timeout=CALL_SECONDS)
        except Exception as error:  # of the network, of the credentials, of the service
            said = redact(" ".join(str(error).split()))[:200]
            raise UserError(f"bucket gs://{name} cannot be reached: {said}; mend that") from error
        if not is_there:
            raise UserError(
                f"there is no bucket gs://{name}; make it: gcloud storage buckets create gs://{name} "
                "--location=REGION, or correct --workdir"
            )

    def write(self, path: str, contents: bytes) -> None:
        """Writes an object."""
        self._blob(path).upload_from_string(contents, timeout=CALL_SECONDS)

    def stamp(self, path: str, contents: bytes) -> float:
        """Writes an object; returns when that was, by the service's clock: seconds since 1970."""
        blob = self._blob(path)
        blob.upload_from_string(contents, timeout=CALL_SECONDS)
        return blob.updated.timestamp()

    def read(self, path: str) -> bytes | None:
        """Returns what an object holds; None if there is none."""
        blob = self._blob(path)
        return blob.download_as_bytes(timeout=CALL_SECONDS) if blob.exists(timeout=CALL_SECONDS) else None

    def names(self, folder: str) -> list[str]:
        """Returns the names of the objects right below a prefix, sorted."""
        bucket, prefix = split(folder.rstrip("/") + "/")
        found = self._client.list_blobs(bucket, prefix=prefix, delimiter="/", timeout=CALL_SECONDS)
        return sorted(blob.name.removeprefix(prefix) for blob in found)

    def folders(self, folder: str) -> list[str]:
        """Returns the last parts of the prefixes right below a prefix, sorted."""
        bucket, prefix = split(folder.rstrip("/") + "/")
        found = self._client.list_blobs(bucket, prefix=prefix, delimiter="/", timeout=CALL_SECONDS)
        for _ in found:  # prefixes are known when the objects have been read
            pass
        return sorted(each.rstrip("/").rpartition("/")[2] for each in found.prefixes)

    def _blob(self, path: str) -> Any:
        bucket, name = split(path)
        return self._client.bucket(bucket).blob(name)


def split(path: str) -> tuple[str, str]:
    """Returns bucket and object of a ``gs://`` path."""
    parts = urlsplit(path)
    return parts.netloc, parts.path.lstrip("/")


def is_bucket(path: str) -> bool:
    """Returns whether a path is in Google Cloud Storage."""
    return path.startswith("gs://")


def require_path(workdir: str, *, bucket: bool) -> None:
    """Returns if a workdir is written as a back end needs it; looks at the words only.

    Raises:
      UserError: it must be in a bucket and is not, or its bucket cannot be one.
    """
    if not is_bucket(workdir):
        if bucket or "://" in workdir:
            raise UserError(
                f"--workdir={workdir} is not in a bucket, which all workers reach; write "
                "--workdir=gs://BUCKET/RUN"
            )
        return
    name, run = split(workdir)
    if not _BUCKET.fullmatch(name):
        raise UserError(f"--workdir={workdir}: '{name}' names no bucket; write --workdir=gs://BUCKET/RUN")
    if not run.strip("/"):
        raise UserError(f"--workdir={workdir} is a whole bucket; add a folder: --workdir=gs://{name}/run1")


def storage_of(path: str) -> Storage:
    """Returns the storage a path is in.

    Raises:
      UserError: it is a bucket, and its package or the credentials for it are missing.
    """
    if not is_bucket(path):
        return Folder()
    try:
        from google.auth.exceptions import DefaultCredentialsError
        from google.cloud import storage
    except ImportError:
        raise UserError(
            f"'{path}' is in Google Cloud Storage, whose package is not installed; "
            "pip install 'efficientnet-pod[launch]'"
        ) from None
    try:
        return Bucket(storage.Client())
    except (DefaultCredentialsError, OSError) as error:  # the latter where no project is known
        raise UserError(
            "there are no Google Cloud credentials here; run: gcloud auth application-default login"
        ) from error
