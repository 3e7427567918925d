"""What pyproject.toml cannot say: recipes lie beside the package here, and inside of it once installed."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["efficientnet_pod*", "launch*"]), "efficientnet_pod.configs"],
    package_dir={"efficientnet_pod.configs": "configs"},
)
