"""The errors of this package, and the exit code of each."""

import difflib
import re
from collections.abc import Iterable


class UserError(ValueError):
    """The user asked for something that cannot be done.

    The message is one line: what is wrong, with its value; the rule; the remedy.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the nearest known word, else ``"; known: a, b, c"``."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}"


class RunError(RuntimeError):
    """A run cannot go on, and the user's input is not to blame: one line, exit code 1."""


# Exit code of a process that was told to stop and has lost nothing: start the same command again.
CHECKPOINTED = 42


class Preempted(Exception):
    """A run was told to stop and has saved what it had: one line, exit code 42."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether JAX says that a program needs more memory than there is, compiled or running."""
    is_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return is_jax and any(words in str(error) for words in ("RESOURCE_EXHAUSTED", "Out of memory"))


# The compilers' words for a program that is too large: the bytes it needs and the bytes there are.
_TOO_LARGE = (
    re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)"),
    re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm"),
)


def refused_bytes(message: str) -> tuple[int, int] | None:
    """Returns the bytes that a refused program needs and those there are, from the compiler's message."""
    for pattern in _TOO_LARGE:
        if size := pattern.search(message):
            numbers = ((size[1], size[2]), (size[3], size[4]))
            needed, limit = (round(float(n) * 1024 ** ("KMGT".index(unit) + 1)) for n, unit in numbers)
            return needed, limit
    return None


def in_one_line(error: BaseException) -> str:
    """Returns what an exception says, in one line: of an error that is not ours, its type comes first."""
    message = " ".join(str(error).split())
    if is_out_of_memory(error):
        reason = str(error).strip().splitlines()[0].rpartition("RESOURCE_EXHAUSTED")[2].strip(": ")[:200]
        return (
            f"not enough memory: {reason}; lower config.global_batch or config.data.image_size, or take more "
            "devices: efficientnet-pod preflight says what fits"
        )
    if isinstance(error, UserError | RunError | Preempted):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def exit_code_of(error: BaseException) -> int:
    """Returns the exit code of a command that an exception has ended."""
    match error:
        case UserError():
            return 2
        case _ if is_out_of_memory(error):
            return 2
        case Preempted():
            return CHECKPOINTED
        case KeyboardInterrupt():
            return 130
        case _:
            return 1
