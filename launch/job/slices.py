"""TPU slices and groups of GPU hosts that a job can ask for: names, hosts, images, prices, backends."""

import re
from dataclasses import dataclass, replace

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.chips import CHIPS, Chip
from efficientnet_pod.pod.prices import Price, price_of
from efficientnet_pod.preflight.targets import Target, parse_target

_IMAGE = "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"
_UP_TO_256 = (1, 4, 8, 16, 32, 64, 128, 256)
_CUBES = (4, 8, 16, 32)  # chips of a 3-D torus below one cube; larger ones are whole cubes of 64

_HERE = ("fake", "local")  # which run any machine, as CPU processes
_MULTISLICE = ("qr", "gke")


@dataclass(frozen=True)
class Generation:
    """Names of one generation of TPUs in the services that rent it out.

    Attributes:
      api_name: the TPU API's accelerator type without its number; None: that API does not serve it.
      runtime: image of its VMs, for JAX.
      gke: node label ``cloud.google.com/gke-tpu-accelerator``; empty: GKE does not serve it.
      gke_single_host: the same label of a slice of one host, where it differs.
      sizes: chips of the slices on offer; None: `_CUBES`, then whole cubes.
      machines: family of Compute Engine's machine types; empty: there are no instance groups of it.
      image: image family of Compute Engine's machines.
    """

    api_name: str | None
    runtime: str
    gke: str = ""
    gke_single_host: str = ""
    sizes: tuple[int, ...] | None = None
    machines: str = ""
    image: str = ""


# Source: Cloud TPU documentation, runtime versions, configurations of each generation, TPU instances in MIGs;
# GKE, plan TPUs.
GENERATIONS = {
    "v2": Generation("v2", "tpu-ubuntu2204-base", sizes=(4, 16, 64, 128, 256)),
    "v3": Generation(
        "v3", "tpu-ubuntu2204-base", "tpu-v3-slice", "tpu-v3-device", (4, 16, 64, 128, 256, 512, 1024)
    ),
    "v4": Generation("v4", "tpu-ubuntu2204-base", "tpu-v4-podslice"),
    "v5e": Generation("v5litepod", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", sizes=_UP_TO_256),
    "v5p": Generation("v5p", "v2-alpha-tpuv5", "tpu-v5p-slice", machines="ct5p-hightpu", image=_IMAGE),
    "v6e": Generation("v6e", "v2-alpha-tpuv6e", "tpu-v6e-slice", "", _UP_TO_256, "ct6e-standard", _IMAGE),
    "tpu7x": Generation(
        None, "", "tpu7x", machines="tpu7x-standard", image="ubuntu-accel-2404-amd64-tpu-tpu7x"
    ),
}


@dataclass(frozen=True)
class Slice:
    """One slice of TPUs, or one group of GPU hosts.

    Attributes:
      name: name by the number that its makers use, such as ``v3-1024``, or ``cuda:h100x16``.
      target: the machine as ``preflight`` knows it, whose hosts are JAX's processes.
      backends: names of the backends that serve it.
      api_type: the TPU API's accelerator type; None: that API does not serve it.
      runtime: image of its VMs; empty: it has none.
      gke_accelerator: value of GKE's node label; empty: GKE does not serve it.
      gke_topology: GKE's name of the torus, such as ``4x4``; empty: GKE does not serve it.
      machine_type: Compute Engine's machine type; empty: there are no instance groups of it.
      vm_image: image family of those machines.
      containers: containers of a virtual machine, each with a process and a share of the chips.
    """

    name: str
    target: Target
    backends: tuple[str, ...]
    api_type: str | None = None
    runtime: str = ""
    gke_accelerator: str = ""
    gke_topology: str = ""
    machine_type: str = ""
    vm_image: str = ""
    containers: int = 1

    @property
    def vms(self) -> int:
        """Virtual machines."""
        return self.target.hosts // self.containers

    def on(self, backend: str) -> "Slice":
        """Returns the slice in as many hosts as a backend makes.

        Source: GKE, "Ironwood (TPU7x)", NUMA binding, and xpk, ``parallel_containers``: a container for each
        of a machine's two memory nodes. A public account of managed instance groups: no ct6e-standard-8t is
        ever granted there; machines of four chips are.
        """
        target = self.target
        if backend == "gke" and self.target.chip.name == "tpu7x" and self.chips_per_host == 4:
            return replace(self, target=replace(target, hosts=2 * target.hosts), containers=2)
        if backend == "mig" and self.chips_per_host == 8:
            machine_type = self.machine_type.replace("-8t", "-4t")
            return replace(self, target=replace(target, hosts=2), machine_type=machine_type)
        return self

    @property
    def chips_per_host(self) -> int:
        """Chips of one host."""
        return self.target.chips // self.target.hosts

    @property
    def devices_per_host(self) -> int:
        """JAX's devices of one host."""
        return self.target.replicas // self.target.hosts

    def usd_per_hour(self, *, spot: bool, zone: str = "") -> Price | None:
        """Returns the price of all its chips, in a zone or over all regions; None: none is known."""
        price = price_of(self.target.chip, self.target.chips, spot=spot, zone=zone)
        return price and price.times(self.target.chips)


def parse_slice(name: str) -> Slice:
    """Returns the machine of ``--tpu=v3-1024``, ``v5litepod-16``, ``v3:16x32`` or ``cuda:h100x16``.

    Raises:
      UserError: no machine has that name, or none of that size is offered; the message names the nearest.
    """
    try:
        target = parse_target(name)
    except UserError as error:
        if (numbered := re.fullmatch(r"(\w+)-(\d+)", name)) and numbered[1] in GENERATIONS:
            chip = CHIPS[numbered[1]]
            _require_offered(name, chip, int(numbered[2]) / chip.named_cores)
        raise UserError(str(error).replace("--topology=", "--tpu=")) from error
    chip, hosts = target.chip, target.hosts
    if chip.platform != "tpu":
        return Slice(target.name, target, ("slurm", *_HERE) if chip.platform == "gpu" else _HERE)
    _require_offered(name, chip, target.chips)
    _require_shape(name, target)
    generation = GENERATIONS[chip.name]
    number = target.chips * chip.named_cores
    backends = ("qr", "sky", *_HERE) if generation.api_name else _HERE
    gke = generation.gke if hosts > 1 else generation.gke_single_host or generation.gke
    if gke:
        backends += ("gke",)
    if generation.machines:
        backends += ("mig",)
    return Slice(
        name=f"{chip.name}-{number}",
        target=target,
        backends=backends,
        api_type=f"{generation.api_name}-{number}" if generation.api_name else None,
        runtime=generation.runtime,
        gke_accelerator=gke,
        gke_topology="x".join(map(str, target.grid)) if gke else "",
        machine_type=f"{generation.machines}-{target.chips // hosts}t" if generation.machines else "",
        vm_image=generation.image,
    )


def known_slices() -> list[Slice]:
    """Returns every size of every generation that is offered, up to 1,024 chips."""
    return [
        parse_slice(f"{name}-{size * CHIPS[name].named_cores}")
        for name, generation in GENERATIONS.items()
        for size in generation.sizes or (*_CUBES, 64, 128, 256, 512, 1024)
    ]


def _require_offered(name: str, chip: Chip, chips: float) -> None:
    sizes = GENERATIONS[chip.name].sizes or (*_CUBES, *range(64, chip.most_chips + 1, 64))
    if chips in sizes:
        return
    nearest = sorted(sorted(sizes, key=lambda size: abs(size - chips))[:2])
    names = " and ".join(f"--tpu={chip.name}-{size * chip.named_cores}" for size in nearest)
    raise UserError(
        f"--tpu={name} is {chips:,g} chips, a size of {chip.title} that is not offered; closest: {names}"
    )


def _require_shape(name: str, target: Target) -> None:
    """Refuses a torus of another shape than the services have for that number of chips.

    Sides rise, and are whole cubes from one cube on. Source: Cloud TPU documentation, v4 and v5p
    configurations; xpk, ``core/system_characteristics.py``; cluster-toolkit, which refuses 4x12x4.
    """
    number = f"{target.chip.name}-{target.chips * target.chip.named_cores}"
    shape = parse_target(number).grid
    if target.grid != shape:
        sides = "x".join(map(str, shape))
        raise UserError(f"--tpu={name}: {target.chips:,} chips come as {sides}; write --tpu={number}")


def require_served(machine: Slice, slices: int, backend: str) -> None:
    """Checks that a backend serves this number of slices of a machine.

    Raises:
      UserError: it does not; the message names backends that do.
    """
    if slices > 1 and backend not in _MULTISLICE:
        others = " or ".join(f"--backend={name}" for name in _MULTISLICE)
        raise UserError(
            f"--backend={backend} serves one slice, not {slices}; leave out --slices, or {others}"
        )
    if backend not in machine.backends:
        others = ", ".join(f"--backend={name}" for name in machine.backends)
        raise UserError(f"--backend={backend} does not serve {machine.name}; choose {others}")


def smaller_slice(machine: Slice, hosts: int) -> str:
    """Returns the name of the largest slice on offer of the same chips with at most this many hosts."""
    same = [known for known in known_slices() if known.target.chip == machine.target.chip]
    fitting = [known for known in same if known.target.hosts <= hosts]
    return max(fitting, key=lambda known: known.target.chips).name
