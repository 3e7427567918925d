"""A hostile environment: eight CPU devices, strict promotion, warnings are errors (pyproject.toml)."""

import os
from functools import partial

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# Tests compile for longer than they run; without LLVM's dearest passes they take half as long.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import jax  # noqa: E402
import pytest  # noqa: E402

from efficientnet_pod.pod import inject  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
assert len(jax.devices()) == 8  # starts the backend, so that no test sets its own before


@pytest.fixture
def with_fault(monkeypatch):
    """Returns a function that asks for faults in what follows, as the environment of a process does."""

    return partial(monkeypatch.setenv, inject.VARIABLE)
