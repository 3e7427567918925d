"""The CPU of this machine, and how XLA compiles for it."""

from pathlib import Path
from typing import Any


def compiler_options(platform: str) -> dict[str, Any] | None:
    """Returns XLA's options for programs on a platform, such as "cpu"; None: its defaults.

    XLA's CPU compiler keeps to vectors of 256 bits, since wide ones slow the clock of many Intel CPUs. AMD's
    CPUs with AVX-512 lose none, and are faster with them: records/inference.md, records/cpu_step.md.
    """
    if platform != "cpu" or not _has_fast_wide_vectors(cpu_facts()):
        return None
    return {"xla_cpu_prefer_vector_width": "512"}


def cpu_facts() -> dict[str, str]:
    """Returns what Linux says of the first core, such as ``model name``; nothing elsewhere."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text("utf-8", "replace").partition("\n\n")[0].splitlines() if about.exists() else []
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): fact.strip() for name, _, fact in pairs}


def _has_fast_wide_vectors(facts: dict[str, str]) -> bool:
    return facts.get("vendor_id") == "AuthenticAMD" and "avx512f" in facts.get("flags", "").split()
