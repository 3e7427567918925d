"""Checkpoints that several tests begin with."""

import shutil
from pathlib import Path

import pytest
from states import save_states


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    save_states(folder, 1, 2, 3)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))
