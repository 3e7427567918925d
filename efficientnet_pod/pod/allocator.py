"""Memory from the operating system, where it decides the speed of a CPU step."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h of the GNU C library


def keep_freed_memory() -> bool:
    """Makes the C library keep what the process frees; returns whether it does, False where it cannot.

    XLA's CPU backend asks for all of a step's scratch memory at its start, gigabytes for B0 at 224 pixels,
    and frees it at its end. By default the GNU C library hands such a block back to the system. Every step
    then pays again for each of its pages: a fifth of its time or more.

    Call it before the backend starts, since a thread keeps the arena it began with. The process then stays
    as large as its largest step.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # One arena that grows and never shrinks: not a mapping for each block, nor an arena for each thread,
    # which cannot hold a block above 64 MB and maps it after all.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1))
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in settings)
