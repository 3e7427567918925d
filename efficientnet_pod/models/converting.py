"""A mode of tracing: for a converter to another format, which knows fewer operations than XLA.

It is a context variable because the layers that ask are called deep inside Flax modules.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_CONVERTING: ContextVar[bool] = ContextVar("converting", default=False)


@contextmanager
def for_converter() -> Iterator[None]:
    """Inside, layers do not choose by platform, and pad before they pool; the numbers are equal."""
    token = _CONVERTING.set(True)
    try:
        yield
    finally:
        _CONVERTING.reset(token)


def is_converting() -> bool:
    """Whether this is inside :func:`for_converter`."""
    return _CONVERTING.get()
