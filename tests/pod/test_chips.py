"""The table of chips against the arithmetic that ties its figures together."""

import math

import pytest

from efficientnet_pod.pod.chips import CHIPS, GIB, chip_of

TPUS = [chip for chip in CHIPS.values() if chip.platform == "tpu"]
GPUS = [chip for chip in CHIPS.values() if chip.platform == "gpu"]
# Tensor cores × matrix units of each, 128 × 128 multiply-adds wide. Source: Cloud TPU documentation.
MATRIX_UNITS = {"v2": 2 * 1, "v3": 2 * 2, "v4": 2 * 4, "v5e": 1 * 4, "v5p": 2 * 4}


@pytest.mark.parametrize("name", MATRIX_UNITS)
def test_peak_is_what_the_matrix_units_do_at_that_clock(name):
    chip = CHIPS[name]
    assert chip.flops == pytest.approx(MATRIX_UNITS[name] * 128**2 * 2 * chip.clock_hz, rel=0.01)


@pytest.mark.parametrize("chip", TPUS + GPUS, ids=lambda chip: chip.name)
def test_every_figure_has_its_source_and_a_plausible_size(chip):
    for name in ("flops", "hbm_bytes", "hbm_usable", "hbm_bandwidth", "link_bandwidth"):
        assert chip.sources[name]
    assert ("clock_hz" in chip.sources) == (chip.platform == "tpu")
    assert 0.7 * chip.hbm_bytes < chip.hbm_usable < 1.01 * chip.hbm_bytes
    # FLOPs a byte at the ridge of the roofline: all these chips want far more than EfficientNet has.
    assert 60 < chip.flops / chip.hbm_bandwidth < 600


def test_the_disagreement_about_v3_is_named():
    assert "140" in CHIPS["v3"].also and "825" in CHIPS["v3"].also


def test_chips_that_jax_no_longer_tests_say_so():
    assert {chip.name for chip in TPUS if chip.caution} == {"v2", "v3"}
    assert "one zone serves v3 pods: europe-west4-a" in CHIPS["v3"].caution


def test_clocks_that_are_not_published_are_left_out():
    assert CHIPS["v6e"].clock_hz is None and "not published" in CHIPS["v6e"].sources["clock_hz"]


def test_gpus_have_the_flops_of_their_cores():
    # Float32: two FLOPs a lane and clock, as the data sheets have them at their boost clocks.
    published = {"v100": 15.7, "a100": 19.5, "h100": 66.9, "h200": 66.9, "rtx3090": 35.6}
    assert published.keys() == {chip.name for chip in GPUS}
    for name, teraflops in published.items():
        gpu = CHIPS[name].gpu
        peak = gpu.cores * gpu.fpus_per_core * 2 * gpu.clock_hz
        assert math.isclose(peak / 1e12, teraflops, rel_tol=0.01), name


def test_devices_are_known_by_their_kind():
    assert chip_of("TPU v3").name == "v3" and chip_of("TPU v5 lite").name == "v5e"
    assert chip_of("NVIDIA H100 80GB HBM3").name == "h100" and chip_of("abacus") is None
    kinds = [kind for chip in CHIPS.values() for kind in chip.device_kinds]
    assert len(kinds) == len(set(kinds))


def test_what_a_replica_is_called():
    assert [CHIPS[name].replica for name in ("v3", "v5e", "h100", "cpu")] == ["core", "chip", "GPU", "device"]
    assert CHIPS["v3"].hbm_bytes // CHIPS["v3"].devices == 16 * GIB
