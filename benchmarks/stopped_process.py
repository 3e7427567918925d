"""A process that is stopped but for its turns, so that whoever has a turn has the cores for itself.

Standard library only: it runs in the environments of all peers.
"""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any


class StoppedProcess:
    """A process that answers each line of its input with a line of JSON, an object."""

    def __init__(self, command: Sequence[str], **options: Any):
        """Starts the command; ``options`` are of ``subprocess.Popen``."""
        # A session of its own: what the process starts is stopped together with it.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def first_answer(self) -> dict[str, Any]:
        """Returns what the process says of itself once it is ready; it is stopped then."""
        return self._answer()

    def ask(self, line: str) -> dict[str, Any]:
        """Returns the answer to a line; the process runs until then.

        Raises:
          RuntimeError: the process has ended.
        """
        self._signal(signal.SIGCONT)
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def kill(self) -> None:
        """Ends the process, and what it has started."""
        with suppress(ProcessLookupError):
            self._signal(signal.SIGKILL)
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        # TensorFlow and others print to the same stream: an answer is a line of JSON.
        for line in self._process.stdout:
            if line.startswith("{"):
                self._signal(signal.SIGSTOP)
                return json.loads(line)
        raise RuntimeError(f"a benchmark process ended with status {self._process.wait()}")

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self._process.pid, number)
