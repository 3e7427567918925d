"""The memory of this host: what there is of it, what the process takes, and in pages of which size."""

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

from efficientnet_pod.errors import UserError

_HUGE_PAGES = "glibc.malloc.hugetlb"  # a tunable of the GNU C library, from 2.35 on
_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ADDRESSES = 4 << 30  # bytes that importing both libraries maps, about
_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def ask_for_huge_pages() -> None:
    """Starts this process again, with the same process id, so that the C library asks for huge pages.

    XLA's CPU backend takes all of a step's scratch memory at its start, gigabytes for B0 at 224 pixels, and
    gives it back at its end. In pages of 4 KiB a third of the step's time goes into pages; in pages of 2 MiB,
    next to none. The library reads this setting when a process begins, and at no other time. Call this first
    of all: what has been imported is imported again.

    It returns where nothing is gained: the setting is made, the system gives huge pages to everybody or to
    nobody, or there is another C library.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    with suppress(OSError, ValueError, AttributeError):  # no Linux, or a C library that is not GNU's
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
        on_request = "[madvise]" in _SWITCH.read_text("utf-8")
        if library and on_request and _HUGE_PAGES not in tunables and sys.executable:
            os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{_HUGE_PAGES}=1")))
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def give_back() -> None:
    """Returns freed memory to the system, where the C library is GNU's; what a compilation leaves is 1 GB."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def require_addresses() -> None:
    """Raises UserError where ``ulimit -v`` is too low for JAX and TensorFlow to be loaded."""
    with suppress(ImportError):  # no Unix
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY and limit < _ADDRESSES:
            raise UserError(
                f"the shell's limit of {limit // 1024:,} KiB of addresses (ulimit -v) is too low to load JAX "
                f"and TensorFlow, which takes {_ADDRESSES // 1024:,}; lift it: ulimit -v unlimited"
            )


def resident_bytes() -> int | None:
    """Returns the memory that this process takes; None off Linux."""
    return _table(_PROC / "self/status").get("VmRSS")


def peak_bytes() -> int | None:
    """Returns the most memory that this process has taken at once; None off Linux."""
    return _table(_PROC / "self/status").get("VmHWM")


def available_bytes() -> int | None:
    """Returns what this process can take besides; None off Linux.

    That is the least of what the machine, its container and the limits of ``ulimit`` leave.
    """
    sizes = _table(_PROC / "meminfo")
    if "MemAvailable" not in sizes:
        return None
    return min(sizes["MemAvailable"] + sizes.get("SwapFree", 0), *_free_of_containers(), *_free_of_limits())


def _free_of_limits() -> list[int]:
    """Returns what ``ulimit -v`` and ``ulimit -d`` leave of this process's addresses and data."""
    import resource  # only on Unix

    taken, free = _table(_PROC / "self/status"), list[int]()
    for kind, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            free.append(max(0, limit - taken.get(name, 0)))
    return free


def _free_of_containers() -> list[int]:
    """Returns what each limit of this process's control groups leaves; files kept in memory are free."""
    free = [sys.maxsize]
    with suppress(OSError):
        for line in (_PROC / "self/cgroup").read_text("utf-8").splitlines():
            _, kinds, place = line.split(":", 2)
            if not kinds:  # version 2
                names, root = ("memory.max", "memory.current", "inactive_file"), _CGROUPS
            elif "memory" in kinds.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                root = _CGROUPS / "memory"
            else:
                continue
            # Inside a container the place may be that outside of it, which is not there.
            here = Path(place.lstrip("/"))
            for folder in {root, *(root / parent for parent in (here, *here.parents))}:
                with suppress(OSError, ValueError):  # no limit at this level, or none at all: "max"
                    limit, used = (int((folder / name).read_text("utf-8")) for name in names[:2])
                    cached = dict(map(str.split, (folder / "memory.stat").read_text("utf-8").splitlines()))
                    free.append(max(0, limit - used + int(cached.get(names[2], 0))))
    return free


def _table(path: Path) -> dict[str, int]:
    """Returns the lines ``Name: N kB`` of a file of the kernel, in bytes; empty without the file."""
    with suppress(OSError):
        rows = (line.split() for line in path.read_text("utf-8", "replace").splitlines())
        return {row[0].rstrip(":"): 1024 * int(row[1]) for row in rows if row[2:] == ["kB"]}
    return {}
