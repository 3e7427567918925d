"""The allocator setting, seen from outside: what a process gives back to the system after a large free."""

import subprocess
import sys

import pytest

PROBE = """
import ctypes, sys
from efficientnet_pod.pod.allocator import keep_freed_memory

def resident_megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

kept = keep_freed_memory() if sys.argv[1] == "keep" else False
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 256 * 2**20
block = libc.malloc(size)
ctypes.memset(block, 1, size)
before = resident_megabytes()
libc.free(block)
print(kept, before - resident_megabytes() > 200)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library's setting")
@pytest.mark.parametrize(("argument", "printed"), [("keep", "True False"), ("default", "False True")])
def test_freed_memory_stays_with_the_process(argument, printed):
    command = [sys.executable, "-c", PROBE, argument]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == printed
