"""Values of a run as the page shows them: in words, and a few rows for many."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from efficientnet_pod.models.titles import TITLES
from efficientnet_pod.pod.terminal import NOT_KNOWN

NOT_RECORDED, NOT_YET = "not recorded", "not yet"
_OPTIMIZER_TITLES = {
    "adamw": "AdamW",
    "lamb": "LAMB",
    "lars": "LARS",
    "rmsprop": "RMSProp",
    "sgd": "SGD",
}


_EARLY_ENDS = {
    "at_top1": "the top-1 of config.stop.at_top1 was reached",
    "patience_epochs": "no evaluation was better for config.stop.patience_epochs",
}


def early_end(ended_by: Any) -> str:
    """Returns why a run ended before its last epoch, by what its summary says; empty if it did not."""
    return _EARLY_ENDS.get(str(ended_by), "")


def moment(time: datetime | None) -> str:
    """Returns e.g. ``"2026-11-25 01:02:03 UTC"``."""
    return NOT_KNOWN if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def joined(*parts: str | None) -> str:
    """Returns the parts with commas between them; None and empty parts are left out."""
    return ", ".join(part for part in parts if part)


def thinned(rows: Sequence[Any], most: int) -> tuple[list[Any], int]:
    """Returns at most ``most`` rows, evenly spaced with the last among them, and their distance."""
    apart = max(1, math.ceil(len(rows) / most))
    return list(rows[::-1][::apart][::-1]), apart


def devices_text(count: int | None, kind: str | None) -> str | None:
    """Returns e.g. ``"8 × TPU v3"``; None without a count."""
    return f"{count:,} × {kind or 'device'}" if count else None


def network_title(name: Any) -> str:
    """Returns the title of a network, e.g. ``"ResNet-50"`` for ``resnet50``; an unknown name as it is."""
    return TITLES.get(str(name), str(name))


def optimizer_title(name: Any) -> str:
    """Returns the name that the authors of an optimizer use, e.g. ``"RMSProp"`` for ``rmsprop``."""
    return _OPTIMIZER_TITLES.get(str(name), str(name))
