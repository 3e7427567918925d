"""Optimizers, schedules, frozen and slower layers, as optax transformations."""
