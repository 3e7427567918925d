"""The cache of compilers' output, so that a second preflight of the same program does not compile it."""

import gzip
import hashlib
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import jax

from efficientnet_pod.pod.runtime import version_of
from efficientnet_pod.run.run import Run
from efficientnet_pod.run.train_step import options_of

_FORMAT = 1
_COMPILERS = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin")
_OPTIONS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


@dataclass(frozen=True)
class MemoryTotals:
    """Bytes of one replica while a program runs, as the compiler counts them.

    Attributes:
      arguments: the state and a batch.
      outputs: the next state and the counts.
      aliased: the part of the outputs that takes the place of an argument.
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
        """Bytes that the device must have."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclass(frozen=True)
class CompilerOutput:
    """The output of a compiler for one program.

    Attributes:
      text: optimised HLO; empty if the program is too large.
      memory: totals of the program; None if it is too large.
      cost: entries of the compiler's cost analysis: ``flops``, ``bytes accessed``, ``optimal_seconds``.
      needed: bytes of a program that is too large, as far as the compiler counted.
    """

    text: str
    memory: MemoryTotals | None
    cost: dict[str, float]
    needed: int | None = None

    @property
    def is_too_large(self) -> bool:
        """Whether the compiler has refused the program for its memory."""
        return self.memory is None

    @property
    def hbm_bytes(self) -> int | None:
        """Bytes that the program needs; None if it is too large and the compiler did not count them."""
        return self.memory.total if self.memory else self.needed


def key_of(run: Run, lowered: jax.stages.Lowered) -> str:
    """Returns the key of a program: a hash of its text, its devices in order, and the compilers' options."""
    devices = [(device.device_kind, device.id) for device in run.mesh.devices.flat]
    options = [(name, os.environ.get(name)) for name in _OPTIONS]
    versions = {name: version for name in _COMPILERS if (version := version_of(name))}
    of_steps = options_of(run.mesh)
    circumstances = json.dumps([_FORMAT, devices, run.runtime.platform, versions, options, of_steps])
    return hashlib.sha256(f"{circumstances}\n{lowered.as_text()}".encode()).hexdigest()


def read(folder: Path, key: str) -> CompilerOutput | None:
    """Returns the output under a key; None if there is none, or if it is damaged."""
    try:
        with gzip.open(_file(folder, key), "rt", encoding="utf-8") as file:
            fields = json.load(file)
        memory = fields.pop("memory")
        return CompilerOutput(memory=MemoryTotals(**memory) if memory else None, **fields)
    except (OSError, EOFError, ValueError, TypeError, KeyError):
        return None


def write(folder: Path, key: str, output: CompilerOutput) -> None:
    """Keeps the output of a compiler; a reader finds all of it or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f"{key}.{os.getpid()}.{threading.get_ident()}"
    with gzip.open(scratch, "wt", compresslevel=4, encoding="utf-8") as file:
        json.dump(asdict(output), file)
    scratch.replace(_file(folder, key))


def _file(folder: Path, key: str) -> Path:
    return folder / f"{key}.json.gz"
