"""The command `launch`: the launcher, in a folder next to this package, or inside an installed one."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

# In the wheel. Its folder is no package, so that no `launch` is put into other people's site-packages.
_INSIDE = Path(__file__).parents[1] / "launcher"


def run_launch(arguments: Sequence[str]) -> int:
    """Returns the exit code of the launcher, which says itself what was wrong."""
    sys.path.insert(0, str(_INSIDE if _INSIDE.is_dir() else _INSIDE.parents[1]))
    return import_module("launch.cli").main(arguments)
