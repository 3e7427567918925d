"""The tiny network, compiled once for a v3 and a v5e, and the cache that keeps its programs."""

import pytest
from tiny import STAGES
from tiny_preflight import compile_tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def v3(folder):
    return compile_tiny("v3:2x2", folder, STAGES[:1])


@pytest.fixture(scope="session")
def v5e(folder):
    return compile_tiny("v5e:4x4", folder, STAGES[:1])
