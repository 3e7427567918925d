"""How a command ends other than well: what each exception prints, and its exit code."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user asked for cannot be done.

    The message is one line: what is wrong, with its value; the rule; the remedy.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the nearest known word, else ``"; known: a, b, c"``."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}"


class RunError(RuntimeError):
    """A run cannot go on, and the user's input is not to blame: one line, exit code 1."""


# Of a process that was told to stop and has lost nothing: start the same command again.
CHECKPOINTED = 42


class Preempted(Exception):
    """A run was told to stop and has saved what it had: one line, exit code 42."""


def exit_code_of(error: BaseException) -> int:
    """Returns the exit code of a command that an exception has ended."""
    match error:
        case UserError():
            return 2
        case Preempted():
            return CHECKPOINTED
        case KeyboardInterrupt():
            return 130
        case _:
            return 1
