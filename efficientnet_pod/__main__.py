"""``python -m efficientnet_pod``."""

from efficientnet_pod.cli.main import run

run()
