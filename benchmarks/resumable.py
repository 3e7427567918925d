"""Owns the results of long benchmarks: each made in a process of its own, kept as a JSON line, made once."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
Result = dict[str, Any]


def made_of(sources: Iterable[str]) -> dict[str, str]:
    """Returns a digest of the source files, folders with all below them, and the versions beneath."""
    sha = hashlib.sha256()
    for source in sources:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            sha.update(file.read_bytes())
    packages = {name: metadata.distributions(name=name) for name in ("jax", "libtpu", "flax", "optax")}
    versions = {name: next((one.version for one in found), "-") for name, found in packages.items()}
    return {"sources": sha.hexdigest()[:16]} | versions


class Results:
    """The results in a file of JSON lines, and those still to be made."""

    def __init__(self, path: Path, *, resume: bool):
        self.failures = 0
        self._path = path
        self._old = self._read() if resume else []

    def kept(self, identity: dict[str, Any]) -> Result | None:
        """Returns the result of that identity if it is there, the newest."""
        return next((old for old in self._old if identity.items() <= old.items()), None)

    def get(
        self, identity: dict[str, Any], command: Sequence[str], *, seconds: float | None = None
    ) -> Result | None:
        """Returns the result of that identity, made by ``python -m command`` if it is not there.

        The command prints it as its last line, a JSON object. None if it fails: its last words go to stderr.
        After ``seconds`` it fails, and all processes that it has started end.
        """
        if old := self.kept(identity):
            return old
        print(f"python -m {' '.join(command)}", file=sys.stderr, flush=True)
        status, output, words = _run([sys.executable, "-m", *command], seconds)
        answers = [line for line in output.splitlines() if line.startswith("{")]
        if status or not answers:
            self.failures += 1
            print(*words.splitlines()[-20:], sep="\n", file=sys.stderr)
            ending = f"was ended after {seconds:.0f} s" if status is None else f"ended with status {status}"
            print(ending, file=sys.stderr, flush=True)
            return None
        result = identity | json.loads(answers[-1])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(f"\n{json.dumps(result)}\n")  # also after a line that was cut off
        return result

    def _read(self) -> list[Result]:
        """Returns what is there, the newest first; a line that an interruption cut off is dropped."""
        found, lines = [], self._path.read_text().splitlines() if self._path.exists() else []
        for line in filter(None, lines):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                print(f"{self._path}: a line is not whole and is left out", file=sys.stderr)
        return found[::-1]


def _run(command: Sequence[str], seconds: float | None) -> tuple[int | None, str, str]:
    """Returns status, output and messages of a process; its status is None if it took too long."""
    options: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "cwd": ROOT,
    }
    # A session of its own: a compiler's helper processes end with it, and do not hold its output open.
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        try:
            output, words = process.communicate(timeout=seconds)
            return process.returncode, output, words
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return (None, *process.communicate())
