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


@pytest.mark.parametrize("flags", ["", "--xla_dump_to=x --xla_backend_optimization_level=2"])
def test_a_training_step_is_optimized_less_unless_the_user_says_how_much(monkeypatch, flags):
    monkeypatch.setattr(cpu, "cpu_facts", lambda: {"vendor_id": "AuthenticAMD", "flags": "avx512f"})
    monkeypatch.setenv("XLA_FLAGS", flags)
    wide = {"xla_cpu_prefer_vector_width": "512"}
    level = {} if flags else {"xla_backend_optimization_level": "1"}
    assert cpu.compiler_options("cpu") == wide
    assert cpu.compiler_options("cpu", training=True) == wide | level
    assert cpu.compiler_options("tpu", training=True) is None
