"""The owner file of a workdir: one run at a time, and the traces of a dead one are no hindrance."""

import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from etils import epath

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.files import cannot_write, is_remote, make_writable, write_whole

_FILE, _LOCK = "owner.json", ".owner.lock"
_SETTLE_SECONDS = 2.0  # between writing and reading back, where nothing makes the two one
_RELEASE_SECONDS = 5.0


class Owner:
    """A run's hold of its workdir. A context manager: entering takes the workdir, leaving gives it back.

    ``owner.json`` says which process holds it. Of a process on this machine the system knows whether it
    lives; of one elsewhere only the file does, whose ``beat`` a thread raises as long as the process runs. No
    clocks are compared.

    Of two starts at once exactly one wins where the file system locks files between the two, which every
    local one does. An object store does not: both write, and after a moment the one that was written last
    holds the workdir. A run that another has taken over, because it was stopped for too long to beat, hears
    of it within an interval.

    Attributes:
      run_id: of this hold, in the file.
    """

    run_id: str

    def __init__(self, folder: epath.Path, *, interval: float = 10.0, report: Callable[[str], None] = print):
        """Names the folder; nothing is touched.

        Args:
          folder: the workdir.
          interval: seconds between beats.
          report: gets a line on what is waited for and what is taken over.
        """
        self._folder, self._file, self._lock = folder, folder / _FILE, folder / _LOCK
        self._is_remote = is_remote(folder)
        self._interval, self._report = interval, report
        self.run_id = str(uuid.uuid4())
        self._record: dict[str, Any] = {}
        self._thread: threading.Thread | None = None
        self._ended, self._lost = threading.Event(), threading.Event()
        self._taker = ""

    def __enter__(self) -> Self:
        """Takes the workdir; looks for some intervals at one that a run elsewhere has held.

        Raises:
          UserError: another run holds it, or the folder cannot be written.
          RunError: the file cannot be written or replaced.
        """
        make_writable(self._folder)
        self._record = {"run_id": self.run_id, "beat": 0, **_this_process()}
        try:
            self._take()
        except UserError:
            raise
        except Exception as error:  # an OSError, or what the library of an object store raises
            raise RunError(cannot_write(self._file, error)) from error
        self._thread = threading.Thread(target=self._beat, name="owner", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def release(self) -> None:
        """Gives the workdir back, if this run still has it. May be called again, and from any thread.

        Takes some seconds at most, even where the file system hangs: what is left behind is found stale.
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
        watched: str | None = None
        while True:
            with self._exclusively() as alone:
                found = _read(self._file)
                if found is None or found == watched or _is_dead(found):
                    if found is not None:
                        self._report(f"took the workdir over from {_describe(found)}, which no longer lives")
                    self._write()
                    break
            if _lives_here(found) or watched is not None:
                raise self._refusal(found)
            watched = self._watch(found)
        if not alone:
            self._ended.wait(_SETTLE_SECONDS)
            found = _read(self._file)
            if _run_id(found) != self.run_id:
                raise self._refusal(found or "")

    def _watch(self, found: str) -> str:
        """Returns what was found in the file if that has not changed after some intervals.

        Raises:
          UserError: it has: the run beats.
        """
        seconds = 2.5 * self._interval
        self._report(f"waiting {seconds:.0f} s to see whether {_describe(found)} still lives")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._ended.wait(min(self._interval / 4, max(until - time.monotonic(), 0)))
            now = _read(self._file)
            if now is None:
                break  # given back meanwhile
            if now != found:
                raise self._refusal(now)
        return found

    def _refusal(self, found: str) -> UserError:
        return UserError(
            f"workdir '{self._folder}' is in use by {_describe(found)}; stop that run, or choose another "
            "--workdir"
        )

    def _beat(self) -> None:
        is_silent = False
        while not self._ended.wait(self._interval):
            try:
                with self._exclusively():
                    found = _read(self._file)
                    if found is not None and _run_id(found) != self.run_id:
                        self._taker = _describe(found)
                        self._lost.set()
                        return
                    if not self._ended.is_set():
                        self._record["beat"] += 1
                        self._write()
                is_silent = False
            except Exception as error:  # a full disk, a network gone: the run may outlive it
                if not is_silent:
                    reason = " ".join(str(error).split())
                    self._report(
                        f"warning: {self._file} cannot be refreshed: {reason}; a start on another machine "
                        "may take this run for dead"
                    )
                is_silent = True

    def _give_back(self) -> None:
        if self._thread:
            self._thread.join()
        with suppress(Exception), self._exclusively():
            if _run_id(_read(self._file)) == self.run_id:
                self._file.unlink()

    def _write(self) -> None:
        write_whole(self._file, (json.dumps(self._record, indent=2) + "\n").encode())

    @contextmanager
    def _exclusively(self) -> Iterator[bool]:
        """Lets one process at a time read and then write the file; yields whether the file system can."""
        lock = None if self._is_remote else _locked(self._lock)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)  # which unlocks it


def _locked(file: epath.Path) -> int | None:
    """Makes a file, waits for its lock and returns the descriptor; None where files cannot be locked."""
    try:
        import fcntl  # not on Windows

        opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
    except OSError:
        os.close(opened)
        return None
    return opened


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a workdir: whether it lives (None: nobody here can know), since when, its last beat."""

    lives: bool | None = None
    since: str = ""
    beat: int | None = None


def holder_of(folder: epath.Path) -> Holder | None:
    """Returns who holds a workdir, None if nobody does; takes nothing and writes nothing."""
    try:
        found = _read(folder / _FILE)
    except Exception:  # unreadable: somebody, but who?
        return Holder()
    if found is None:
        return None
    fields = _fields(found)
    lives = _lives_here(found) if _is_of_this_machine(found) else None
    return Holder(lives, str(fields.get("since", "")), fields.get("beat"))


def _this_process() -> dict[str, Any]:
    """Returns what tells this process from all others; None where the system does not say."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "process_start": _process_start(os.getpid()),
        **_this_machine(),
    }


def _this_machine() -> dict[str, str | None]:
    """Returns the boot of the machine and the name space of its process numbers, None where unknown."""
    boot = pids = None
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pids = os.readlink("/proc/self/ns/pid")
    return {"boot_id": boot, "pid_namespace": pids}


def _process_start(pid: int) -> int | None:
    """Returns when a process was started, in ticks since the boot; None if it has ended or nobody knows."""
    try:
        # The name of the program, in parentheses, may hold anything, spaces and parentheses included.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None


def _read(file: epath.Path) -> str | None:
    """Returns the contents of the file, None where there is none."""
    try:
        return file.read_text() if file.exists() else None
    except FileNotFoundError:  # given back between the two
        return None


def _fields(found: str | None) -> dict[str, Any]:
    try:
        fields = json.loads(found or "")
    except ValueError:  # a crash of the machine may have emptied it
        return {}
    return fields if isinstance(fields, dict) else {}


def _run_id(found: str | None) -> str | None:
    return _fields(found).get("run_id")


def _is_of_this_machine(found: str) -> bool:
    """Returns whether the system here knows the process: same name, same boot, same process numbers."""
    fields, here = _fields(found), _this_machine()
    known = fields.get("process_start") is not None and None not in here.values()
    return known and {"host": socket.gethostname(), **here}.items() <= fields.items()


def _lives_here(found: str) -> bool:
    fields = _fields(found)
    # The start tells it from a later process of the same number.
    return _is_of_this_machine(found) and _process_start(fields["pid"]) == fields["process_start"]


def _is_dead(found: str) -> bool:
    return _is_of_this_machine(found) and not _lives_here(found)


def _describe(found: str) -> str:
    fields = _fields(found)
    if not fields:
        return f"a run whose {_FILE} is not readable"
    return f"the run of process {fields.get('pid')} on host {fields.get('host')}, since {fields.get('since')}"
