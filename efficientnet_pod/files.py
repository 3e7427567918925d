"""How the files of a workdir are written: whole or not at all, and on disk before anything relies on them."""

import os
import shutil
from importlib import import_module

from etils import epath

from efficientnet_pod.errors import RunError, UserError


def make_writable(folder: epath.Path) -> None:
    """Makes the folder of a run, where it is not there, and checks that files can be written in it.

    Raises:
      UserError: they cannot, or Orbax could not.
    """
    if str(folder).startswith("gs://"):
        try:
            import_module("google.cloud.storage")  # which Orbax asks about the bucket
        except ImportError:
            raise UserError(
                f"workdir '{folder}' is in Google Cloud Storage, whose package is not installed; "
                "pip install 'efficientnet-pod[gcs]'"
            ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("x")
        probe.unlink(missing_ok=True)  # of two starts at once, the other one may have removed it
    except Exception as error:  # an OSError, or what the library of an object store raises
        raise UserError(f"workdir '{folder}' cannot be written: {_reason(error)}; choose another") from error


def write_whole(file: epath.Path, contents: bytes) -> None:
    """Writes a file so that, whatever happens, it has the old contents or the new; they are on disk then.

    Raises:
      RunError: the file cannot be written.
    """
    try:
        if is_remote(file):
            file.write_bytes(contents)  # an object appears whole or not at all
            return
        scratch = file.parent / f".{file.name}.partial"
        with open(scratch, "wb") as opened:
            opened.write(contents)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(scratch, file)
        _sync_folder(file.parent)
    except Exception as error:  # an OSError, or what the library of an object store raises
        raise RunError(cannot_write(file, error)) from error


def _sync_folder(folder: epath.Path) -> None:
    """Makes the names in a folder outlive a loss of power."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def cannot_write(file: epath.Path, error: Exception) -> str:
    """Returns the message for a file that could not be written, with the room that is left on its disk."""
    if is_remote(file):
        return f"'{file}' cannot be written: {_reason(error)}; mend that and start again"
    free = shutil.disk_usage(file.parent).free
    return (
        f"'{file}' cannot be written: {_reason(error)}, {free:,} bytes free; make room there and start again"
    )


def is_remote(path: epath.PathLike) -> bool:
    """Returns whether a path is of an object store, where files are written whole and cannot be locked."""
    return "://" in str(path)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())
