"""Standard output and standard error that never stop a program: what cannot be written is noted, dropped."""

import codecs
import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, NamedTuple

_PATIENCE = 5.0  # seconds for a reader that is slow
_PLAIN = {"×": "x", "–": "-", "−": "-", "…": "...", "→": "->", "◀": "<", "·": "|", "µ": "u", "≥": ">="}


class Loss(NamedTuple):
    """The end of an output before the end of its program.

    Attributes:
      stream: ``standard output`` or ``standard error``.
      reason: why it cannot be written.
      is_unread: whether nobody reads it any more, or nobody ever did.
    """

    stream: str
    reason: str
    is_unread: bool


_LOSSES: dict[str, Loss] = {}
_may_wait = True


def losses() -> tuple[Loss, ...]:
    """Returns the outputs that were lost so far."""
    return tuple(_LOSSES.values())


def is_unread() -> bool:
    """Returns whether nobody reads standard output any more, as behind ``| head``."""
    return "standard output" in _LOSSES and _LOSSES["standard output"].is_unread


def wait_for_no_reader() -> None:
    """From now on, drops what a reader does not take: a pager that is not scrolled, a terminal after Ctrl-S.

    It is given five seconds, once. When it reads again, a line says how many bytes it has missed.
    """
    global _may_wait
    _may_wait = False


def protect() -> None:
    """Puts streams in place of ``sys.stdout`` and ``sys.stderr`` whose writes never raise.

    The first write that fails, to a full disk or a pipe without a reader, points the descriptor at the null
    device; the loss is noted. Characters that the encoding lacks are replaced. A program calls this first:
    where a standard descriptor is closed, the next file that is opened would get its number.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError as error:
            _open_null(number, flags)
            if number:
                _note(_NAMES[number], error)
    sys.stdout, sys.stderr = _stream(1, sys.stdout), _stream(2, sys.stderr)


def exit_code_with_output(code: int, *, program: str, prints_results: bool) -> int:
    """Returns the exit code of a program that has ended with ``code``, when all its output is written.

    Results that could not be printed make 0 a 1, with a line on standard error. A reader that has gone has
    read what it wanted.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    loss = _LOSSES.get("standard output")
    if code or not prints_results or loss is None or loss.is_unread:
        return code
    print(
        f"{program}: the results could not be printed: {loss.reason}; print them elsewhere", file=sys.stderr
    )
    sys.stderr.flush()
    return 1


class _Descriptor(io.FileIO):
    """A standard descriptor, whose writes write everything or note the loss."""

    def __init__(self, number: int):
        super().__init__(number, "wb", closefd=False)
        self._is_lost, self._missed = False, 0

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        while rest and not self._is_lost:
            try:
                if not self._is_read():
                    self._missed += len(rest)
                    break
                # What a pipe that is ready takes at once.
                written = super().write(rest if _may_wait else rest[: select.PIPE_BUF])
                rest = rest[written or 0 :]
            except (OSError, ValueError) as error:
                self._is_lost = True
                _note(_NAMES[self.fileno()], error)
                with suppress(OSError):
                    _open_null(self.fileno(), os.O_WRONLY)  # libraries in C write there, too
        return len(data)

    def _is_read(self) -> bool:
        """Waits for the reader, as long as is allowed; says on the stream what a late one has missed."""
        ready = select.poll()
        ready.register(self, select.POLLOUT)
        seconds = None if _may_wait else 0.0 if self._missed else _PATIENCE
        if not ready.poll(seconds and 1000 * seconds):
            if not self._missed:
                _note(_NAMES[self.fileno()], TimeoutError("its reader has stopped"))
            return False
        if self._missed:
            super().write(f"\n({self._missed:,} bytes were not read in time)\n".encode())
            self._missed = 0
        return True


_NAMES = {1: "standard output", 2: "standard error"}
_UNREAD = (errno.EPIPE, errno.EBADF, errno.EIO)  # no reader; closed from the start; a terminal that has gone


def _note(stream: str, error: OSError | ValueError) -> None:
    number = error.errno if isinstance(error, OSError) else None
    reason = "it is closed" if number == errno.EBADF else os.strerror(number) if number else str(error)
    _LOSSES[stream] = Loss(stream, reason, number in _UNREAD)


def _open_null(number: int, flags: int) -> None:
    opened = os.open(os.devnull, flags)
    if opened == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(opened, number)
        os.close(opened)


def _stream(number: int, before: Any) -> io.TextIOWrapper:
    """Returns the text stream of a descriptor, with the encoding and the buffering of the one before."""
    with suppress(OSError, ValueError, AttributeError):
        before.flush()
    return io.TextIOWrapper(
        _Descriptor(number),  # type: ignore[arg-type]  # CPython's own stream without buffer is made like this
        encoding=before.encoding if before else "utf-8",
        errors="efficientnet_pod.readable",
        line_buffering=before is not None and (before.line_buffering or before.write_through),
    )


def _readable(error: UnicodeError) -> tuple[str, int]:
    """Replaces characters: signs of ours by similar ones, others by JSON's escapes, which JSON gives back."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    units = (char.encode("utf-16-be", "surrogatepass").hex() for char in text)
    escaped = ("".join(f"\\u{unit[start : start + 4]}" for start in range(0, len(unit), 4)) for unit in units)
    plain = (_PLAIN.get(char, escape) for char, escape in zip(text, escaped, strict=True))
    return "".join(plain), error.end


codecs.register_error("efficientnet_pod.readable", _readable)
