"""How XLA compiles for the CPU of a machine."""

import pytest

from efficientnet_pod.pod import cpu


@pytest.mark.parametrize(
    ("vendor", "flags", "is_fast"),
    [
        ("AuthenticAMD", "fpu avx2 avx512f", True),
        ("AuthenticAMD", "fpu avx2", False),
        ("GenuineIntel", "fpu avx512f", False),
        (None, "", False),
    ],
)
def test_wide_vectors_are_for_cpus_whose_clock_they_do_not_slow(monkeypatch, vendor, flags, is_fast):
    facts = {"vendor_id": vendor, "flags": flags} if vendor else {}
    monkeypatch.setattr(cpu, "cpu_facts", lambda: facts)
    assert cpu.compiler_options("cpu") == ({"xla_cpu_prefer_vector_width": "512"} if is_fast else None)
    assert cpu.compiler_options("gpu") is None
