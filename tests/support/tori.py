"""Described TPU slices."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tpu:
    id: int
    process_index: int
    coords: tuple[int, int, int]
    core_on_chip: int


def tpu_slice(width: int, height: int, depth: int = 1, *, cores: int) -> list[Tpu]:
    """A slice as JAX lists it: ids row-major over the grid, hosts of 2x2 chips, listed host by host."""
    devices = []
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                chip = (z * height + y) * width + x
                host = (z * (height // 2) + y // 2) * (width // 2) + x // 2
                devices += [Tpu(chip * cores + core, host, (x, y, z), core) for core in range(cores)]
    return sorted(devices, key=lambda d: (d.process_index, d.id))
