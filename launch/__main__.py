"""``python -m launch``."""

from launch.commands import run

run()
