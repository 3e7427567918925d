"""A run's hold of its workdir: one run at a time, and a dead run is no hindrance."""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from etils import epath

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.files import is_remote, make_writable, require_written, write_whole
from efficientnet_pod.workdir.owner_record import FILE, OwnerRecord, read_owner, this_process

_LOCK = ".owner.lock"
_SETTLE_SECONDS = 2.0  # between writing and reading back, where files cannot be locked
_RELEASE_SECONDS = 5.0


class Owner:
    """A run's hold of its workdir. A context manager: entering takes the workdir, leaving gives it back.

    ``owner.json`` names the process that holds the workdir. If it runs on this machine, /proc tells whether
    it is alive. Elsewhere a thread increments ``beat`` in the file; a watcher checks that the number changes,
    so clocks need not agree.

    Of two starts at once exactly one wins where the file system locks files between the two, as every local
    one does. An object store does not: both write, and after a moment the one that was written last holds the
    workdir. A run that was stopped for too long to beat may lose its workdir to another one; it learns of it
    within an interval.

    Attributes:
      run_id: id of this hold, in the file.
    """

    def __init__(self, folder: epath.Path, *, interval: float = 10.0, warn: Callable[[str], None] = print):
        """Names the workdir; nothing is touched.

        Beats are ``interval`` seconds apart. ``warn`` gets a line on a wait for another run, on a takeover.
        """
        self._folder, self._file, self._lock = folder, folder / FILE, folder / _LOCK
        self._interval, self._warn = interval, warn
        self.run_id = str(uuid.uuid4())
        self._fields: dict[str, Any] = {}
        self._thread: threading.Thread | None = None
        self._ended, self._lost = threading.Event(), threading.Event()
        self._taker: OwnerRecord | None = None

    def __enter__(self) -> Self:
        """Takes the workdir; watches a run on another machine for some intervals before it takes over.

        Raises:
          UserError: another run holds it, or the folder cannot be written.
          RunError: the file cannot be written or replaced.
        """
        make_writable(self._folder)
        self._fields = {"run_id": self.run_id, "beat": 0, **this_process()}
        with require_written(self._file):
            self._take()
        self._thread = threading.Thread(target=self._beat, name="owner", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        """Gives the workdir back, if this run still has it. May be called again, and from any thread.

        Takes some seconds at most, even where the file system hangs: the next start then finds a dead owner.
        """
        self._ended.set()
        thread = threading.Thread(target=self._give_back, name="owner-release", daemon=True)
        with suppress(RuntimeError):  # the interpreter is ending: no new threads
            thread.start()
            thread.join(_RELEASE_SECONDS)

    def raise_if_lost(self) -> None:
        """Raises RunError when another run has taken the workdir; costs nothing."""
        if self._lost.is_set():
            raise RunError(
                f"workdir '{self._folder}' has been taken over by {self._taker}, which found no sign of this "
                "run; nothing more is written there; look at that run, and start only one"
            )

    def _take(self) -> None:
        watched: OwnerRecord | None = None
        while True:
            with self._exclusively() as is_locked:
                record = read_owner(self._file)
                if record is None or record == watched or record.lives is False:
                    if record is not None:
                        self._warn(f"took the workdir over from {record}, which no longer lives")
                    self._write()
                    break
            if record.lives or watched is not None:
                raise self._refusal(record)
            watched = self._watch(record)
        if not is_locked:
            self._ended.wait(_SETTLE_SECONDS)
            record = read_owner(self._file) or OwnerRecord("")
            if record.run_id != self.run_id:
                raise self._refusal(record)

    def _watch(self, record: OwnerRecord) -> OwnerRecord:
        """Returns the record if the file has not changed after some intervals, else refuses: it beats."""
        seconds = 2.5 * self._interval
        self._warn(f"waiting {seconds:.0f} s to see whether {record} still lives")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._ended.wait(min(self._interval / 4, max(until - time.monotonic(), 0)))
            now = read_owner(self._file)
            if now is None:
                break  # given back meanwhile
            if now != record:
                raise self._refusal(now)
        return record

    def _refusal(self, record: OwnerRecord) -> UserError:
        return UserError(
            f"workdir '{self._folder}' is in use by {record}; stop that run, or choose another --workdir"
        )

    def _beat(self) -> None:
        is_silent = False
        while not self._ended.wait(self._interval):
            try:
                with self._exclusively():
                    record = read_owner(self._file)
                    if record is not None and record.run_id != self.run_id:
                        self._taker = record
                        self._lost.set()
                        return
                    if not self._ended.is_set():
                        self._fields["beat"] += 1
                        self._write()
                is_silent = False
            except Exception as error:  # a full disk, a network gone: the run may outlive it
                if not is_silent:
                    why = " ".join(str(error).split())
                    self._warn(
                        f"warning: {self._file} cannot be refreshed: {why}; a start on another machine "
                        "may take this run for dead"
                    )
                is_silent = True

    def _give_back(self) -> None:
        if self._thread:
            self._thread.join()
        with suppress(Exception), self._exclusively():
            record = read_owner(self._file)
            if record and record.run_id == self.run_id:
                self._file.unlink()

    def _write(self) -> None:
        write_whole(self._file, (json.dumps(self._fields, indent=2) + "\n").encode())

    @contextmanager
    def _exclusively(self) -> Iterator[bool]:
        """Lets one process at a time read and then write the file; yields whether files can be locked."""
        lock = None if is_remote(self._folder) else _locked(self._lock)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)  # which unlocks it


def _locked(file: epath.Path) -> int | None:
    """Makes a file, waits for its lock and returns the descriptor; None where files cannot be locked."""
    try:
        import fcntl  # not on Windows

        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
