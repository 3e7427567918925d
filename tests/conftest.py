"""A hostile environment: eight CPU devices, strict promotion, warnings are errors (pyproject.toml).

For `benchmarks.gpu_check`, ``EFFICIENTNET_POD_TEST_PLATFORM`` names a platform: tests have one device of it.
"""

import gc
import os
import shutil
import tempfile
from contextlib import nullcontext, suppress
from ctypes import CDLL
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# Tests compile for longer than they run. Without LLVM's dearest passes and XLA's newer emitters, which later
# versions of jaxlib cannot do without, they take a quarter of the time.
PLATFORM = os.environ.get("EFFICIENTNET_POD_TEST_PLATFORM", "")
_QUICKLY = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
_QUICKLY += ["--xla_cpu_parallel_codegen_split_count=1"]
_QUICKLY += ["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib").startswith("0.10.") else []
if PLATFORM != "cuda":
    os.environ.setdefault("XLA_FLAGS", " ".join(_QUICKLY))
# A command in a forked process must not start itself again: it would start what forked it.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")

import jax  # noqa: E402
import pytest  # noqa: E402
import shared_programs  # noqa: E402

from efficientnet_pod.pod import inject, prices, runtime  # noqa: E402

LARGEST_WORKER = 1.3e9  # bytes in memory
_M_MMAP_THRESHOLD = -3  # malloc.h of the GNU C library
_forget_at = LARGEST_WORKER

_programs_of_this_session = shared_programs.VARIABLE not in os.environ
if _programs_of_this_session:
    os.environ[shared_programs.VARIABLE] = tempfile.mkdtemp(prefix="efficientnet-pod-programs-")
shared_programs.share_programs()
jax.config.update("jax_platforms", "cuda,cpu" if PLATFORM == "cuda" else "cpu")
jax.config.update("jax_num_cpu_devices", 1 if PLATFORM else 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if PLATFORM == "cuda":
    jax.config.update("jax_default_matmul_precision", "highest")  # a GPU's default has 10 bits
assert PLATFORM or len(jax.devices()) == 8  # starts the backend, so that no test sets its own before


@pytest.fixture(autouse=True)
def _no_programs_of_the_user(monkeypatch):
    monkeypatch.setattr(runtime, "programs_of_user", nullcontext)


def pytest_collection_finish():
    """Spares the collector all that has been imported; large arrays go back to the system when freed."""
    with suppress(OSError, AttributeError):  # another C library
        CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Deletes the programs of the session, in the process that began it."""
    if _programs_of_this_session:
        shutil.rmtree(os.environ.pop(shared_programs.VARIABLE), ignore_errors=True)


@pytest.fixture(autouse=True)
def bounded_memory():
    """Forgets compiled programs, about a megabyte each, after a test that leaves much memory taken."""
    yield
    global _forget_at
    if _resident_bytes() > _forget_at:
        jax.clear_caches()
        gc.collect()
        CDLL(None).malloc_trim(0)
        _forget_at = max(LARGEST_WORKER, _resident_bytes() + LARGEST_WORKER / 4)


def _resident_bytes() -> int:
    """Returns how much memory this process takes; 0 where the system is not Linux."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.fixture(autouse=True)
def prices_of_today(monkeypatch):
    """Sets the day to that of the price list, so that no price is ever old."""
    monkeypatch.setattr(prices, "today", lambda: date(2026, 11, 29))


@pytest.fixture
def with_fault(monkeypatch):
    """Returns a function that asks for faults, as the environment of a process does."""
    return partial(monkeypatch.setenv, inject.VARIABLE)
