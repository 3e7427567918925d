"""What a test needs that not every machine has."""

import importlib.metadata
import importlib.util

import pytest

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu has no wheel for this machine"
)


PLUGINS = [entry.name for entry in importlib.metadata.entry_points(group="jax_plugins")]


needs_cuda_plugin = pytest.mark.skipif(
    not any(name.startswith("xla_cuda") for name in PLUGINS),
    reason="the CUDA plug-in is an extra: pip install -e '.[preflight-cuda]'",
)
