"""Files, local or remote: written whole, measured, removed, and what an error of theirs means."""

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator

from etils import epath

# What reading a damaged file may end with; any other system error says nothing about the file.
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.EINVAL}
# The same of a remote file: TensorStore's ValueErrors begin so, TensorFlow's classes are named so.
_NO_DAMAGE = (
    "permissiondenied",
    "unauthenticated",
    "unavailable",
    "deadlineexceeded",
    "aborted",
    "cancelled",
)


def write_whole(path: epath.Path, text: str) -> None:
    """Writes a file whole or not at all; it is on the disk when this returns."""
    scratch = path.parent / f".{path.name}.partial"
    with scratch.open("w") as file:
        file.write(text)
        file.flush()
        if not _is_remote(path):  # a remote object is there once it is closed
            os.fsync(file.fileno())
    scratch.replace(path)


def sizes_of_files(folder: epath.Path) -> dict[str, int]:
    """Returns the bytes of each file below a folder, by relative path; of none if there is no folder."""
    return dict(_sizes(folder, "")) if folder.exists() else {}


def remove(path: epath.Path) -> None:
    """Removes a file or a folder, into which threads of a failed write may still write for a moment.

    Raises:
      OSError: it stays.
    """
    for pause in (0.1, 1.0, None):
        try:
            return path.rmtree() if path.is_dir() else path.unlink()
        except OSError:
            if pause is None:
                raise
            time.sleep(pause)


def free_bytes(folder: epath.Path) -> int | None:
    """Returns the bytes free on the file system of a folder, None if nobody can tell."""
    try:
        return None if _is_remote(folder) else shutil.disk_usage(folder).free
    except OSError:
        return None


def is_damage(error: BaseException) -> bool:
    """Returns whether an error of reading speaks against the file, and not against the way to it."""
    number = _system_error(error)
    if number is not None:
        return number in _DAMAGE
    words = (type(error).__name__, str(error))
    return not isinstance(error, MemoryError) and not any(
        word.replace("_", "").lower().startswith(_NO_DAMAGE) for word in words
    )


def reason(error: BaseException) -> str:
    """Returns why a file could not be read or written, a few words on one line."""
    number = _system_error(error)
    if number is not None:
        return os.strerror(number)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _is_remote(path: epath.Path) -> bool:
    return "://" in str(path)


def _sizes(folder: epath.Path, prefix: str) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _sizes(path, f"{prefix}{path.name}/")
        else:
            # Of a local file epath's own `stat` looks up the owner, who in a container may have no name.
            yield prefix + path.name, path.stat().length if _is_remote(path) else os.stat(path).st_size


def _system_error(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    code = re.search(r"os_error_code='(\d+)'", str(error))  # as TensorStore words it
    return int(code[1]) if code else None
