"""``python -m launch``."""

from launch.cli import run

run()
