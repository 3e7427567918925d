"""``python -m launch``, in the source code; elsewhere ``efficientnet-pod launch``."""

from launch.cli import run

run()
