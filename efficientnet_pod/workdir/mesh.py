"""The BN groups of a run's mesh, in one JSON file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientnet_pod.workdir.files import warn_if_not_written, write_json
from efficientnet_pod.workdir.values import list_of, triple_of, whole
from efficientnet_pod.workdir.workdir import Workdir

FILE = "mesh.json"


@dataclass(frozen=True)
class MeshDevice:
    """One device of a mesh.

    Attributes:
      id: number that JAX gives it; None where not recorded.
      coords: place of its chip on the torus; None off a TPU.
      core: place on the chip; None off a TPU.
    """

    id: int | None
    coords: tuple[int, int, int] | None
    core: int | None

    @property
    def name(self) -> str:
        """E.g. ``"(0, 1, 0):1"``, or its number where it has no coordinates."""
        if self.coords is None:
            return "?" if self.id is None else str(self.id)
        return f"({', '.join(map(str, self.coords))})" + ("" if self.core is None else f":{self.core}")


@dataclass(frozen=True)
class BNGroups:
    """The devices of a mesh by the group in which they normalise together.

    Attributes:
      size: replicas of a group.
      groups: devices of each group.
    """

    size: int
    groups: tuple[tuple[MeshDevice, ...], ...]


def write_mesh(workdir: Workdir, devices: np.ndarray, *, warn: Callable[[str], None]) -> None:
    """Writes ``mesh.json`` for JAX devices, (groups, members); a failure is one line for ``warn``."""

    def entry(device: Any) -> dict[str, Any]:
        coords, core = getattr(device, "coords", None), getattr(device, "core_on_chip", None)
        return {"id": device.id, "coords": None if coords is None else [*coords], "core": core}

    groups = [[entry(device) for device in group] for group in devices]
    with warn_if_not_written(workdir.path / FILE, warn):
        write_json(workdir.path / FILE, {"bn_group_size": len(groups[0]), "groups": groups})


def read_mesh(table: dict[str, Any]) -> BNGroups | None:
    """Returns the contents of ``mesh.json``, None if it names no device."""
    groups = tuple(
        tuple(
            MeshDevice(whole(device.get("id")), triple_of(device.get("coords")), whole(device.get("core")))
            for device in list_of(group)
            if isinstance(device, dict)
        )
        for group in list_of(table.get("groups"))
    )
    count = sum(map(len, groups))
    return BNGroups(whole(table.get("bn_group_size")) or count // len(groups), groups) if count else None
