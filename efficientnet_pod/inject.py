"""Faults made on purpose at named points of a run."""


def at(point: str, step: int | None = None) -> None:
    """Marks a point that a fault may be asked for; does nothing."""
