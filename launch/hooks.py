"""Events of a watch, told to a command and to a web address of the user's choice."""

import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from absl import flags

from efficientnet_pod.errors import UserError
from efficientnet_pod.workdir.redact import redact, redact_strings
from efficientnet_pod.workdir.values import to_json

EVENTS = ("started", "preempted", "recovered", "done", "failed")
HOOK_SECONDS = 10.0


class Hooks:
    """Tells events to a command and to a web address; what they do wrong is one line and ends nothing."""

    def __init__(
        self, command: str | None = None, webhook: str | None = None, *, seconds: float = HOOK_SECONDS
    ):
        """Takes a line for the shell, an address, and the time that each may take.

        Raises:
          UserError: the address is none of the web. The message leaves it out, for it may be a secret.
        """
        if webhook and not (urlsplit(webhook).scheme in ("http", "https") and urlsplit(webhook).netloc):
            raise UserError("--webhook is no address of the web; write --webhook=https://HOST/PATH")
        self._command, self._webhook, self._seconds = command, webhook, seconds

    def tell(self, event: str, text: str, facts: dict[str, Any], say: Callable[[str], None]) -> None:
        """Tells one of `EVENTS` as a JSON table without secrets; `say` gets a line on each failure."""
        if not self._command and not self._webhook:
            return
        time = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        table = redact_strings({"event": event, "time": time, "text": text, **facts})
        document = to_json(table).encode()
        if self._command and (failure := self._call(self._command, document)):
            say(f"--on-event {failure}; the watch goes on")
        if self._webhook and (failure := self._post(self._webhook, document)):
            say(f"--webhook {failure}; the watch goes on")

    def _call(self, command: str, document: bytes) -> str:
        """Returns what was wrong; empty if nothing was."""
        try:
            process = subprocess.Popen(
                command,
                shell=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        try:
            _, errors = process.communicate(document, timeout=self._seconds)
        except subprocess.TimeoutExpired:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"did not end within {self._seconds:g} s and was killed"
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        why = f": {redact(last)[:200]}" if last else ""
        return f"ended with exit code {process.returncode}{why}" if process.returncode else ""

    def _post(self, address: str, document: bytes) -> str:
        """Returns what was wrong; empty if nothing was."""
        answers: list[str] = []
        # A server that sends its answer byte by byte outlasts the time of a socket, but not that of a thread.
        thread = threading.Thread(target=lambda: answers.append(self._answer(address, document)), daemon=True)
        thread.start()
        thread.join(self._seconds)
        return answers[0] if answers else f"did not answer within {self._seconds:g} s"

    def _answer(self, address: str, document: bytes) -> str:
        headers = {"Content-Type": "application/json", "User-Agent": "efficientnet-pod"}
        try:
            request = urllib.request.Request(address, document, headers)
            with urllib.request.urlopen(request, timeout=self._seconds):
                return ""
        except urllib.error.HTTPError as error:
            return f"was refused with HTTP status {error.code}"
        except Exception as error:  # the name, the network, the certificate; their texts may have the address
            reason = getattr(error, "reason", error)
            return f"cannot be reached: {getattr(reason, 'strerror', None) or type(reason).__name__}"


def define_hooks(values: flags.FlagValues) -> None:
    """Defines the flags of `watch` that name hooks."""
    events = ", ".join(EVENTS)
    about = f"Line for the shell that gets each event ({events}) as JSON on its standard input."
    flags.DEFINE_string("on_event", None, about, flag_values=values)
    about = f"Address that gets each event ({events}) as JSON, in a POST request."
    flags.DEFINE_string("webhook", None, about, flag_values=values)
