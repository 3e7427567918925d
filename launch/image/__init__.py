"""A container image with the trainer and its packages, for back ends whose workers are containers."""
