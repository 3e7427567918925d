"""Owns the calls of engines' own command-line tools: kubectl, sky, sbatch; what they say is one line."""

import os
import shutil
import subprocess
from collections.abc import Sequence

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.redact import redact

CALL_SECONDS = 120.0


def require_tool(name: str, remedy: str) -> None:
    """Returns if a tool is on the path; raises `UserError` with what installs it."""
    if shutil.which(name) is None:
        raise UserError(f"this back end calls {name}, which is not on the path; {remedy}")


def call(command: Sequence[str], *, given: str = "", missing: Sequence[str] = ()) -> str | None:
    """Returns what a tool prints.

    Args:
      command: the tool and its words.
      given: to it on standard input.
      missing: words of an error that mean that there is no such thing; None is returned then.

    Raises:
      RunError: it failed, or took too long.
    """
    shown = " ".join(command[:3])
    try:
        ended = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=CALL_SECONDS, env={**os.environ}
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(f"{shown} did not answer within {CALL_SECONDS:.0f} s; try again") from error
    if ended.returncode == 0:
        return ended.stdout
    said = redact(" ".join((ended.stderr or ended.stdout).split()))
    if any(word in said for word in missing):
        return None
    raise RunError(f"{shown} failed with exit code {ended.returncode}: {said[:300]}")
