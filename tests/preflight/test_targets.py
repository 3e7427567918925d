"""Names of machines, and the devices they stand for."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding
from skips import needs_cuda_plugin, needs_libtpu

from efficientnet_pod.errors import UserError
from efficientnet_pod.pod.chips import CHIPS
from efficientnet_pod.pod.runtime import Runtime
from efficientnet_pod.pod.topology import bn_device_order, describe_bn_groups
from efficientnet_pod.preflight import targets
from efficientnet_pod.preflight.program.hlo import parse
from efficientnet_pod.preflight.targets import gpu_config, parse_target, runtime_for, target_here, target_of


@pytest.mark.parametrize(
    "topology, name, replicas, hosts",
    [
        ("v3:16x32", "v3:16x32", 1024, 128),
        # The slices of the Cloud TPU documentation, by cores of v2, v3, v4, v5p, tpu7x and chips of v5e, v6e.
        ("v2-8", "v2:2x2", 8, 1),
        ("v2-512", "v2:16x16", 512, 64),
        ("v3-8", "v3:2x2", 8, 1),
        ("v3-32", "v3:4x4", 32, 4),
        ("v3-128", "v3:8x8", 128, 16),
        ("v3-256", "v3:8x16", 256, 32),
        ("v3-512", "v3:16x16", 512, 64),
        ("v3-1024", "v3:16x32", 1024, 128),
        ("v3-2048", "v3:32x32", 2048, 256),
        ("v4-8", "v4:2x2x1", 4, 1),
        ("v4-384", "v4:4x4x12", 192, 48),
        ("v5p-640", "v5p:4x4x20", 320, 80),
        ("v4-16", "v4:2x2x2", 8, 2),
        ("v4-64", "v4:2x4x4", 32, 8),
        ("v4-128", "v4:4x4x4", 64, 16),
        ("v4:4x4", "v4:4x4x1", 16, 4),
        ("v5p-8", "v5p:2x2x1", 4, 1),
        ("v5e-1", "v5e:1x1", 1, 1),
        ("v5e-8", "v5e:2x4", 8, 1),
        ("v5litepod-16", "v5e:4x4", 16, 4),
        ("v6e-256", "v6e:16x16", 256, 64),
        ("tpu7x-8", "tpu7x:2x2x1", 8, 1),
        ("v7x-128", "tpu7x:4x4x4", 128, 16),
        ("cuda:h100x8", "cuda:h100x8", 8, 1),
        ("cuda:h100x64", "cuda:h100x64", 64, 8),
        ("cuda:a100", "cuda:a100x1", 1, 1),
        ("cpu:8", "cpu:8", 8, 1),
    ],
)
def test_names_stand_for_the_slices_of_their_makers(topology, name, replicas, hosts):
    target = parse_target(topology)
    assert (target.name, target.replicas, target.hosts) == (name, replicas, hosts)
    assert target.chips * target.chip.devices == replicas
    assert parse_target(target.name) == target


@pytest.mark.parametrize(
    "topology, words",
    [
        ("v3:16x31", "the first two sides are even; the nearest that can: --topology=v3:16x32"),
        ("v3-30", "30 cores are not whole hosts of 8; the nearest that are: --topology=v3-32"),
        ("v3-9", "the nearest that are: --topology=v3-8"),
        ("v5e-3", "3 chips are not whole hosts of 4; the nearest that are: --topology=v5e-4"),
        ("v3:4x4x4", "has 3 sides; TPU v3 is a torus of 2, e.g. v3:4x4"),
        ("v3:0x2", "has no chips"),
        ("v5e:32x32", "TPU v5e has 256 at most in one slice: choose fewer, e.g. --topology=v5e-256"),
        ("v5:2x2", "names no known TPU; did you mean 'v5p'?"),
        ("v9:2x2", "names no known TPU; known: tpu7x, v2, v3, v4, v5e, v5p, v6e"),
        ("cuda:h300x8", "names no known GPU; did you mean 'h200'?"),
        ("cuda:h100x12", "is not whole hosts of 8; the nearest that is: --topology=cuda:h100x16"),
        ("h100:2x2", "GPUs are written cuda:h100x8"),
        ("cpu:0", "has 0 devices; name 1 to 16,384"),
        ("cpu:9223372036854775808", "name 1 to 16,384"),
        ("v3-9223372036854775808", "chips; TPU v3 has 1,024 at most in one slice"),
        ("v3", "cannot be read; it looks like v3:16x32 (chips), v3-1024 (cores), cuda:h100x8 or cpu:8"),
        ("", "names no known TPU"),
    ],
)  # fmt: skip
def test_other_names_are_refused_with_the_nearest(topology, words):
    with pytest.raises(UserError) as refused:
        parse_target(topology)
    assert words in str(refused.value) and str(refused.value).startswith(f"--topology={topology}")
    assert "\n" not in str(refused.value)


def test_a_machine_of_the_same_chips_with_other_replicas():
    assert target_of(CHIPS["v3"], 128).name == "v3:8x8"
    assert target_of(CHIPS["v4"], 64).name == "v4:4x4x4"
    assert target_of(CHIPS["v5e"], 8).name == "v5e:2x4"
    assert target_of(CHIPS["a100"], 16).name == "cuda:a100x16"
    assert target_of(CHIPS["cpu"], 2).name == "cpu:2"
    with pytest.raises(UserError, match="7 replicas are not whole TPU v3 chips of 2 cores"):
        target_of(CHIPS["v3"], 7)


@needs_libtpu
@pytest.mark.parametrize(
    "name", ["v2:4x4", "v3:4x4", "v4:2x2x2", "v5e:2x4", "v5p:2x2x1", "v6e:1x1", "tpu7x:2x2x2"]
)
def test_devices_of_a_tpu_are_those_that_libtpu_shows(name):
    target = parse_target(name)
    runtime = runtime_for(target)
    assert (runtime.platform, runtime.host_count) == ("tpu", target.hosts)
    assert len(runtime.devices) == target.replicas
    assert runtime.device_kind in target.chip.device_kinds
    assert len({device.process_index for device in runtime.devices}) == target.hosts
    assert len({device.core_on_chip for device in runtime.devices}) == target.chip.devices
    sides = [len({device.coords[axis] for device in runtime.devices}) for axis in range(3)]
    assert tuple(sides[: target.chip.dimensions]) == target.grid
    assert target_here(runtime) == target


@needs_libtpu
@pytest.mark.parametrize(
    "name", ["v2:2x2", "v3:2x2", "v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"]
)
def test_a_program_may_use_what_libtpu_says_that_there_is(name):
    target = parse_target(name)
    place = SingleDeviceSharding(runtime_for(target).devices[0])
    too_large = jax.ShapeDtypeStruct((2**23, 4096), jnp.float32, sharding=place)
    with pytest.raises(jax.errors.JaxRuntimeError) as refused:
        jax.jit(lambda x: jnp.sort(x * 2, axis=0)).lower(too_large).compile()
    there = float(re.search(r"exceeds available HBM \(([\d.]+)G\)", str(refused.value))[1])
    # Versions of libtpu differ by a hundredth of a GiB; the table has the lower.
    assert 0 <= there - target.chip.hbm_usable / target.chip.devices / 2**30 < 0.015


@needs_libtpu
def test_what_libtpu_refuses_is_one_line_with_a_shape_it_takes(monkeypatch):
    monkeypatch.setattr(
        targets, "_torus", lambda chip, sides, name: targets.Target(name, chip, sides, 992, 496, 62)
    )
    with pytest.raises(
        UserError, match=r"v3:16x31 is refused by libtpu: .*not divisible.*; try --topology="
    ) as refused:
        runtime_for(parse_target("v3:16x31"))
    assert "\n" not in str(refused.value)


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(UserError, match=r"--topology=v3:2x2 needs libtpu.*pip install -e '\.\[tpu\]'"):
        runtime_for(parse_target("v3:2x2"))


def test_without_the_cuda_plugin_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(targets.metadata, "entry_points", lambda group: [])
    with pytest.raises(UserError, match=r"cuda:h100x8 needs JAX's CUDA plug-in.*'\.\[preflight-cuda\]'"):
        runtime_for(parse_target("cuda:h100x8"))


@needs_cuda_plugin
def test_devices_of_gpus_are_as_many_hosts_as_they_need():
    target = parse_target("cuda:v100x16")
    runtime = runtime_for(target)
    assert runtime.platform == "gpu" and runtime.device_kind == CHIPS["v100"].gpu.kind
    assert sorted(device.process_index for device in runtime.devices) == [0] * 8 + [1] * 8
    assert target_here(runtime) == target


def test_a_gpu_is_described_to_the_compiler():
    text = gpu_config(CHIPS["rtx3090"])
    assert (
        "major: 8 minor: 6 }" in text
        and "core_count: 82 " in text
        and f"device_memory_size: {24 << 30} " in text
        and "clock_rate_ghz: 1.695\n" in text
    )
    assert text.count("{") == text.count("}") == 3


@needs_cuda_plugin
@pytest.mark.parametrize("chip", ["a100", "h100", "h200", "rtx3090"])  # newer assemblers do not know a V100
def test_elementwise_work_is_one_kernel_for_a_gpu_that_is_not_here(chip):
    """Where the description lacks a figure of the model of costs, constants become whole arrays in memory."""
    device = runtime_for(parse_target(f"cuda:{chip}x1")).devices[0]
    shape = jax.ShapeDtypeStruct((256, 1024), "float32", sharding=SingleDeviceSharding(device))
    program = jax.jit(lambda weight, moment: weight - (0.9 * moment + weight)).lower(shape, shape).compile()
    opcodes = [instruction.opcode for instruction in parse(program.as_text()).entry.instructions.values()]
    assert sorted(opcodes) == ["fusion", "parameter", "parameter"]


def test_virtual_devices_are_a_part_of_those_that_run():
    runtime = runtime_for(parse_target("cpu:2"), cpu_devices=8)
    assert len(runtime.devices) == 2 and runtime.platform == "cpu"


def test_a_machine_that_is_here_is_named_or_unknown():
    devices = tuple(SimpleNamespace(id=i) for i in range(4))
    assert target_here(Runtime("gpu", devices, "NVIDIA H100 80GB HBM3", 0, 2)).hosts == 2
    with pytest.raises(UserError, match="nothing is known of 'NVIDIA GeForce GT 710'; known: TPU v2, TPU v3"):
        target_here(Runtime("gpu", devices, "NVIDIA GeForce GT 710", 0, 1))


def test_gpus_that_are_not_here_are_laid_out_by_number():
    # As the CUDA plug-in shows them: with coordinates of a host, without cores of a chip.
    devices = [SimpleNamespace(id=i, process_index=0, coords=[0, 0, i]) for i in reversed(range(8))]
    assert [device.id for device in bn_device_order(devices, 4)] == list(range(8))
    assert (
        describe_bn_groups(devices, 4) == "2 groups of 4 replicas, contiguous (devices have no coordinates)"
    )
