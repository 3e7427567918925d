"""Owns the machines one can ask for: what each is called where, its hosts, image, price and who serves it."""

import re
from dataclasses import dataclass

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.chips import CHIPS, Chip
from efficientnet_pod.preflight.targets import Target, parse_target, with_replicas


@dataclass(frozen=True)
class Generation:
    """What a generation of TPUs is called by those who serve it.

    Attributes:
      api_name: as in the TPU API's accelerator type, before the number; None: that API does not serve it.
      runtime: image of its VMs, for JAX.
      gke: the node label ``cloud.google.com/gke-tpu-accelerator`` of slices of several hosts; empty: GKE
        does not serve it.
      gke_alone: likewise of one host.
      chips: slices that are offered; None: those of `_CUBES`.
      machines: the family of Compute Engine's machine types; empty: it has no groups of them.
      image: of Compute Engine's machines, by its family.
    """

    api_name: str | None
    runtime: str
    gke: str
    gke_alone: str
    chips: tuple[int, ...] | None = None
    machines: str = ""
    image: str = ""


_IMAGE = "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"

# Source: Cloud TPU documentation, runtime versions, configurations of each generation, TPU instances in MIGs;
# GKE, plan TPUs.
GENERATIONS = {
    "v2": Generation("v2", "tpu-ubuntu2204-base", "", "", (4, 16, 64, 128, 256)),
    "v3": Generation(
        "v3", "tpu-ubuntu2204-base", "tpu-v3-slice", "tpu-v3-device", (4, 16, 64, 128, 256, 512, 1024)
    ),
    "v4": Generation("v4", "tpu-ubuntu2204-base", "tpu-v4-podslice", "tpu-v4-podslice"),
    "v5e": Generation(
        "v5litepod",
        "v2-alpha-tpuv5-lite",
        "tpu-v5-lite-podslice",
        "tpu-v5-lite-podslice",
        (1, 4, 8, 16, 32, 64, 128, 256),
    ),
    "v5p": Generation(
        "v5p", "v2-alpha-tpuv5", "tpu-v5p-slice", "tpu-v5p-slice", machines="ct5p-hightpu", image=_IMAGE
    ),
    "v6e": Generation(
        "v6e",
        "v2-alpha-tpuv6e",
        "tpu-v6e-slice",
        "tpu-v6e-slice",
        (1, 4, 8, 16, 32, 64, 128, 256),
        machines="ct6e-standard",
        image=_IMAGE,
    ),
    "tpu7x": Generation(
        None, "", "tpu7x", "tpu7x", machines="tpu7x-standard", image="ubuntu-accel-2404-amd64-tpu-tpu7x"
    ),
}
_CUBES = (4, 8, 16, 32)  # of a 3-D torus below one cube; above, whole cubes of 64 chips

# Which back ends serve what; `fake` and `local` run anything as CPU processes.
_MULTISLICE = ("qr", "gke")
_TPU_API = ("qr", "sky", "fake", "local")


@dataclass(frozen=True)
class Slice:
    """One slice of TPUs, or one group of GPU hosts.

    Attributes:
      name: as its makers number it, such as ``v3-1024``, or ``cuda:h100x16``.
      target: the machine as ``preflight`` knows it.
      api_type: the TPU API's accelerator type; None: that API does not serve it.
      runtime: image of its VMs; empty for what has none.
      gke_accelerator: the value of GKE's node label; empty for what GKE does not serve.
      gke_topology: likewise, such as ``4x4``.
      backends: that serve it.
      machine_type: of Compute Engine's machines; empty: it has no groups of them.
      vm_image: of those machines, by its family.
    """

    name: str
    target: Target
    api_type: str | None
    runtime: str
    gke_accelerator: str
    gke_topology: str
    backends: tuple[str, ...]
    machine_type: str = ""
    vm_image: str = ""

    @property
    def chips_per_host(self) -> int:
        """Chips that one host holds."""
        return self.target.chips // self.target.hosts

    def usd_per_hour(self, *, spot: bool) -> float | None:
        """Returns the price of all its chips, None where none was found."""
        each = self.target.chip.usd_spot if spot else self.target.chip.usd
        return None if each is None else each * self.target.chips


def parse_slice(word: str) -> Slice:
    """Returns the machine of ``--tpu=v3-1024``, ``v5litepod-16``, ``v3:16x32`` or ``cuda:h100x16``.

    Raises:
      UserError: no machine has that name, or none of that size is offered; the nearest are named.
    """
    try:
        target = parse_target(word)
    except UserError as error:
        if (numbered := re.fullmatch(r"(\w+)-(\d+)", word)) and numbered[1] in GENERATIONS:
            chip = CHIPS[numbered[1]]
            _require_offered(word, chip, int(numbered[2]) / chip.named_cores)
        raise UserError(str(error).replace("--topology=", "--tpu=")) from error
    chip = target.chip
    if chip.platform == "gpu":
        return Slice(target.name, target, None, "", "", "", ("slurm", "fake", "local"))
    if chip.platform == "cpu":
        return Slice(target.name, target, None, "", "", "", ("fake", "local"))
    known = GENERATIONS[chip.name]
    number = target.chips * chip.named_cores
    _require_offered(word, chip, target.chips)
    grid = "x".join(map(str, target.grid))
    api_type = f"{known.api_name}-{number}" if known.api_name else None
    backends = _TPU_API if api_type else ("fake", "local")
    backends += ("gke",) * bool(known.gke) + ("mig",) * bool(known.machines)
    return Slice(
        name=f"{chip.name}-{number}",
        target=target,
        api_type=api_type,
        runtime=known.runtime,
        gke_accelerator=known.gke if target.hosts > 1 else known.gke_alone,
        gke_topology=grid if known.gke else "",
        backends=backends,
        machine_type=f"{known.machines}-{target.chips // target.hosts}t" if known.machines else "",
        vm_image=known.image,
    )


def known_slices() -> list[Slice]:
    """Returns every size of every generation up to 1,024 chips, as they are offered."""
    found = []
    for name, known in GENERATIONS.items():
        sizes = known.chips or (*_CUBES, 64, 128, 256, 512, 1024)
        found += [parse_slice(f"{name}-{chips * CHIPS[name].named_cores}") for chips in sizes]
    return found


def _require_offered(word: str, chip: Chip, chips: float) -> None:
    known = GENERATIONS[chip.name]
    sizes = known.chips or (*_CUBES, *range(64, chip.most_chips + 1, 64))
    if chips in sizes:
        return
    near = sorted(sorted(sizes, key=lambda size: abs(size - chips))[:2])
    names = " and ".join(f"--tpu={chip.name}-{size * chip.named_cores}" for size in near)
    raise UserError(
        f"--tpu={word} is {chips:,g} chips, a size of {chip.title} that is not offered; closest: {names}"
    )


def require_served(machine: Slice, slices: int, backend: str) -> None:
    """Returns if a back end serves so many slices of a machine.

    Raises:
      UserError: it does not; the ones that do are named.
    """
    if slices > 1 and backend not in _MULTISLICE:
        others = " or ".join(f"--backend={name}" for name in _MULTISLICE)
        raise UserError(
            f"--backend={backend} serves one slice, not {slices}; leave out --slices, or {others}"
        )
    if backend not in machine.backends:
        others = ", ".join(f"--backend={name}" for name in machine.backends)
        raise UserError(f"--backend={backend} does not serve {machine.name}; choose {others}")


def smaller(machine: Slice, hosts: int) -> str | None:
    """Returns the name of the largest offered slice of the same chips with at most so many hosts."""
    for chips in (32, 16, 8, 4):
        try:
            found = parse_slice(with_replicas(machine.target, chips * machine.target.chip.devices).name)
        except UserError:
            continue
        if found.target.hosts <= hosts:
            return found.name
    return None
