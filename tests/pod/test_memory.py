"""The memory of a host: huge pages are asked for once, and what is free is what every limit leaves."""

import ctypes
import json
import os
import resource
import subprocess
import sys

import pytest

from efficientnet_pod.pod import memory

ON_REQUEST = "always [madvise] never\n"
PROBE = """
import json, os, sys
from efficientnet_pod.pod.memory import ask_for_huge_pages
print("begun", os.getpid(), flush=True)
ask_for_huge_pages()
print(json.dumps([os.getpid(), sys.argv[1:], os.environ.get("GLIBC_TUNABLES"), __name__]))
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Returns a function that writes the files of a kernel; nothing of this machine is read."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_SWITCH", tmp_path / "enabled")

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("DOT", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def begun_again(monkeypatch):
    """Returns the settings with which the process would begin again; [] if it would not."""
    seen = []
    monkeypatch.setenv("GLIBC_TUNABLES", os.environ.get("GLIBC_TUNABLES", ""))  # put back after the test
    monkeypatch.setattr(os, "execv", lambda path, words: seen.append(os.environ["GLIBC_TUNABLES"]))
    memory.ask_for_huge_pages()
    return seen


@pytest.mark.parametrize(
    ("switch", "library", "before", "expected"),
    [
        (ON_REQUEST, "glibc 2.36", None, ["glibc.malloc.hugetlb=1"]),
        (ON_REQUEST, "glibc 2.36", "a.b=2", ["a.b=2:glibc.malloc.hugetlb=1"]),
        (ON_REQUEST, "glibc 2.36", "glibc.malloc.hugetlb=0", []),  # the user's own choice, or made before
        (ON_REQUEST, None, None, []),
        ("[always] madvise never\n", "glibc 2.36", None, []),
        ("always madvise [never]\n", "glibc 2.36", None, []),
        (None, "glibc 2.36", None, []),
    ],
)
def test_huge_pages_are_asked_for_where_they_help(machine, monkeypatch, switch, library, before, expected):
    if switch:
        machine(enabled=switch)
    monkeypatch.setattr(os, "confstr", lambda name: library)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if before:
        monkeypatch.setenv("GLIBC_TUNABLES", before)
    assert begun_again(monkeypatch) == expected


def test_the_process_that_begins_again_is_the_same_one(tmp_path, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if not begun_again(monkeypatch):
        pytest.skip("this machine has no huge pages on request")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    program = tmp_path / "program.py"
    program.write_text(PROBE)
    words = ["a b", "--x=[1]", ""]
    command = [sys.executable, "-X", "utf8", str(program), *words]
    first, second, result = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    pid = int(first.split()[1])
    assert first == second and json.loads(result) == [pid, words, "glibc.malloc.hugetlb=1", "__main__"]


MEMINFO = "MemTotal:  8000 kB\nMemAvailable:  5000 kB\nSwapFree:  1000 kB\nHugePages_Total:  0\n"
GROUP_2 = {
    "cgroup__memoryDOTmax": "max\n",
    "cgroup__a__memoryDOTmax": f"{4000 * 1024}\n",
    "cgroup__a__memoryDOTcurrent": f"{3000 * 1024}\n",
    "cgroup__a__memoryDOTstat": f"anon 1\ninactive_file {500 * 1024}\n",
}
GROUP_1 = {
    "cgroup__memory__memoryDOTlimit_in_bytes": f"{2000 * 1024}\n",
    "cgroup__memory__memoryDOTusage_in_bytes": f"{1900 * 1024}\n",
    "cgroup__memory__memoryDOTstat": f"cache 1\ntotal_inactive_file {100 * 1024}\n",
}


@pytest.mark.parametrize(
    ("files", "kilobytes"),
    [
        ({}, 6000),
        ({"proc__self__cgroup": "0::/a/b\n", **GROUP_2}, 1500),
        ({"proc__self__cgroup": "0::/other\n", **GROUP_2}, 6000),
        ({"proc__self__cgroup": "4:cpu,memory:/docker/x\n0::/\n", **GROUP_1}, 200),
        ({"proc__self__cgroup": "4:cpu:/docker/x\n", **GROUP_1}, 6000),
    ],
    ids=["machine", "above", "not ours", "version 1, inside", "no memory group"],
)
def test_what_is_free_is_what_the_narrowest_limit_leaves(machine, files, kilobytes):
    machine(proc__meminfo=MEMINFO, **files)
    assert memory.available_bytes() == kilobytes * 1024


@pytest.mark.parametrize(
    ("limits", "kilobytes"),
    [({"RLIMIT_AS": 3000}, 2000), ({"RLIMIT_AS": 900}, 0), ({"RLIMIT_DATA": 700}, 200)],
)
def test_what_is_free_is_within_the_limits_of_the_shell(machine, monkeypatch, limits, kilobytes):
    machine(proc__meminfo=MEMINFO, proc__self__status="VmSize:  1000 kB\nVmData:  500 kB\n")
    of_kind = {getattr(resource, name): 1024 * limit for name, limit in limits.items()}
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (of_kind.get(kind, resource.RLIM_INFINITY), 2**60)
    )
    assert memory.available_bytes() == kilobytes * 1024


def test_nothing_is_known_off_linux(machine):
    assert memory.available_bytes() is None and memory.resident_bytes() is None
    assert memory.peak_bytes() is None


def test_what_this_process_takes():
    block = bytearray(64 << 20)
    now = memory.resident_bytes() or 0
    assert len(block) < now <= (memory.peak_bytes() or 0)


_GIVES_BACK = """
from efficientnet_pod.pod.memory import give_back, resident_bytes
blocks = [bytearray(1000) for _ in range(300_000)]
last = bytearray(1000)  # behind all others: the heap cannot end before it
del blocks
held = resident_bytes()
give_back()
print(held - resident_bytes())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not GNU's")
def test_freed_memory_goes_back_to_the_system():
    # The library's own limit would give some back at once.
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
    given = subprocess.run(
        [sys.executable, "-c", _GIVES_BACK], env=environment, capture_output=True, text=True, check=True
    )
    assert int(given.stdout) > 200e6
