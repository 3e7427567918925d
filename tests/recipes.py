"""Configs as plain tables."""

import importlib.util
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parents[1] / "configs"


def load(path_and_argument: str) -> dict[str, Any]:
    """Returns the config of ``file.py`` or ``file.py:argument``."""
    path, _, argument = path_and_argument.partition(":")
    spec = importlib.util.spec_from_file_location(path, CONFIGS / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*([argument] if argument else [])).to_dict()
