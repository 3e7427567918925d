"""The CPU of this machine, and how XLA compiles for it."""

import os
from pathlib import Path
from typing import Any

_LEVEL = "xla_backend_optimization_level"


def compiler_options(platform: str, *, training: bool = False) -> dict[str, Any] | None:
    """Returns XLA's options for programs on a platform, such as "cpu"; None: its defaults.

    XLA's CPU compiler keeps to vectors of 256 bits, since wide ones slow the clock of many Intel CPUs. AMD's
    CPUs with AVX-512 lose none, and are faster with them: records/inference.md, records/cpu_step.md.

    Training steps are as fast after LLVM's first level of optimization as after its third, and are compiled
    in 5/6 of the time: records/start_up.md. A level written in ``XLA_FLAGS`` is left alone.
    """
    if platform != "cpu":
        return None
    options = {}
    if training and _LEVEL not in os.environ.get("XLA_FLAGS", ""):
        options[_LEVEL] = "1"
    if _has_fast_wide_vectors(cpu_facts()):
        options["xla_cpu_prefer_vector_width"] = "512"
    return options or None


def cpu_facts() -> dict[str, str]:
    """Returns what Linux says of the first core, such as ``model name``; nothing elsewhere."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text("utf-8", "replace").partition("\n\n")[0].splitlines() if about.exists() else []
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): fact.strip() for name, _, fact in pairs}


def _has_fast_wide_vectors(facts: dict[str, str]) -> bool:
    return facts.get("vendor_id") == "AuthenticAMD" and "avx512f" in facts.get("flags", "").split()
