"""Cost read from compiled programs, against sums by hand and the sizes of the network."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_hlo import read_hlo, scanned
from tiny import SIZE, tiny_model

from efficientnet_pod.models.initial import abstract_variables
from efficientnet_pod.preflight.program.cost import Program, read_program
from efficientnet_pod.preflight.program.execution import trip_count
from efficientnet_pod.preflight.program.hlo import parse

REPLICAS = 8


@pytest.fixture(scope="module")
def tiny() -> Program:
    """A train step of the tiny network for eight cores of TPU v3, in two BN groups of four."""
    return read_program(read_hlo("tiny_v3"))


def parameters() -> dict[tuple[str, ...], int]:
    """Returns the number of values of each tensor of the tiny network, by path."""
    params = abstract_variables(tiny_model(), SIZE)["params"]
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {tuple(key.key for key in path): leaf.size for path, leaf in leaves}


def bn_channels() -> int:
    return sum(size for path, size in parameters().items() if path[-1] == "scale")


# --- cycles ----------------------------------------------------------------------------------------------


def test_cycles_are_all_that_the_compiler_gives_and_the_layers_add_up_to_them(tiny):
    entry = read_hlo("tiny_v3").partition("\nENTRY ")[2]
    assert "while(" not in entry and "conditional(" not in entry
    given = sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', entry)))
    assert tiny.estimated_cycles == given > 100_000
    assert sum(tiny.cycles.values()) == given


def test_every_layer_of_the_network_has_its_cycles_and_next_to_none_are_lost(tiny):
    layers = {path[0].removesuffix("_conv").removesuffix("_bn") for path in parameters()}
    assert {place.layer for place in tiny.cycles} == layers | {"step"}
    cycles = Counter()
    for place, count in tiny.cycles.items():
        cycles[place.layer, place.direction] += count
    for layer in layers:
        assert cycles[layer, "forward"] > 0 and cycles[layer, "backward"] > 0, layer
    lost = sum(count for place, count in tiny.cycles.items() if place.part == "other")
    assert lost <= 0.01 * tiny.estimated_cycles


def test_each_convolution_counts_for_the_part_whose_name_it_bears(tiny):
    """Counted again from the text: a fusion with a convolution goes where the convolution's path says."""
    parts = {"expand_conv": "expand", "depthwise_conv": "depthwise", "project_conv": "project"}
    module = parse(read_hlo("tiny_v3"))
    expected = Counter()
    for instruction in module.entry.instructions.values():
        cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
        inside = [i for name in instruction.called for i in module.computations[name].instructions.values()]
        paths = {i.op_name for i in inside if i.opcode == "convolution"} if cycles else set()
        named = (
            re.search(r"(block\w+|stem|head)(?:_|/)(\w*conv)\b", "".join(paths)) if len(paths) == 1 else None
        )
        if named:
            direction = "backward" if "transpose(" in paths.pop() else "forward"
            part = parts.get(named.group(2), named.group(1))
            expected[named.group(1), part, direction] += int(cycles.group(1))
    counted = {(place.layer, place.part, place.direction): count for place, count in tiny.cycles.items()}
    assert len(expected) >= 2 * (2 + 2 * 3) and set(expected) <= set(counted)
    for key, cycles in expected.items():
        assert counted[key] >= cycles, key


def test_the_optimizer_and_the_checks_are_told_apart_from_the_network(tiny):
    update = {place.part for place in tiny.cycles if place.direction == "update"}
    assert {"optimizer", "checks"} <= update <= {"optimizer", "checks", "statistics", "other"}
    assert {place.layer for place in tiny.cycles if place.direction == "update"} == {"step"}


def test_a_loop_counts_as_often_as_it_runs_and_a_branch_if_it_is_the_dearer():
    """By hand from the text of the program: three before the loop, three in it, the branch with tanh."""
    in_loop, before, dearer, cheaper = 2853 + 1453 + 2282, 1867 + 3087 + 879, 4891, 1549
    program = read_program(read_hlo("scan_v3"))
    assert f'"estimated_cycles":"{cheaper}"' in read_hlo("scan_v3")
    assert program.estimated_cycles == 7 * in_loop + before + dearer
    assert sum(program.cycles.values()) == program.estimated_cycles


def loop(**changes) -> str:
    """Returns a program with one loop; the changes are what its counter does and how that is written."""
    values = {"step": 1, "limit": 10, "sides": "%i.3, %c.3", "direction": "LT", "first": 0, "carried": 6}
    text = read_hlo("loop")
    for name, value in (values | {"given": "carried", "noted": ""} | changes).items():
        text = text.replace(f"<{name}>", str(value))
    return text


@pytest.mark.parametrize(
    "changes, runs",
    [
        ({}, len(range(10))),
        ({"first": 4, "step": 2}, len(range(4, 10, 2))),
        ({"step": 3}, len(range(0, 10, 3))),
        ({"direction": "LE"}, len(range(0, 11))),
        ({"direction": "GT", "first": 10, "limit": 0, "step": -3}, len(range(10, 0, -3))),
        ({"direction": "GT", "sides": "%c.3, %i.3"}, len(range(10))),
        ({"sides": "%i.3, %n.3"}, len(range(6))),
        ({"first": 12}, 0),
        ({"noted": ', backend_config={"known_trip_count":{"n":"5"}}'}, 5),
        ({"sides": "%i.3, %n.3", "given": "n"}, None),
        ({"direction": "NE"}, None),
        ({"step": 0}, None),
    ],
)
def test_the_trip_count_is_read_or_derived(changes, runs):
    module = parse(loop(**changes))
    assert trip_count(module.entry.instructions["loop"], module.entry, module) == runs
    program = read_program(loop(**changes))
    times = 1 if runs is None else runs
    # The body's fusion, not what is fused; the condition once more than the body; the copy once.
    assert program.estimated_cycles == 100 * times + (times + 1) + 30


def test_no_estimate_is_none_not_zero():
    program = read_program(read_hlo("gpu"))
    assert program.estimated_cycles is None
    assert program.cycles == {}


# --- collectives -----------------------------------------------------------------------------------------


def bytes_by_purpose(program: Program) -> dict[tuple[str, int], int]:
    sent_of = Counter()
    for collective in program.collectives:
        for purpose, sent in collective.purposes:
            sent_of[purpose, collective.group_size] += sent * collective.count
    return dict(sent_of)


def test_what_is_sent_is_what_the_network_needs(tiny):
    """Float32 pairs of every channel within a BN group; float32 gradients over all replicas.

    The gradients of squeeze-excite's biases are made in bfloat16; the compiler converts them as it sums.
    """
    sizes = parameters()
    biases = sum(n for path, n in sizes.items() if path[-2].startswith("se_") and path[-1] == "bias")
    assert bytes_by_purpose(tiny) == {
        ("BN", 4): 2 * 2 * 4 * bn_channels(),  # two sums forward, two backward
        ("gradients", 8): 4 * sum(sizes.values()) - 2 * biases,
        ("statistics", 2): 2 * 4 * bn_channels(),
        ("metrics", 8): 4 + 4 * (3 + 3),  # the loss; three flags, top-1, top-5, images
    }


def test_collectives_have_the_groups_of_the_mesh_and_come_once(tiny):
    norms = sum(path[-1] == "scale" for path in parameters())
    bn = [c for c in tiny.collectives if c.purpose == "BN"]
    assert len(bn) == 2 * norms
    assert {c.groups for c in bn} == {((0, 1, 2, 3), (4, 5, 6, 7))}
    assert {(len(c.groups), c.group_size, c.count, c.op) for c in bn} == {(2, 4, 1, "all-reduce")}
    across = [c for c in tiny.collectives if c.group_size == 2]
    assert [c.groups for c in across] == [((0, 4), (1, 5), (2, 6), (3, 7))]
    assert [purpose for purpose, _ in across[0].purposes] == ["statistics"]
    (mixed,) = (c for c in tiny.collectives if len(c.purposes) > 1)
    assert [purpose for purpose, _ in mixed.purposes] == ["gradients", "metrics"]
    assert mixed.purpose == "gradients" and mixed.bytes == sum(sent for _, sent in mixed.purposes)
    assert len(tiny.collectives) == read_hlo("tiny_v3").count(" all-reduce(")


def test_gradients_of_batch_norm_are_told_from_its_statistics_by_the_groups():
    """With BN groups of one nothing is normalised together: the same sums are then gradients."""
    alone = re.sub(
        r"replica_groups=\{\{0,1,2,3\},\{4,5,6,7\}\}", "replica_groups={{0},{1}}", read_hlo("tiny_v3")
    )
    program = read_program(alone.replace("{{0,4},{1,5},{2,6},{3,7}}", "{{0,1,2,3,4,5,6,7}}"))
    assert {size for _, size in bytes_by_purpose(program)} == {REPLICAS}
    assert {purpose for purpose, _ in bytes_by_purpose(program)} == {"gradients", "statistics", "metrics"}


def test_a_collective_in_a_loop_counts_with_it():
    (collective,) = read_program(read_hlo("scan_v3")).collectives
    assert (collective.op, collective.count, collective.bytes) == ("all-reduce", 7, 4 * 256 * 256)
    assert collective.strategy == "UniDirectionNDRingStrategy"


def test_gpu_collectives_come_once_with_their_groups_in_short():
    reduce, gather = read_program(read_hlo("gpu")).collectives
    assert (reduce.op, reduce.name, reduce.bytes) == ("all-reduce", "all-reduce-start", 4 * (4 * 8 + 16))
    assert (reduce.group_size, len(reduce.groups)) == (8, 2)
    assert reduce.groups == (tuple(range(0, 16, 2)), tuple(range(1, 16, 2)))
    assert (gather.op, gather.bytes, gather.groups) == ("all-gather", 4 * 16, (tuple(range(16)),))


def test_a_thousand_replicas_in_short_are_expanded():
    text = read_hlo("gpu").replace("num_partitions=16", "num_partitions=1024")
    text = text.replace("[2,8]<=[8,2]T(1,0)", "[64,16]<=[8,4,8,4]T(0,2,1,3)")
    reduce = read_program(text).collectives[0]
    assert (reduce.group_size, len(reduce.groups)) == (16, 64)
    expected = np.arange(1024).reshape(8, 4, 8, 4).transpose(0, 2, 1, 3).reshape(64, 16)
    assert np.array_equal(reduce.groups, expected)


def test_a_permutation_joins_those_that_pass_on_and_a_group_of_one_sends_nothing():
    text = """HloModule m, num_partitions=6

ENTRY %main (x: f32[2,2]) -> f32[2,2] {
  %x = f32[2,2]{1,0} parameter(0)
  %moved = f32[2,2]{1,0} collective-permute(%x), source_target_pairs={{0,1},{1,2},{2,0},{3,5},{5,3}}
  %alone = f32[2,2]{1,0} all-gather(%moved), replica_groups={{0},{1},{2},{3},{4},{5}}, dimensions={0}
  ROOT %all = f32[2,2]{1,0} all-to-all(%alone), replica_groups={}, dimensions={0}
}
"""
    moved, everyone = read_program(text).collectives
    assert (moved.op, moved.bytes, moved.groups) == ("collective-permute", 16, ((0, 1, 2), (3, 5)))
    assert (everyone.op, everyone.group_size, everyone.groups) == ("all-to-all", 6, (tuple(range(6)),))


def test_what_the_cpu_compiler_writes_today_has_its_loop_and_collectives():
    program = read_program(scanned(jax.devices()[:4]).compile().as_text())
    assert program.estimated_cycles is None
    sent = {(c.count, c.bytes, c.group_size) for c in program.collectives}
    assert sent == {(7, 4 * 256 * 256, 4)}


# --- memory ----------------------------------------------------------------------------------------------


def bytes_by_kind(program: Program) -> Counter[str]:
    bytes_of = Counter()
    for buffer in program.buffers:
        bytes_of[buffer.kind] += buffer.bytes
    return bytes_of


def test_memory_agrees_with_the_compilers_own(tiny):
    """Its buffer assignment lists live ranges that add up to 3,665,920 bytes; its allocator takes more."""
    bytes_of = bytes_by_kind(tiny)
    assert bytes_of["argument"] == 624_640  # `memory_analysis`, as are the next two
    assert bytes_of["output"] + 1024 == 533_504 - 523_264  # results less donated, and a table of addresses
    assert 0.99 < bytes_of["temporary"] / 3_665_920 < 1.01
    assert bytes_of["temporary"] < 11_892_736
    assert bytes_of.total() < 4_352_000  # `memory_analysis().peak_memory_in_bytes`
    assert [b.bytes for b in tiny.buffers] == sorted((b.bytes for b in tiny.buffers), reverse=True)


def test_buffers_name_what_the_arguments_are(tiny):
    tensors, statistics = len(parameters()), 2 * sum(path[-1] == "scale" for path in parameters())
    arguments = Counter(b.place.layer for b in tiny.buffers if b.kind == "argument")
    assert arguments == {
        "parameters": tensors,
        "BN statistics": statistics,
        "optimizer state": tensors + 1,  # momentum, and the count of steps
        "averaged weights": tensors + statistics,
        "batch": 3,
        "other": 2,  # step, halted
    }


def test_the_largest_buffers_are_activations_of_the_forward_pass(tiny):
    largest = [b for b in tiny.buffers if b.kind == "temporary"][:5]
    assert all(b.place.direction == "forward" for b in largest)
    assert largest[0].array == "bf16[4,32,32,3]" and largest[0].place.layer == "stem"
    assert largest[0].bytes == 4 * 32 * 32 * 128 * 2  # three channels padded to 128 lanes


def test_memory_is_what_is_alive_between_making_and_last_use():
    """At `e`, c, d and e are alive; at `c`, a, b and c, which is less."""
    program = read_program(read_hlo("peak"))
    assert bytes_by_kind(program) == {
        "argument": 4 * (1000 + 100),
        "output": 4 * 10,  # the other takes the place of what was donated
        "temporary": 4 * max(200 + 300 + 400, 400 + 50 + 500),
    }
    temporaries = [(b.name, b.bytes) for b in program.buffers if b.kind == "temporary"]
    assert temporaries == [("e", 2000), ("c", 1600), ("d", 200)]


@pytest.mark.parametrize(
    "attribute",
    [
        'backend_config={"aliasing_operands":{"lists":[{"indices":["0","1"]}]}}',  # TPU: operand, result
        "output_to_operand_aliasing={{}: (0, {})}",
        None,
    ],
)
def test_a_result_in_the_place_of_an_operand_takes_no_memory(attribute):
    again = f"%again = f32[500]{{0}} negate(%e), {attribute or 'metadata={}'}\n  %small"
    text = read_hlo("peak").replace("%small =", f"{again} =").replace("slice(%e)", "slice(%again)")
    alive = 400 + 50 + 500 if attribute else 500 + 500
    assert bytes_by_kind(read_program(text))["temporary"] == 4 * alive


def test_what_a_loop_holds_inside_counts_beside_what_is_held_around_it():
    inside = loop().replace("  %f.2 = ", "  %big.2 = f32[1000]{0} broadcast(%x.2), dimensions={0}\n  %f.2 = ")
    around = inside.replace("  %loop = ", "  %held = f32[500]{0} broadcast(%x), dimensions={0}\n  %loop = ")
    around = around.replace("ROOT %y", "%late = f32[1]{0} slice(%held), slice={[0:1]}\n  ROOT %y")
    assert bytes_by_kind(read_program(inside))["temporary"] == 4 * 1000
    program = read_program(around)
    assert bytes_by_kind(program)["temporary"] == 4 * (1000 + 500)
    assert [b.name for b in program.buffers if b.kind == "temporary"] == ["big.2", "held"]


def test_without_a_schedule_nothing_is_said_of_memory():
    program = read_program(read_hlo("peak").replace("is_scheduled=true, ", ""))
    assert program.buffers == ()


def test_memory_on_the_chip_is_not_main_memory():
    """On v5e this program keeps its arrays in VMEM: the compiler reserves 161,280 bytes of HBM for it."""
    assert bytes_by_kind(read_program(read_hlo("scan_v5e")))["temporary"] < 161_280
    assert jnp.zeros((256, 256), jnp.float32).nbytes > 161_280
