"""Configs as plain tables."""

import importlib.util
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parents[2] / "configs"


def load(path_and_argument: str) -> dict[str, Any]:
    """Returns the config of ``file.py`` or ``file.py:argument``."""
    path, _, argument = path_and_argument.partition(":")
    spec = importlib.util.spec_from_file_location(path, CONFIGS / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*([argument] if argument else [])).to_dict()


def phased_digits(**fields: Any) -> dict[str, Any]:
    """Returns digits.py in two phases: 11 steps of 128 images of 16 pixels, then 6 of 256 of 32."""
    short = {"global_batch": 256, "epochs": 2.0, "eval_epochs": 704 / 1437, "log_steps": 4, "ema_decay": 0.5}
    config = load("digits.py") | short | fields
    config["optimizer"]["lars"]["lr_per_256"] = 0.1
    config["schedule"]["warmup_epochs"] = 0.25
    config["model"]["bn_momentum"] = 0.5
    config["phases"] = {
        "small": {"from_epoch": 0.0, "image_size": 16, "global_batch": 128, "dropout": 0.1},
        "large": {"from_epoch": 1.0, "label_smoothing": 0.2, "survival_probability": 0.8},
    }
    return config
