"""The one exception that means "the user can mend this": printed as one line, exit code 2."""

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
