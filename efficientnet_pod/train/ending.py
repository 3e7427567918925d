"""How a run ends on this host: one object, one order, whatever ends it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Self, TypeVar

from efficientnet_pod.errors import CHECKPOINTED, Preempted, exit_code_of, in_one_line
from efficientnet_pod.pod.interrupt import Interrupt
from efficientnet_pod.pod.peers import Peers
from efficientnet_pod.workdir.journal import Journal
from efficientnet_pod.workdir.redact import redact

Held = TypeVar("Held")


class Ending:
    """The end of a run on this host. A context manager around the whole run.

    An error that leaves the context, in this order: the other hosts hear of it, so that they do not wait for
    what this host still has to close; the journal gets its last line; everything held is closed, last opened
    first. A run that ends well closes what it holds.

    Three other ends come from threads and end the process at once: a signal while nothing is lost or a second
    signal, the failure of another host, and the watchdog. Each writes the journal's last line too. Of several
    ends the first one counts.
    """

    def __init__(self, interrupt: Interrupt, peers: Peers):
        """Takes what can end the run from outside: signals, and the other hosts."""
        self._interrupt, self._peers = interrupt, peers
        self._held = ExitStack()
        self._journal: Journal | None = None

    def __enter__(self) -> Self:
        self.hold(self._peers.subscribed(on_failure=self._on_failure))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error and not isinstance(error, Preempted):
            self._peers.tell_failure(redact(in_one_line(error)), exit_code_of(error))
        if error and self._journal:
            self._journal.end_with(error, stopped_by=self._interrupt.reason)
        self._held.__exit__(kind, error, trace)

    def hold(self, context: AbstractContextManager[Held]) -> Held:
        """Enters a context until the run ends."""
        return self._held.enter_context(context)

    def close_with(self, close: Callable[[], None]) -> None:
        """Calls ``close`` when the run ends, unless the process is ended at once."""
        self._held.callback(close)

    def before_exit(self, action: Callable[[], None]) -> None:
        """Calls ``action`` before this process is ended at once by a signal."""
        self._interrupt.before_exit.append(action)

    def is_written_to(self, journal: Journal) -> None:
        """Gives the last line to this journal."""
        self._journal = journal
        self.before_exit(lambda: journal.end("stopped", reason=self._interrupt.reason))

    def on_stuck(self, line: str) -> None:
        """Ends the journal and tells the others, before the watchdog ends this process."""
        if self._journal:
            self._journal.end("failed", error=redact(line))
        self._peers.tell_failure(line, 1)
        self._peers.linger()  # were host 0 to end at once, the others would never hear why

    def _on_failure(self, host: int, line: str, exit_code: int) -> None:
        if not self._journal:
            return
        if exit_code == CHECKPOINTED:
            self._journal.end("stopped", reason=f"host {host}: {line}")
        else:
            self._journal.end("failed", error=redact(f"host {host}: {line}"))
