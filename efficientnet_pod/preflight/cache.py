"""Owns the cache of what compilers have said of a program, so that a second preflight does not compile."""

import gzip
import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import jax

from efficientnet_pod.run.run import Run

_FORMAT = 1
_COMPILERS = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin")
_OPTIONS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


@dataclass(frozen=True)
class Memory:
    """Bytes of one replica while a program runs, as the compiler counts them.

    Attributes:
      arguments: the state and a batch.
      outputs: the next state and the counts.
      aliased: of the outputs, what takes the place of an argument.
      temporaries: activations above all.
      code: the program itself.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """What the device must have."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclass(frozen=True)
class Said:
    """What a compiler said of one program.

    Attributes:
      text: optimised HLO; empty of a program that is too large.
      memory: None of a program that is too large.
      cost: what the compiler's cost analysis has: ``flops``, ``bytes accessed``, ``optimal_seconds``.
      needed: bytes of a program that is too large, as far as the compiler counted.
    """

    text: str
    memory: Memory | None
    cost: dict[str, float]
    needed: int | None = None

    @property
    def is_too_large(self) -> bool:
        """Whether the compiler has refused the program for its memory."""
        return self.memory is None


def default_cache() -> Path:
    """Returns the folder in which this user's programs caches what it can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "efficientnet-pod"


def key_of(run: Run, lowered: jax.stages.Lowered) -> str:
    """Returns what tells a program from others: text, devices in order, compilers and their options."""
    devices = [(device.device_kind, device.id) for device in run.mesh.devices.flat]
    options = [(name, os.environ.get(name)) for name in _OPTIONS]
    told = json.dumps([_FORMAT, devices, run.runtime.platform, _versions(), options])
    return hashlib.sha256(f"{told}\n{lowered.as_text()}".encode()).hexdigest()


def read(folder: Path, key: str) -> Said | None:
    """Returns what was written under a key; None if nothing was, or if it is damaged."""
    try:
        with gzip.open(_file(folder, key), "rt") as file:
            fields = json.load(file)
        memory = fields.pop("memory")
        return Said(memory=Memory(**memory) if memory else None, **fields)
    except (OSError, EOFError, ValueError, TypeError, KeyError):
        return None


def write(folder: Path, key: str, said: Said) -> None:
    """Keeps what a compiler said; a reader finds all of it or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "wb") as raw, gzip.open(raw, "wt", compresslevel=4) as file:
        json.dump(asdict(said), file)
    os.replace(name, _file(folder, key))


def _file(folder: Path, key: str) -> Path:
    return folder / f"{key}.json.gz"


def _versions() -> dict[str, str]:
    found = {}
    for name in _COMPILERS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
