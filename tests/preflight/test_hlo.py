"""HLO text of three back ends: shapes with their padding, groups, operands, where an operation comes from."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_hlo import read_hlo

from efficientnet_pod.preflight.program.hlo import Instruction, parse, replica_groups
from efficientnet_pod.preflight.program.shapes import arrays, elements


@pytest.mark.parametrize(
    "text, expected",
    [
        ("f32[3,5]{1,0:T(2,2)}", 2 * 3 * 4 * 4),  # the example of openxla.org/xla/tiled_layout
        ("f32[3,5]{0,1:T(2,2)}", 3 * 2 * 4 * 4),
        ("f32[3,5]{1,0}", 15 * 4),
        ("f32[]{:T(256)}", 256 * 4),
        ("f32[10]{0:T(256)S(6)}", 256 * 4),
        ("f32[3,3,1,8]{3,1,2,0:T(4,128)}", 3 * 1 * 4 * 128 * 4),  # rows 3 -> 4, lanes 8 -> 128
        ("bf16[4,32,32,3]{2,1,3,0:T(8,128)(2,1)}", 4 * 3 * 32 * 128 * 2),
        ("bf16[1,8]{1,0:T(1,128)(2,1)}", 2 * 128 * 2),  # two bfloat16 rows share a word
        ("pred[32]{0:T(1024)(128)(4,1)}", 1024),
        ("f32[2,3,5]{2,1,0:T(*,4)}", 32 * 4),  # 3·5 merged make four tiles, twice
        ("f32[2,3,5]{2,1,0:T(*,*,4)}", 32 * 4),  # 2·3·5 merged make eight
        ("s4[7]{0}", 4),
        ("f8e4m3fn[7]", 7),
        ("c64[2]", 16),
        ("token[]", 0),
    ],
)
def test_an_array_takes_whole_tiles(text, expected):
    (array,) = arrays(text)
    assert array.padded_bytes == expected


def test_tuples_come_apart_at_their_own_level_alone():
    text = "((f32[2,3]{1,0:T(8,128)}, /*index=1*/u8[0]{0}), s32[]{:T(256)S(2)}, pred[<=9])"
    assert elements(text) == (
        "(f32[2,3]{1,0:T(8,128)}, /*index=1*/u8[0]{0})",
        "s32[]{:T(256)S(2)}",
        "pred[<=9]",
    )
    assert [(a.dtype, a.dims, a.memory_space) for a in arrays(text)] == [
        ("f32", (2, 3), 0),
        ("u8", (0,), 0),
        ("s32", (), 2),
        ("pred", (9,), 0),
    ]


def test_padded_arguments_are_what_the_tpu_compiler_says_they_take():
    """``compiled.memory_analysis()`` of this program; results add a table of addresses of 1,024 bytes."""
    entry = parse(read_hlo("tiny_v3")).entry
    parameters = [i for i in entry.instructions.values() if i.opcode == "parameter"]
    assert sum(a.padded_bytes for i in parameters for a in i.results) == 624_640
    assert sum(a.padded_bytes for a in entry.root.results) + 1024 == 533_504


@pytest.mark.parametrize("sizes", [(8,), (4, 2), (2, 3, 4)])
def test_groups_in_short_are_a_transposed_array(sizes):
    numbers = np.arange(np.prod(sizes)).reshape(sizes)
    for order in itertools.permutations(range(len(sizes))):
        for number in (1, 2, 4, numbers.size):
            size = numbers.size // number
            shape, source, turned = (",".join(map(str, part)) for part in ((number, size), sizes, order))
            expected = numbers.transpose(order).reshape(number, size)
            assert np.array_equal(replica_groups(f"[{shape}]<=[{source}]T({turned})"), expected)


def test_groups_in_full():
    assert replica_groups("{{0,2},{1,3}}") == ((0, 2), (1, 3))
    assert replica_groups("[2,2]<=[4]") == ((0, 1), (2, 3))
    assert replica_groups("{}") == ()


def test_gpu_text_is_read():
    """Made by hand in the manner of GPUs: shapes before operands, starts and dones, quoted options."""
    module = parse(read_hlo("gpu"))
    assert list(module.computations) == ["add", "fused", "main"]
    entry = module.entry
    assert entry.name == "main" and entry.root.name == "out"
    start = entry.instructions["all-reduce-start"]
    assert (start.opcode, start.operands, start.called) == (
        "all-reduce-start",
        ("loop_fusion", "v"),
        ("add",),
    )
    assert start.attribute("replica_groups") == "[2,8]<=[8,2]T(1,0)"
    assert start.backend_config["collective_backend_config"] == {"is_sync": False, "note": 'a "b" {c'}
    assert entry.instructions["conv"].backend_config == {"algorithm": 5}
    assert entry.instructions["conv"].called == ("fused",)
    assert entry.instructions["all-reduce-done"].operands == ("all-reduce-start",)
    fusion = entry.instructions["loop_fusion"]
    assert (fusion.called, fusion.op_name) == (("fused",), "a(b)/c[d=('e',)]")
    assert entry.instructions["w"].op_name == "state.params['stem_conv']['kernel']"
    assert entry.instructions["v"].operands == ("1",)


def test_text_without_percent_signs_is_read():
    text = "HloModule m\n\nENTRY e {\n  a = f32[2]{0} parameter(0)\n  ROOT b.1 = f32[2]{0} add(a, a)\n}\n"
    root = parse(text).entry.root
    assert (root.name, root.operands, root.results[0].dims) == ("b.1", ("a", "a"), (2,))


def test_what_the_cpu_compiler_writes_today_is_read():
    shape = jax.ShapeDtypeStruct((3, 5), jnp.float32)
    text = jax.jit(lambda x: (jnp.tanh(x) @ x.T, x.sum())).lower(shape).compile().as_text()
    entry = parse(text).entry
    assert [a.dims for a in entry.root.results] == [(3, 3), ()]
    opcodes = {i.opcode for c in parse(text).computations.values() for i in c.instructions.values()}
    assert {"parameter", "tanh", "reduce", "tuple"} <= opcodes
    known = {name for c in parse(text).computations.values() for name in c.instructions}
    for instruction in entry.instructions.values():
        if instruction.opcode not in ("parameter", "constant"):
            assert instruction.operands and set(instruction.operands) <= known


def test_every_operand_and_every_called_computation_of_a_tpu_program_is_there():
    module = parse(read_hlo("tiny_v3"))
    assert sum(len(c.instructions) for c in module.computations.values()) == read_hlo("tiny_v3").count(" = ")
    for computation in module.computations.values():
        for instruction in computation.instructions.values():
            if instruction.opcode not in ("parameter", "constant"):
                assert set(instruction.operands) <= set(computation.instructions), instruction
            assert set(instruction.called) <= set(module.computations), instruction


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="does not begin an HLO module"):
        parse("module @jit_step {\n  func.func public @main() {\n  }\n}\n")


def test_an_attribute_ends_where_it_ends():
    instruction = Instruction("a", "fusion", "f32[]", (), ", kind=kLoop, groups={{0,1},{2}}, last=[1,2]")
    assert instruction.attribute("kind") == "kLoop"
    assert instruction.attribute("groups") == "{{0,1},{2}}"
    assert instruction.attribute("last") == "[1,2]"
    assert instruction.attribute("ind") is None
