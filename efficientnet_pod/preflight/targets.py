"""Machines by the names of ``--topology``, and their devices, which need not be here."""

import dataclasses
import importlib.util
import math
import os
import re
from importlib import metadata

import jax
from jax.experimental import topologies

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.pod import runtime as pod_runtime
from efficientnet_pod.pod.chips import CHIPS, NOT_YET, Chip, chip_of
from efficientnet_pod.pod.runtime import Runtime
from efficientnet_pod.pod.topology import Device, divisors
from efficientnet_pod.preflight.quiet import quiet_libraries

MOST_DEVICES = 16_384  # GPUs, or devices that a CPU shows
EXAMPLES = "v3:16x32 (chips), v3-1024 (cores), cuda:h100x8 or cpu:8"
_ALIASES = {
    "v5litepod": "v5e",
    "v5lite": "v5e",
    "v6lite": "v6e",
    "v7x": "tpu7x",
    "v8t": "tpu8t",
    "v8i": "tpu8i",
    "tpu": "",
}

# Set before libtpu is loaded. It must not lock a TPU that it does not open, ask the metadata server for this
# machine's name, or complain on standard error that it does not know it.
_LIBTPU_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v3-8",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine to plan for.

    Attributes:
      name: shortest name in ``--topology``.
      chip: kind of its chips.
      grid: chips along each axis of a torus, x first; else empty.
      replicas: devices as JAX sees them.
      chips: chips of the whole machine.
      hosts: JAX processes.
    """

    name: str
    chip: Chip
    grid: tuple[int, ...]
    replicas: int
    chips: int
    hosts: int


def parse_target(topology: str) -> Target:
    """Returns the machine of a name.

    Names are ``v3:16x32``, a TPU by its grid of chips; ``v3-1024``, a TPU by the number in its product name
    (cores of v2, v3, v4, v5p and tpu7x, chips of v5e and v6e), as the most compact grid; ``cuda:h100x8``,
    GPUs, eight to a host; ``cpu:8``, virtual devices of this machine.

    Raises:
      UserError: no machine has that name or that shape.
    """
    if match := re.fullmatch(r"cpu:(\d+)", topology):
        return _plain(topology, CHIPS["cpu"], int(match[1]))
    if match := re.fullmatch(r"(?:cuda|gpu):(\w+?)(?:x(\d+))?", topology):
        chip = _chip(match[1], topology, "gpu")
        count = int(match[2] or 1)
        return _plain(f"cuda:{chip.name}x{count}", chip, count)
    if match := re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", topology):
        chip = _chip(match[1], topology, "tpu")
        return _torus(chip, tuple(map(int, match[2].split("x"))), topology)
    if match := re.fullmatch(r"(\w+)-(\d+)", topology):
        chip = _chip(match[1], topology, "tpu")
        return _torus(chip, _compact(chip, int(match[2]), topology), topology)
    name = re.split(r"[:-]", topology)[0]
    if name not in CHIPS and name not in ("cuda", "gpu"):
        _chip(name, topology, "tpu")
    raise UserError(f"--topology={topology} cannot be read; it looks like {EXAMPLES}")


def target_of(chip: Chip, replicas: int) -> Target:
    """Returns the machine with so many replicas of a chip; raises `UserError` if there is none."""
    if chip.platform == "tpu":
        if replicas % chip.devices:
            raise UserError(f"{replicas} replicas are not whole {chip.title} chips of {chip.devices} cores")
        return parse_target(f"{chip.name}-{replicas // chip.devices * chip.named_cores}")
    return parse_target(f"cpu:{replicas}" if chip.platform == "cpu" else f"cuda:{chip.name}x{replicas}")


def target_here(runtime: Runtime) -> Target:
    """Returns the machine that JAX runs on; raises `UserError` if its chip is not in the table."""
    chip = chip_of(runtime.device_kind)
    if chip is None:
        raise UserError(
            f"nothing is known of '{runtime.device_kind}'; known: "
            + ", ".join(kind for c in CHIPS.values() for kind in c.device_kinds)
        )
    replicas = len(runtime.devices)
    if chip.platform != "tpu":
        return dataclasses.replace(target_of(chip, replicas), hosts=runtime.host_count)
    sides = [{device.coords[axis] for device in runtime.devices} for axis in range(3)]
    grid = tuple(max(side) - min(side) + 1 for side in sides)[: chip.dimensions]
    name = f"{chip.name}:{'x'.join(map(str, grid))}"
    return Target(name, chip, grid, replicas, replicas // chip.devices, runtime.host_count)


def runtime_for(target: Target, *, cpu_devices: int | None = None) -> Runtime:
    """Returns a runtime with the target's devices, to compile for; starts JAX on the CPU.

    Args:
      target: machine, which need not be here.
      cpu_devices: virtual devices to start for a CPU, at least the target's; the target's if None.

    Raises:
      UserError: the compiler for it is not installed, or refuses the shape.
    """
    if target.chip.platform == "cpu":
        started = pod_runtime.start("cpu", cpu_devices or target.replicas)
        return dataclasses.replace(started, devices=started.devices[: target.replicas])
    with quiet_libraries():
        pod_runtime.start("cpu", None)
        devices = _tpu_devices(target) if target.chip.platform == "tpu" else _gpu_devices(target)
    return Runtime(target.chip.platform, devices, devices[0].device_kind, 0, target.hosts)


def _chip(name: str, topology: str, platform: str) -> Chip:
    name = _ALIASES.get(name, name) or name
    chip = CHIPS.get(name)
    if name in NOT_YET:
        tpus = ", ".join(chip.name for chip in CHIPS.values() if chip.platform == "tpu")
        raise UserError(
            f"--topology={topology}: {NOT_YET[name]} is not known yet: no slices, machine types or "
            f"prices of it are published; choose one of {tpus}"
        )
    if chip is not None and chip.platform == platform:
        return chip
    known = [chip.name for chip in CHIPS.values() if chip.platform == platform]
    if chip is not None and chip.platform == "gpu":
        raise UserError(f"--topology={topology}: GPUs are written cuda:{chip.name}x8")
    kind = "TPU" if platform == "tpu" else "GPU"
    hint = did_you_mean(name, known)
    raise UserError(f"--topology={topology} names no known {kind}{hint}; topologies look like {EXAMPLES}")


def _plain(name: str, chip: Chip, count: int) -> Target:
    if not 1 <= count <= MOST_DEVICES:
        raise UserError(f"--topology={name} has {count:,} devices; name 1 to {MOST_DEVICES:,}")
    per_host = chip.chips_per_host or count
    if count > per_host and count % per_host:
        above = math.ceil(count / per_host) * per_host
        raise UserError(
            f"--topology={name} is not whole hosts of {per_host}; the nearest that is: "
            f"--topology={name.removesuffix(str(count))}{above}"
        )
    return Target(name, chip, (), count, count, math.ceil(count / per_host))


def _torus(chip: Chip, sides: tuple[int, ...], topology: str) -> Target:
    if len(sides) > chip.dimensions and not all(side == 1 for side in sides[chip.dimensions :]):
        raise UserError(
            f"--topology={topology} has {len(sides)} sides; {chip.title} is a torus of {chip.dimensions}, "
            f"e.g. {chip.name}:{'x'.join(['4'] * chip.dimensions)}"
        )
    grid = (*sides, 1)[: chip.dimensions]
    chips = math.prod(grid)
    if not all(grid):
        raise UserError(f"--topology={topology} has no chips; every side is at least 1, e.g. {chip.name}:2x2")
    if chips > chip.most_chips:
        raise UserError(
            f"--topology={topology} has {chips:,} chips; {chip.title} has {chip.most_chips:,} at most in one "
            f"slice: choose fewer, e.g. --topology={chip.name}-{chip.most_chips * chip.named_cores}"
        )
    if chips > 1 and (grid[0] % 2 or grid[1] % 2):
        even = (*(side + side % 2 for side in grid[:2]), *grid[2:])
        raise UserError(
            f"--topology={topology} cannot be built: hosts hold 2x2 chips, so the first two sides are even; "
            f"the nearest that can: --topology={chip.name}:{'x'.join(map(str, even))}"
        )
    name = f"{chip.name}:{'x'.join(map(str, grid))}"
    alone = _bounds(chip, grid)
    hosts = 1 if alone else chips // chip.chips_per_host
    return Target(name, chip, grid, chips * chip.devices, chips, hosts)


def _bounds(chip: Chip, grid: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Returns the chips of a host as a grid, for one chip alone and v5e's and v6e's eight; None for 2x2."""
    if math.prod(grid) == 1:
        return (1, 1, 1)
    return (2, 4, 1) if grid == (2, 4) and chip.devices == 1 else None


def _compact(chip: Chip, named: int, topology: str) -> tuple[int, ...]:
    """Returns the grid with the least sum of sides, shortest first: 32 v3 cores are 4x4 chips."""
    chips, rest = divmod(named, chip.named_cores)
    if chips > chip.most_chips:
        return (chips,)  # which the caller refuses
    if chips == 1 and not rest:
        return (1,) * chip.dimensions
    sides = divisors(chips)
    grids = [(x, chips // x) for x in sides] if chip.dimensions == 2 else []
    if chip.dimensions == 3:
        grids = [(x, y, chips // x // y) for x in sides for y in sides if chips % (x * y) == 0]
    grids = [grid for grid in grids if grid[0] % 2 == 0 == grid[1] % 2]
    if chip.dimensions == 3 and chips % 64 == 0:  # whole cubes: 192 chips are 4x4x12, not 4x6x8
        grids = [grid for grid in grids if not any(side % 4 for side in grid)]
    if rest or not grids:
        step = chip.chips_per_host * chip.named_cores
        nearest = max(1, round(named / step)) * step
        unit = "cores" if chip.named_cores > 1 else "chips"
        raise UserError(
            f"--topology={topology}: {named:,} {unit} are not whole hosts of {step}; the nearest that are: "
            f"--topology={chip.name}-{nearest}"
        )
    return min(grids, key=lambda grid: (sum(grid), grid))


def _tpu_devices(target: Target) -> tuple[Device, ...]:
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise UserError(
            f"--topology={target.name} needs libtpu, which also compiles where there is no TPU (on Linux, "
            "x86-64): pip install -e '.[tpu]'"
        )
    for name, value in _LIBTPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    chip, options = target.chip, {}
    if chip.name == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as on the machine
    if bounds := _bounds(chip, target.grid):
        options["chips_per_host_bounds"] = bounds
    try:
        return tuple(topologies.get_topology_desc(target.name, "tpu", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        message = str(error).partition("\n")[0]
        nearest = target_of(chip, target.replicas).name
        raise UserError(
            f"--topology={target.name} is refused by libtpu: {message}; try --topology={nearest}"
        ) from error


def _gpu_devices(target: Target) -> tuple[Device, ...]:
    plugins = [entry.name for entry in metadata.entry_points(group="jax_plugins")]
    if not any(name.startswith("xla_cuda") for name in plugins):
        raise UserError(
            f"--topology={target.name} needs JAX's CUDA plug-in, which compiles without a GPU (on Linux): "
            "pip install -e '.[preflight-cuda]'"
        )
    shape = f"1x{target.hosts}x{target.replicas // target.hosts}"
    config = gpu_config(target.chip)
    return tuple(
        topologies.get_topology_desc(target.name, "cuda", topology=shape, target_config=config).devices
    )


def gpu_config(chip: Chip) -> str:
    """Returns the description of a GPU that XLA's compiler needs where there is none.

    Source: ``stream_executor.GpuTargetConfigProto``, in protobuf's text form.
    """
    gpu = chip.gpu
    assert gpu
    major, minor = gpu.capability
    bandwidth = round(chip.hbm_bandwidth or 0)
    # The limits without a field of Gpu are those of every CUDA GPU since Volta.
    return f"""
gpu_device_info {{
  name: "{gpu.kind}" device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  core_count: {gpu.cores} fpus_per_core: {gpu.fpus_per_core} clock_rate_ghz: {gpu.clock_hz / 1e9}
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: {gpu.threads_per_core}
  shared_memory_per_block: 49152 shared_memory_per_core: {gpu.shared_memory}
  shared_memory_per_block_optin: {gpu.shared_memory_optin}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  device_memory_size: {chip.hbm_bytes} memory_bandwidth: {bandwidth} l2_cache_size: {gpu.l2_bytes}
  driver_version: "12.8.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{gpu.kind}"
"""
