"""``python -m efficientnet_pod``."""

from efficientnet_pod.cli import run

run()
