"""The start of JAX in a process, its compilation cache, and the versions a run depends on."""

import hashlib
import os
import platform as host_platform
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from ctypes.util import find_library
from dataclasses import dataclass
from glob import glob
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache as jax_compilation_cache

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.pod.cpu import cpu_facts
from efficientnet_pod.pod.topology import Device
from efficientnet_pod.pod.version import VERSION

PLATFORMS = ("any", "cpu", "gpu", "tpu")

_REMEDY = {
    "any": "repair that backend",
    "cpu": "repair that backend",
    "gpu": "check the driver with nvidia-smi and install the extra 'efficientnet-pod[cuda]'",
    "tpu": "check that no other process holds the TPU and install the extra 'efficientnet-pod[tpu]'",
}


@dataclass(frozen=True)
class Runtime:
    """The backend in use.

    Attributes:
      platform: ``cpu``, ``gpu`` or ``tpu``.
      devices: devices of all hosts, in JAX's order.
      device_kind: such as ``TPU v3``.
      place: number of this process as its devices count it (JAX's ``process_index``). On a TPU the runtime
        numbers processes by their place in the torus, so it may differ from :func:`.hosts.index`. The share
        of the data follows the devices and therefore this number; all else follows ``hosts.index``.
      host_count: number of hosts.
    """

    platform: str
    devices: tuple[Device, ...]
    device_kind: str
    place: int
    host_count: int


def start(platform: str, cpu_replicas: int | None, *, insist: bool = True) -> Runtime:
    """Starts the JAX backend that `platform` names and returns what it found.

    Call it before any JAX operation: a backend that runs cannot be changed.

    `any` takes the accelerator that is there. It takes the CPU only on a machine without one, or if
    `JAX_PLATFORMS=cpu` says so: an accelerator that is present but unusable is an error, never the CPU
    instead. `cpu_replicas` is the number of virtual devices this host shows when it runs on the CPU (None:
    as JAX has it); accelerators ignore it. A backend that already runs, in a notebook, may show another
    number: without `insist` that one is taken.

    Raises `UserError` if the platform is unknown, not there, or unusable, or if the backend already runs with
    another number of CPU devices.
    """
    if platform not in PLATFORMS:
        raise UserError(f"unknown platform '{platform}'{did_you_mean(platform, PLATFORMS)}")
    if cpu_replicas is not None:
        _ask_for_cpu_replicas(cpu_replicas)
    if platform in ("cpu", "tpu"):
        # Named, a TPU that fails says why (another process holds it); JAX has no such name for every GPU.
        jax.config.update("jax_platforms", {"cpu": "cpu", "tpu": "tpu,cpu"}[platform])
    if platform == "any":
        take_cpu_alone()
    backend = _start_backend(platform)
    if platform == "any" and backend == "cpu":
        _refuse_silent_fallback()
    elif platform not in ("any", backend):
        if platform == "cpu":
            raise UserError(
                f"platform 'cpu' was asked for, but JAX already runs on the {backend}; choose the CPU before "
                "that"
            )
        raise UserError(
            f"platform '{platform}' is not there: JAX runs on the {backend}{_with_jax_platforms()}; "
            f"{_REMEDY[platform]}, or choose another: --config.platform={backend}"
        )
    if insist and backend == "cpu" and cpu_replicas not in (None, jax.local_device_count()):
        raise UserError(
            f"{cpu_replicas} CPU replicas were asked for, but JAX already runs with "
            f"{jax.local_device_count()}; their number must be set before anything else starts JAX"
        )
    return Runtime(
        platform=backend,
        devices=tuple(jax.devices()),
        device_kind=jax.devices()[0].device_kind,
        place=jax.process_index(),
        host_count=jax.process_count(),
    )


def take_cpu_alone() -> None:
    """Lets JAX start on the CPU without a look for others, on a machine that has no accelerator.

    JAX would load an installed libtpu, which takes a lock and fills a page to say that no TPU is there.
    Nothing is started, and a choice that was made stays: ``JAX_PLATFORMS``, or a backend that runs.
    """
    if not accelerators_present() and not _jax_option("jax_platforms"):
        jax.config.update("jax_platforms", "cpu")


def accelerators_present() -> list[str]:
    """Returns the signs of an accelerator on this machine that need no working driver, such as a device file.

    A sign is worded for an error message. An installed libtpu is none: it also compiles for TPUs elsewhere;
    nor is JAX's CUDA plug-in without CUDA's own library.
    """
    signs = glob("/dev/nvidia[0-9]*") + glob("/dev/accel[0-9]*")
    if Path("/dev/dxg").exists() and shutil.which("nvidia-smi"):
        signs.append("an NVIDIA driver under WSL")
    # Newer TPUs (v5e on) are handed through VFIO, which other devices use too: Google's PCI vendor decides.
    if vfio := glob("/dev/vfio/[0-9]*"):
        vendors = {Path(path).read_text("utf-8").strip() for path in glob("/sys/bus/pci/devices/*/vendor")}
        signs += vfio if "0x1ae0" in vendors else []
    plugins = [plugin.name for plugin in metadata.entry_points(group="jax_plugins")]
    signs += [f"JAX plugin {name}" for name in plugins if not name.startswith("xla_cuda") or _has_cuda()]
    return sorted(signs)


@contextmanager
def compilation_cache(directory: PathLike[str]) -> Iterator[None]:
    """Keeps what is compiled inside the context in `directory`, and loads from there what is in it already.

    JAX stores the programs that took a second or more to compile. One that cannot be written, or read since
    its writer was killed, is compiled at each start, without a word: JAX replaces none.
    """
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    _set_cache(str(directory))
    try:
        yield
    finally:
        _set_cache(None)


@contextmanager
def programs_of_user() -> Iterator[None]:
    """Keeps what is compiled inside the context in the user's cache, apart for each kind of processor.

    Nowhere, if nothing can be written there, or the user has no home. A folder that the user has given to JAX
    is taken as it is.
    """
    if _jax_option("jax_compilation_cache_dir"):
        yield
        return
    facts, names = cpu_facts(), ("model name", "flags", "CPU implementer", "CPU part", "Features")  # x86, ARM
    kind = repr((host_platform.machine(), *map(facts.get, names)))
    cache = nullcontext()
    with suppress(OSError, UserError):
        folder = default_cache() / "programs" / hashlib.sha256(kind.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            cache = compilation_cache(folder)
    with cache:
        yield


def default_cache() -> Path:
    """Returns this user's cache folder for files that can be made again; raises UserError without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "efficientnet-pod"
    except RuntimeError:
        raise UserError("this user has no home for caches; name a folder in XDG_CACHE_HOME") from None


def default_compute_dtype(platform: str) -> str:
    """Returns the dtype of convolutions where the config names none: `bfloat16`, but `float32` on the CPU.

    bfloat16 halves the speed of a CPU.
    """
    return "float32" if platform == "cpu" else "bfloat16"


def versions() -> dict[str, str | None]:
    """Returns the versions a run depends on and the git commit of the source, None for what is not there.

    Reads metadata only: nothing is imported.
    """
    return {
        "python": host_platform.python_version(),
        "efficientnet_pod": VERSION,
        "jax": version_of("jax"),
        "jaxlib": version_of("jaxlib"),
        "flax": version_of("flax"),
        "optax": version_of("optax"),
        "orbax": version_of("orbax-checkpoint"),
        "tensorflow": version_of("tensorflow") or version_of("tensorflow-cpu"),
        # A copy that was sent to another machine is in no repository.
        "git_commit": git_commit(Path(__file__).parent) or os.environ.get("EFFICIENTNET_POD_COMMIT"),
    }


def git_commit(source: Path) -> str | None:
    """Returns the commit of the repository that tracks the folder `source`, ``-dirty`` if files differ.

    None without git, outside a repository, or where the repository around does not track the folder (a
    virtual environment inside somebody's project).
    """
    if not _git(source, "ls-files", "--", "."):
        return None
    return _git(source, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _has_cuda() -> bool:
    """Returns whether CUDA's runtime library is installed, as a wheel or by the system."""
    wheels = ("nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime")
    return any(map(version_of, wheels)) or find_library("cudart") is not None


def _ask_for_cpu_replicas(cpu_replicas: int) -> None:
    if cpu_replicas < 1:
        raise UserError(f"{cpu_replicas} CPU replicas were asked for; at least 1 is needed")
    if _jax_option("jax_num_cpu_devices") != cpu_replicas:
        with suppress(RuntimeError):  # The backend runs already: `start` compares the numbers.
            jax.config.update("jax_num_cpu_devices", cpu_replicas)


def _set_cache(directory: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", directory)
    jax_compilation_cache.reset_cache()  # JAX opens the first directory it is given, and no other


def _start_backend(platform: str) -> str:
    """Returns the name of JAX's default backend, which it starts."""
    try:
        return jax.default_backend()
    # JAX asserts, without a message, when JAX_PLATFORMS names cuda alone and no GPU can be seen.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0] or "no device found"
        raise UserError(
            f"platform '{platform}' cannot start{_with_jax_platforms()}, JAX says: {reason}; "
            f"{_REMEDY[platform]}, or choose the CPU: --config.platform=cpu"
        ) from error


def _refuse_silent_fallback() -> None:
    """Raises `UserError` if the CPU was not chosen and there are signs of an accelerator."""
    chosen = _jax_option("jax_platforms")
    if chosen and chosen.split(",")[0] == "cpu":
        return
    # With JAX_PLATFORMS=cuda,cpu JAX takes the CPU without a word where it sees no GPU.
    signs = [f"JAX_PLATFORMS={chosen}"] if chosen else accelerators_present()
    if signs:
        raise UserError(
            f"an accelerator is expected ({', '.join(signs)}) but JAX can use only the CPU; for a GPU: "
            f"{_REMEDY['gpu']}; for a TPU: {_REMEDY['tpu']}; or choose the CPU: --config.platform=cpu"
        )


def _with_jax_platforms() -> str:
    chosen = _jax_option("jax_platforms")
    return f" with jax_platforms={chosen}" if chosen else ""


def _jax_option(name: str) -> Any:
    """Returns an option of JAX; its own class does not declare them."""
    return getattr(jax.config, name)


def version_of(distribution: str) -> str | None:
    """Returns the version of an installed distribution; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    """Returns what a git command prints, None if it prints nothing, fails or is not installed."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        printed = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return printed.stdout.strip() or None if printed.returncode == 0 else None
