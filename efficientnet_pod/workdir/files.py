"""Files, local or remote: written whole or not at all, measured, removed, with errors in plain words."""

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from etils import epath

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.redact import redact_strings
from efficientnet_pod.workdir.values import to_json

# Errors of reading a damaged file; any other system error says nothing about the file.
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.EINVAL}
# Errors of a service that is busy, throttles or fails, which say nothing about a remote file either. They
# stand in TensorStore's ValueErrors, and in the names of other libraries' classes.
_NO_DAMAGE = re.compile(
    "permissiondenied|unauthenticated|(service)?unavailable|deadlineexceeded|timeout|connection|aborted"
    "|cancelled|resourceexhausted|toomanyrequests|internal|unknown"
)
GIT_LFS = b"version https://git-lfs"  # begins a small text that Git LFS has in place of a file
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# In an object store a path is a pattern to some libraries and a URL to others, which agree on all but these.
_NOT_REMOTE = re.compile(r"[*?\[\]\\#%]")
# Orbax and TensorFlow find files by a glob over the whole path; TensorStore takes a backslash for a slash and
# refuses names that end in `.__lock`. In such a path files would be lost, or written elsewhere.
_MISREAD = re.compile(r"[*?\[\]\\]|\.__lock(/|$)")
_NOT_PRINTED = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # the last: bytes that are no UTF-8


def expanded(path: str) -> str:
    """Returns a path of a user with ``~`` and ``~name`` in front replaced by the home folder.

    A shell leaves both as they are in ``--workdir=~/runs``.

    Raises:
      UserError: nobody of that name has a home folder.
    """
    whole = os.path.expanduser(path)
    if whole.startswith("~"):
        name = whole.partition("/")[0]
        raise UserError(f"'{path}': '{name}' has no home folder; write ./{path} for a folder of that name")
    return whole


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns the absolute path of a folder of records, local or ``gs://``, that a user names.

    Raises:
      UserError: the records could not be kept there: there is no path, a library would take it for another
        one, or it cannot be printed.
    """
    given = os.fspath(path)

    def refuse(fault: str, remedy: str) -> UserError:
        return UserError(f"{_NOT_PRINTED.sub('?', given)!r} {fault}; {remedy}")

    if not given:
        raise UserError("the path of the workdir is empty; give one, e.g. --workdir=runs/digits")
    scheme = re.match("([a-z][a-z0-9]+):/", given)
    if scheme and not given.startswith("gs://"):
        raise refuse("is no path of a known kind", "write gs://BUCKET/RUN, or a local folder")
    folder = epath.Path(given if scheme else os.path.join(os.getcwd(), expanded(given)))
    if _NOT_PRINTED.search(str(folder)):
        raise refuse("has line ends, control characters or bytes that are no UTF-8", "choose another name")
    if scheme and _NOT_REMOTE.search(given):
        raise refuse(r"has one of * ? [ ] \ # %, which mean something else in a bucket", "choose another")
    if is_remote(folder) and not scheme:
        raise refuse(f"would be taken for {folder}", "give that, or another local folder")
    return folder


def make_writable(folder: epath.Path) -> None:
    """Makes the folder of a run, unless it exists, and checks that files can be written in it.

    Raises:
      UserError: they cannot, or Orbax lacks a package for it.
    """
    if str(folder).startswith("gs://"):
        try:
            import_module("google.cloud.storage")  # Orbax asks it about the bucket
        except ImportError:
            raise UserError(
                f"workdir '{folder}' is in Google Cloud Storage, whose package is not installed; "
                "pip install 'efficientnet-pod[gcs]'"
            ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"x")
        probe.unlink(missing_ok=True)  # of two starts at once, the other one may have removed it
    except Exception as error:  # an OSError, or what the library of an object store raises
        nearest = next((parent for parent in (folder, *folder.parents) if parent.exists()), folder)
        why, remedy = reason(error), "choose another"
        if _system_error(error) in _FULL:
            why, remedy = why + _room(nearest), "make room there or choose another"
        raise UserError(f"workdir '{folder}' cannot be written: {why}; {remedy}") from error


def is_misread(path: epath.PathLike) -> bool:
    """Returns whether libraries would take a local path for a pattern or another path; see :func:`linked`.

    Raises:
      UserError: it would, and also the path of a link.
    """
    if is_remote(path) or not _MISREAD.search(Path(path).as_posix()):
        return False
    if _MISREAD.search(Path(tempfile.gettempdir()).as_posix()):
        raise UserError(
            f"'{path}' has characters that libraries take for a pattern, and so has the folder for temporary "
            f"files, '{tempfile.gettempdir()}'; set TMPDIR to another one"
        )
    return True


@contextmanager
def linked(paths: Mapping[str, epath.PathLike]) -> Iterator[epath.Path]:
    """Yields a folder with links to these files and folders, for libraries that misread their own paths."""
    with tempfile.TemporaryDirectory(prefix="efficientnet-pod-") as folder:
        for name, path in paths.items():
            os.symlink(path, Path(folder) / name)
        yield epath.Path(folder)


def require_output(path: str, flag: str, *, folder: bool = False) -> None:
    """Checks before any work that a file, or a folder, can be written; leaves nothing behind.

    ``flag`` has given the path, such as ``--json``; the message names both.

    Raises:
      UserError: it cannot.
    """
    given, kind = f"{flag}={path}", "folder" if folder else "file"
    if not path or path.endswith("/") and not folder:
        raise UserError(f"{given} names no {kind}; name one")
    output = epath.Path(path)
    if folder:
        scratch = next(place for place in (output, *output.parents) if place.exists()) / ".writable"
    else:
        scratch = _scratch(output)
    if not folder and not is_remote(path):
        if output.is_dir():
            raise UserError(f"{given} is a folder; name a file in it, e.g. {flag}={output / 'results'}")
        if _is_written_in_place(output):
            return
        if not output.parent.exists():
            raise UserError(f"{given} is in a folder that does not exist; make it or name another")
    try:
        scratch.write_bytes(b"")
        scratch.unlink(missing_ok=True)  # of two commands at once, the other one may have removed it
    except Exception as error:  # an OSError, or what the library of an object store raises
        raise UserError(f"{given} cannot be written: {reason(error)}; name another {kind}") from error


def write_result(path: str, contents: bytes, *, or_print: bool = False) -> None:
    """Writes the result of a command to a file, whole or not at all.

    Raises:
      RunError: it cannot be written after all; with ``or_print`` it is text, and is printed instead.
    """
    try:
        write_whole(epath.Path(path), contents)
    except Exception as error:  # an OSError, or what the library of an object store raises
        if or_print:
            print(contents.decode(), end="", flush=True)
        instead = "; its contents are printed instead" if or_print else ""
        raise RunError(cannot_write(epath.Path(path), error) + instead) from error


def write_whole(file: epath.Path | Path, contents: bytes) -> None:
    """Writes a file to the disk; whatever happens, it has either its old contents or the new ones.

    What is no plain file, such as ``/dev/stdout`` or a pipe, gets the contents as they are.

    Raises:
      OSError: the file cannot be written.
    """
    if is_remote(file):
        file.write_bytes(contents)  # an object appears whole or not at all
        return
    if _is_written_in_place(file):
        with open(file, "ab") as stream:
            stream.write(contents)
        return
    scratch = _scratch(file)
    try:
        with open(scratch, "wb") as stream:
            stream.write(contents)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, file)
    except OSError:
        with suppress(OSError):
            os.unlink(scratch)
        raise
    _sync_folder(file.parent)


def contents_of(file: epath.Path) -> bytes | None:
    """Returns the bytes of a file, None if there is none."""
    try:
        return file.read_bytes() if file.exists() else None
    except FileNotFoundError:  # another process has removed it between the two
        return None


def write_json(file: epath.Path, table: dict[str, Any], *, indent: int | None = None) -> None:
    """Writes a table as JSON, whole or not at all, with the secrets in its strings blanked."""
    write_whole(file, (to_json(redact_strings(table), indent=indent) + "\n").encode())


@contextmanager
def require_written(file: epath.Path) -> Iterator[None]:
    """Turns a system's error inside into a RunError: why the file cannot be written, and the remedy."""
    try:
        yield
    except (RunError, UserError):
        raise
    except Exception as error:  # an OSError, or what the library of an object store raises
        raise RunError(cannot_write(file, error)) from error


@contextmanager
def warn_if_not_written(file: epath.Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Turns an error inside into a line for ``warn``: why the file is not written."""
    try:
        yield
    except Exception as error:  # an OSError, or what the library of an object store raises
        why = str(error) if isinstance(error, RunError) else reason(error)
        warn(f"warning: '{file}' is not written: {why}; the run goes on without it")


def _scratch(file: epath.Path | Path) -> Any:
    """Returns the file that is written and then takes the place of another one."""
    return file.parent / f".{file.name}.partial"


def _is_written_in_place(file: epath.Path | Path) -> bool:
    """Returns whether a path leads to a device or a pipe; another file must never take its place."""
    return str(file).startswith("/dev/") or os.path.exists(file) and not os.path.isfile(file)


def _sync_folder(folder: epath.Path | Path) -> None:
    """Writes the names in a folder to the disk."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cannot_write(file: epath.Path, error: Exception) -> str:
    """Returns the message for a file that could not be written, with the free bytes of its disk."""
    if not (is_remote(file) or os.path.isdir(file)) and _is_written_in_place(file):
        return f"'{file}' cannot be written: {reason(error)}; name another file and start again"
    remedy = "make room there" if _system_error(error) in _FULL else "correct that"
    return f"'{file}' cannot be written: {reason(error)}{_room(file.parent)}; {remedy} and start again"


def sizes_of_files(folder: epath.Path) -> dict[str, int]:
    """Returns the bytes of each file below a folder by relative path, nothing if there is no folder."""
    return dict(_sizes(folder, "")) if folder.exists() else {}


def remove(path: epath.Path) -> None:
    """Removes a file or a folder, even while threads of a failed write still write into it for a moment.

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
        return None if is_remote(folder) else shutil.disk_usage(folder).free
    except OSError:
        return None


def is_remote(path: epath.PathLike) -> bool:
    """Returns whether a path is in an object store, where files are written whole and cannot be locked."""
    return "://" in str(path)


def is_damage(error: BaseException) -> bool:
    """Returns whether an error of reading means that the file is damaged; else only the way to it failed."""
    number = _system_error(error)
    if number is not None:
        return number in _DAMAGE
    words = [type(error).__name__, *re.findall(r"\b[A-Z][A-Z_]+(?=:)", str(error))]
    return not isinstance(error, MemoryError) and not any(
        _NO_DAMAGE.match(word.replace("_", "").lower()) for word in words
    )


def reason(error: BaseException) -> str:
    """Returns the reason why a file could not be read or written, a few words on one line."""
    number = _system_error(error)
    if number is not None:
        return os.strerror(number)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _room(folder: epath.Path) -> str:
    free = free_bytes(folder)
    return "" if free is None else f", {free:,} bytes free"


def _sizes(folder: epath.Path, prefix: str) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _sizes(path, f"{prefix}{path.name}/")
        else:
            # Of a local file epath's own `stat` looks up the owner, who in a container may have no name.
            yield prefix + path.name, path.stat().length if is_remote(path) else os.stat(path).st_size


def _system_error(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    code = re.search(r"os_error_code='(\d+)'", str(error))  # as TensorStore words it
    return int(code[1]) if code else None
