"""Chips to plan for: clock, peak rates, memory and links, each with a source."""

from dataclasses import dataclass, field
from typing import Any

GIB = 1 << 30
_DOCS = "Cloud TPU documentation, system architecture of this generation"
_LINKS = "Austin et al., How to Scale Your Model, hardware table"
_TPU_V2 = "Jouppi et al., A Domain-Specific Supercomputer for Training Deep Neural Networks, CACM 2020"
_XLA = "OpenXLA, xla/backends/gpu/target_config/specs"
# Source: JAX's workflows cloud-tpu-ci-nightly.yml and wheel_tests_*.yml of August 2026; Cloud TPU
# documentation, pages of v2 and v3.
_UNTESTED = "JAX no longer tests itself on TPU {} (its CI runs v4, v5e, v6e and TPU7x); {}"


@dataclass(frozen=True)
class Gpu:
    """A GPU as XLA needs it described, to compile for it where there is none.

    Attributes:
      kind: the driver's name of the GPU.
      capability: CUDA compute capability, (major, minor).
      cores: streaming multiprocessors.
      fpus_per_core: float32 lanes of a multiprocessor.
      threads_per_core: most threads of a multiprocessor.
      shared_memory: bytes of shared memory of a multiprocessor.
      shared_memory_optin: bytes of shared memory that a block may ask for.
      l2_bytes: bytes of the level-2 cache.
      clock_hz: highest clock. XLA's model of costs divides by it: without one, hardly anything is fused.
    """

    kind: str
    capability: tuple[int, int]
    cores: int
    fpus_per_core: int
    threads_per_core: int
    shared_memory: int
    shared_memory_optin: int
    l2_bytes: int
    clock_hz: float


@dataclass(frozen=True)
class Chip:
    """One kind of chip; rates and sizes are those of a whole chip, which may show more than one device.

    Attributes:
      name: name in ``--topology``.
      title: name for people.
      platform: ``tpu``, ``gpu`` or ``cpu``.
      device_kinds: JAX's names of its devices.
      devices: devices that JAX shows for one chip; each is a replica.
      named_cores: cores that one chip adds to a name such as ``v3-32``.
      chips_per_host: chips of each host, where there are several hosts.
      dimensions: dimensions of the torus; 0 for none.
      most_chips: most chips of a TPU slice; 0 for others.
      clock_hz: clock of the compiler's cycles; None where none is published.
      flops: peak bfloat16 FLOP/s, dense.
      hbm_bytes: bytes of memory.
      hbm_usable: most bytes of memory that a program may use.
      hbm_bandwidth: bytes/s of the memory.
      link_bandwidth: bytes/s, one way, of one link of a torus, or of all links of a GPU together.
      sources: source of each figure, by field.
      also: figures of another source, where they differ enough to matter.
      caution: what to know before a machine of these chips is asked for; else empty.
      gpu: description for XLA's compiler, of a GPU.
    """

    name: str
    title: str
    platform: str
    device_kinds: tuple[str, ...]
    devices: int = 1
    named_cores: int = 1
    chips_per_host: int = 4
    dimensions: int = 0
    most_chips: int = 0
    clock_hz: float | None = None
    flops: float | None = None
    hbm_bytes: int = 0
    hbm_usable: int = 0
    hbm_bandwidth: float | None = None
    link_bandwidth: float | None = None
    sources: dict[str, str] = field(default_factory=dict)
    also: str = ""
    caution: str = ""
    gpu: Gpu | None = None

    @property
    def replica(self) -> str:
        """Word for one replica: ``core`` of a chip with several, else ``chip``, ``GPU`` or ``device``."""
        if self.devices > 1:
            return "core"
        return {"tpu": "chip", "gpu": "GPU", "cpu": "device"}[self.platform]


def _tpu(
    name: str,
    title: str,
    *kinds: str,
    clock: str,
    hbm_gib: tuple[float, float],
    figures: str = _DOCS,
    link: str = _LINKS,
    **fields: Any,
) -> Chip:
    """Returns a TPU; ``hbm_gib`` has the GiB of its memory, and those a program may use."""
    hbm_bytes, hbm_usable = (round(gib * GIB) for gib in hbm_gib)
    sources = {
        "clock_hz": clock,
        "flops": figures,
        "hbm_bytes": figures,
        "hbm_usable": "libtpu 0.0.42.1 and 0.0.50.1, when they refuse a program; the lower",
        "hbm_bandwidth": figures,
        "link_bandwidth": link,
    }
    return Chip(
        name, title, "tpu", kinds, hbm_bytes=hbm_bytes, hbm_usable=hbm_usable, sources=sources, **fields
    )


def _gpu(name: str, title: str, gpu: Gpu, *, peak: str, hbm_bytes: int, **fields: Any) -> Chip:
    sources = {
        "flops": peak,
        "hbm_bytes": _XLA,
        "hbm_usable": "three quarters, JAX's default; XLA_PYTHON_CLIENT_MEM_FRACTION sets another share",
        "hbm_bandwidth": _XLA,
        "link_bandwidth": peak,
    }
    sizes = {"chips_per_host": 8, "hbm_bytes": hbm_bytes, "hbm_usable": hbm_bytes * 3 // 4}
    return Chip(name, title, "gpu", (gpu.kind,), sources=sources, gpu=gpu, **sizes, **fields)


_FROM_PEAK = "not published; follows from peak = cores × MXUs × 128² × 2 FLOPs × clock"

# Each column has one source, so that a share of the peak means the same for all chips.
_ALL = (
    _tpu(
        "v2", "TPU v2", "TPU v2", clock=_TPU_V2, figures=_TPU_V2, link=_TPU_V2, devices=2, named_cores=2,
        dimensions=2, most_chips=256, clock_hz=700e6, flops=46e12, hbm_gib=(16, 2 * 7.48),
        hbm_bandwidth=700e9, link_bandwidth=6.2e10,
        also="jax/_src/tpu_info.py of JAX 0.12 has 716 GB/s",
        caution=_UNTESTED.format("v2", "two zones serve v2 pods: us-central1-a, europe-west4-a"),
    ),
    _tpu(
        "v3", "TPU v3", "TPU v3", clock=_FROM_PEAK, devices=2, named_cores=2, dimensions=2, most_chips=1024,
        clock_hz=940e6, flops=123e12, hbm_gib=(32, 2 * 15.48), hbm_bandwidth=900e9,
        link_bandwidth=1e11,
        also="jax/_src/tpu_info.py of JAX 0.12 has 140 TFLOP/s and 825 GB/s",
        caution=_UNTESTED.format("v3", "one zone serves v3 pods: europe-west4-a"),
    ),
    _tpu(
        "v4", "TPU v4", "TPU v4", clock=_FROM_PEAK, named_cores=2, dimensions=3, most_chips=4096,
        clock_hz=1050e6, flops=275e12, hbm_gib=(32, 30.75), hbm_bandwidth=1200e9,
        link_bandwidth=4.5e10,
    ),
    _tpu(
        "v5e", "TPU v5e", "TPU v5 lite", "TPU v5e", clock=_LINKS, dimensions=2, most_chips=256,
        clock_hz=1500e6, flops=197e12, hbm_gib=(16, 15.75), hbm_bandwidth=819e9,
        link_bandwidth=4.5e10,
    ),
    _tpu(
        "v5p", "TPU v5p", "TPU v5", "TPU v5p", clock=_FROM_PEAK, named_cores=2, dimensions=3,
        most_chips=6144,  # the largest job; a whole pod has 8,960
        clock_hz=1750e6, flops=459e12, hbm_gib=(95, 95.73), hbm_bandwidth=2765e9,
        link_bandwidth=9e10,
    ),
    _tpu(
        "v6e", "TPU v6e", "TPU v6 lite", "TPU v6e", clock="not published", dimensions=2, most_chips=256,
        flops=918e12, hbm_gib=(32, 31.24), hbm_bandwidth=1638e9, link_bandwidth=9e10,
    ),
    _tpu(
        "tpu7x", "TPU7x (Ironwood)", "TPU7x", clock="not published", devices=2, named_cores=2, dimensions=3,
        most_chips=9216, flops=2307e12, hbm_gib=(192, 2 * 94.74), hbm_bandwidth=7380e9, link=_DOCS,
        link_bandwidth=1e11, also="1,200 GB/s of 6 links, both ways",
    ),
    _gpu(
        "v100", "NVIDIA V100 SXM2 16 GB",
        Gpu("Tesla V100-SXM2-16GB", (7, 0), 80, 64, 2048, 98304, 98304, 6291456, 1.53e9),
        peak="NVIDIA V100 data sheet (float16: it has no bfloat16 of its own)",
        flops=125e12, hbm_bytes=16935682048, hbm_bandwidth=898e9, link_bandwidth=150e9,
    ),
    _gpu(
        "a100", "NVIDIA A100 SXM4 40 GB",
        Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 2048, 167936, 166912, 41943040, 1.41e9),
        peak="NVIDIA A100 data sheet",
        flops=312e12, hbm_bytes=42331013120, hbm_bandwidth=1555.2e9, link_bandwidth=300e9,
    ),
    _gpu(
        "h100", "NVIDIA H100 SXM5 80 GB",
        Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 2048, 233472, 232448, 52428800, 1.98e9),
        peak="NVIDIA H100 data sheet, without sparsity",
        flops=989e12, hbm_bytes=84942979072, hbm_bandwidth=3352.32e9, link_bandwidth=450e9,
    ),
    _gpu(
        "h200", "NVIDIA H200 SXM5 141 GB",
        Gpu("NVIDIA H200", (9, 0), 132, 128, 2048, 233472, 232448, 52428800, 1.98e9),
        peak="NVIDIA H200 data sheet, without sparsity",
        flops=989e12, hbm_bytes=151397597184, hbm_bandwidth=4800e9,
        link_bandwidth=450e9,
    ),
    _gpu(
        "rtx3090", "NVIDIA RTX 3090 24 GB",
        # OpenXLA has the A6000 of the same architecture; cores, cache and memory are the 3090's.
        Gpu("NVIDIA GeForce RTX 3090", (8, 6), 82, 128, 1536, 102400, 101376, 6291456, 1.695e9),
        peak="NVIDIA GA102 white paper, float32 accumulation; PCIe 4.0 × 16",
        flops=71e12, hbm_bytes=24 * GIB, hbm_bandwidth=936e9,
        link_bandwidth=32e9,
    ),
    Chip("cpu", "CPU of this machine", "cpu", ("cpu",), chips_per_host=0),
)  # fmt: skip
CHIPS = {chip.name: chip for chip in _ALL}

# JAX 0.12 knows their rates (jax/_src/tpu_info.py). No slices, machine types or prices are published.
NOT_YET = {"tpu8t": "TPU 8t", "tpu8i": "TPU 8i"}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip whose devices have that name in JAX; None if it is not in the table."""
    return next((chip for chip in _ALL if device_kind in chip.device_kinds), None)
