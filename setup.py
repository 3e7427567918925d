"""What pyproject.toml cannot say: recipes and launcher are beside the package, and inside once installed."""

from setuptools import find_packages, setup

INSIDE = "efficientnet_pod.launcher"  # it has no __init__.py; efficientnet_pod/cli/launch.py looks there

setup(
    packages=[
        *find_packages(include=["efficientnet_pod*"]),
        "efficientnet_pod.configs",
        *(f"{INSIDE}.{name}" for name in find_packages(include=["launch*"])),
    ],
    package_dir={"efficientnet_pod.configs": "configs", f"{INSIDE}.launch": "launch"},
)
