"""Calls of other command-line tools, such as kubectl, sky and sbatch, and the YAML that two of them read."""

import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import yaml

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.workdir.redact import redact

CALL_SECONDS = 120.0


def require_tool(name: str, remedy: str) -> None:
    """Checks that a tool is on the path; raises `UserError` with the remedy if not."""
    if shutil.which(name) is None:
        raise UserError(f"this backend calls {name}, which is not on the path; {remedy}")


def call(command: Sequence[str], *, stdin: str = "", missing: Sequence[str] = ()) -> str | None:
    """Returns the output of a tool; None if its error has a word of `missing`: the thing does not exist.

    Raises:
      RunError: the tool failed, or took too long.
    """
    shown = " ".join(command[:3])
    try:
        ended = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=CALL_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(f"{shown} did not answer within {CALL_SECONDS:.0f} s; try again") from error
    if ended.returncode == 0:
        return ended.stdout
    message = redact(" ".join((ended.stderr or ended.stdout).split()))
    if any(word in message for word in missing):
        return None
    raise RunError(f"{shown} failed with exit code {ended.returncode}: {message[:300]}")


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def to_yaml(document: dict[str, Any]) -> str:
    """Returns a document as YAML for people: fields in the given order, scripts as they are."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100)
