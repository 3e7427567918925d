"""Counts of the files in a folder, kept in that folder or in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from typing import Any
from urllib.parse import quote

from etils import epath


def stamp_of(path: str) -> list[int]:
    """Returns size and time of writing of a local file, by which it is known to be unchanged."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def read_index(folder: str, name: str) -> dict[str, dict[str, Any]]:
    """Returns the entry of each file, by file name; empty if there is no readable index."""
    for file in _index_files(folder, name):
        try:
            return json.loads(file.read_text("utf-8"))["files"]
        except (OSError, ValueError, KeyError, TypeError):  # absent or not ours: counted anew
            continue
    return {}


def write_index(folder: str, name: str, index: dict[str, dict[str, Any]], *, indent: int | None = 1) -> None:
    """Writes the index to the first place that allows it; without any, the next start counts again."""
    text = json.dumps({"files": dict(sorted(index.items()))}, indent=indent) + "\n"
    for file in _index_files(folder, name):
        # Hosts may count the same folder at the same time: each writes a whole index, and the last one stays.
        scratch = file.parent / f".{file.name}.{platform.node()}.{os.getpid()}.partial"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(text, "utf-8")
            scratch.replace(file)
            return
        except OSError:
            with contextlib.suppress(OSError):
                scratch.unlink()


def _index_files(folder: str, name: str) -> list[epath.Path]:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    quoted = quote(os.path.abspath(folder) if "://" not in folder else folder, safe="")
    of_folder = quoted if len(quoted) < 200 else hashlib.sha256(quoted.encode()).hexdigest()
    kind = name.removesuffix(".json")
    return [
        epath.Path(folder) / name,
        epath.Path(cache) / "efficientnet-pod" / kind / f"{of_folder}.json",
    ]
