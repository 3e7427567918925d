"""The mark of the one `watch` of a job: which process has it, and until when."""

import json
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.owner_record import OwnerRecord, this_process
from launch.job.job import Job
from launch.workdir.storage import Storage

# A watch that cannot be asked whether it lives, on another machine, counts as gone after this time. Deleting
# machines may keep a watch busy for five minutes.
_HOLD_SECONDS = 600.0
_RENEW_SECONDS = 60.0


class WatcherMark:
    """A file in the workdir that names the process whose watch restarts the job.

    Of two watches that begin in the same moment both may take it; one of them ends at its next renewal.
    """

    def __init__(
        self,
        job: Job,
        storage: Storage,
        warn: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
    ):
        """Touches nothing; `warn` gets a line if the mark cannot be written; `clock` is the time of day."""
        self._name, self._file = job.name, f"{job.folder}/watch.json"
        self._storage, self._warn, self._clock = storage, warn, clock
        self._id, self._renewed_at, self._has_warned = str(uuid.uuid4()), 0.0, False
        self._process = this_process()

    def take(self) -> None:
        """Takes the mark; raises `UserError` if another watch has it that may live."""
        if other := self._other():
            ends = datetime.fromtimestamp(other.fields["until"], UTC)
            raise UserError(
                f"'{self._name}' is watched already, by {_process(other)}; one watch is enough, follow it: "
                f"efficientnet-pod launch status {self._name}; if that process is gone, try again at "
                f"{ends:%H:%M:%S} UTC"
            )
        self._write(self._clock() + _HOLD_SECONDS)

    def keep(self) -> None:
        """Renews the mark when it is time; raises `RunError` if another watch has taken it."""
        if self._clock() - self._renewed_at < _RENEW_SECONDS:
            return
        if other := self._other():
            raise RunError(
                f"'{self._name}' is watched by {_process(other)} too; this watch ends, and the job goes on"
            )
        self._write(self._clock() + _HOLD_SECONDS)

    def release(self) -> None:
        """Gives the mark back, if this watch still has it."""
        if not self._other():
            self._write(0.0)

    def _other(self) -> OwnerRecord | None:
        """Returns the record of another watch that may live; None if there is none, or it cannot be read."""
        try:
            record = OwnerRecord((self._storage.read(self._file) or b"").decode(errors="replace"))
            is_over = float(record.fields.get("until", 0.0)) <= self._clock()
        except (RunError, TypeError, ValueError):
            return None
        is_ours = record.fields.get("id") == self._id
        return None if is_ours or is_over or record.lives is False else record

    def _write(self, until: float) -> None:
        self._renewed_at = self._clock()
        record = {"id": self._id, "until": until, **self._process}
        try:
            self._storage.write(self._file, (json.dumps(record) + "\n").encode())
        except RunError as error:  # the job goes on without it
            if not self._has_warned:
                self._warn(f"{error}; the watch goes on, but other watches do not know of it")
            self._has_warned = True


def _process(record: OwnerRecord) -> str:
    pid, host, since = map(record.fields.get, ("pid", "host", "since"))
    return f"process {pid} on host {host}, since {since}"
