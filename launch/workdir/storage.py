"""Files of the launcher in a run's workdir: in a bucket of Google Cloud Storage, or in a folder."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.files import write_whole
from efficientnet_pod.workdir.redact import redact

CALL_SECONDS = 60.0
NO_CREDENTIALS = "there are no Google Cloud credentials here; run: gcloud auth application-default login"
# Source: Cloud Storage documentation, bucket naming. The service itself says whether a name is long enough.
_BUCKET = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")


class Folder:
    """Files of this machine, by their whole path. What the system refuses is a `RunError`."""

    def require(self, workdir: str) -> None:
        """Makes the workdir; raises `UserError` if that is impossible."""
        try:
            Path(workdir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--workdir={workdir} cannot be made: {error.strerror}; choose another"
            ) from error

    def exists(self, path: str) -> bool:
        """Returns whether there is such a folder."""
        return Path(path).is_dir()

    def write(self, path: str, contents: bytes) -> float:
        """Writes a file whole, and its folder; returns the time by the disk's clock, seconds since 1970."""
        with _refusals(path, "written"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(Path(path), contents)
            return Path(path).stat().st_mtime

    def read(self, path: str) -> bytes | None:
        """Returns the contents of a file; None if there is none."""
        with _refusals(path, "read"):
            return Path(path).read_bytes() if Path(path).is_file() else None

    def names(self, folder: str) -> list[str]:
        """Returns the sorted names of the files right in a folder; none if it does not exist."""
        return sorted(path.name for path in Path(folder).glob("*") if path.is_file())

    def folders(self, folder: str) -> list[str]:
        """Returns the sorted names of the folders right in a folder; none if it does not exist."""
        return sorted(path.name for path in Path(folder).glob("*") if path.is_dir())


class Bucket:
    """Objects of Google Cloud Storage, by their whole ``gs://`` path.

    A request that the service refuses, or does not answer, raises a `RunError`.
    """

    def __init__(self, client: Any):
        """Takes a ``google.cloud.storage.Client``."""
        self._client = client

    def require(self, workdir: str) -> None:
        """Checks that the bucket exists and may be read; raises `UserError` if not."""
        name, _ = split(workdir)
        try:
            exists = self.exists(workdir)
        except Exception as error:  # of the network, of the credentials, of the service
            message = redact(" ".join(str(error).split()))[:200]
            raise UserError(
                f"bucket gs://{name} cannot be reached: {message}; check network, credentials and permissions"
            ) from error
        if not exists:
            raise UserError(
                f"there is no bucket gs://{name}; make it: gcloud storage buckets create gs://{name} "
                "--location=REGION, or correct --workdir"
            )

    def exists(self, path: str) -> bool:
        """Returns whether there is the bucket of a path; raises what Google's client raises."""
        return self._client.bucket(split(path)[0]).exists(timeout=CALL_SECONDS)

    def write(self, path: str, contents: bytes) -> float:
        """Writes an object; returns the time by the service's clock, seconds since 1970."""
        blob = self._blob(path)
        with _refusals(path, "written"):
            blob.upload_from_string(contents, timeout=CALL_SECONDS)
            return blob.updated.timestamp()

    def read(self, path: str) -> bytes | None:
        """Returns the contents of an object; None if there is none."""
        blob = self._blob(path)
        with _refusals(path, "read"):
            return blob.download_as_bytes(timeout=CALL_SECONDS) if blob.exists(timeout=CALL_SECONDS) else None

    def names(self, folder: str) -> list[str]:
        """Returns the sorted names of the objects right in a folder; none if it does not exist."""
        with _refusals(folder, "listed"):
            return sorted(blob.name.rpartition("/")[2] for blob in self._blobs(folder))

    def folders(self, folder: str) -> list[str]:
        """Returns the sorted names of the folders right in a folder; none if it does not exist."""
        with _refusals(folder, "listed"):
            blobs = self._blobs(folder)
            list(blobs)  # prefixes are known once the objects were read
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in blobs.prefixes)

    def _blob(self, path: str) -> Any:
        bucket, name = split(path)
        return self._client.bucket(bucket).blob(name)

    def _blobs(self, folder: str) -> Any:
        bucket, prefix = split(folder.rstrip("/") + "/")
        return self._client.list_blobs(bucket, prefix=prefix, delimiter="/", timeout=CALL_SECONDS)


Storage = Folder | Bucket


@contextmanager
def _refusals(path: str, done: str) -> Iterator[None]:
    """Turns what goes wrong with a path into a `RunError` of one line; `done` says what was to be done."""
    try:
        yield
    except Exception as error:  # of the disk; of the network, the credentials or the service
        reason = redact(" ".join(str(getattr(error, "strerror", None) or error).split()))[:200]
        raise RunError(f"'{path}' cannot be {done}: {reason or type(error).__name__}") from error


def split(path: str) -> tuple[str, str]:
    """Returns bucket and object of a ``gs://`` path."""
    parts = urlsplit(path)
    return parts.netloc, parts.path.lstrip("/")


def is_bucket(path: str) -> bool:
    """Returns whether a path is in Google Cloud Storage."""
    return path.startswith("gs://")


def require_path(workdir: str, *, bucket: bool) -> None:
    """Checks the words of a workdir; nothing is looked up.

    `bucket` says that the workers can reach nothing but a bucket.

    Raises:
      UserError: it must be in a bucket and is not, or it names no valid bucket, or no folder in it.
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
    """Returns the storage that holds a path.

    Raises:
      UserError: it is in a bucket, and Google's package or the credentials are missing.
    """
    if not is_bucket(path):
        return Folder()
    try:  # late: workdirs that are folders need no Google package
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
        raise UserError(NO_CREDENTIALS) from error
