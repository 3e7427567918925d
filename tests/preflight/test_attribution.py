"""The place of an operation in a step: by its path, by what is fused in it, by its neighbours."""

import pytest

from efficientnet_pod.preflight.program.attribution import OTHER, Place, Places, place_of
from efficientnet_pod.preflight.program.hlo import parse

FORWARD, BACKWARD = "jit(f)/shard_map/jvp(EfficientNet)", "jit(f)/shard_map/transpose(jvp(EfficientNet))"


@pytest.mark.parametrize(
    "op_name, expected",
    [
        (f"{FORWARD}/block3b/expand_conv/cond/conv_general_dilated", ("block3b", "expand", "forward")),
        (
            f"{BACKWARD}/block3b/depthwise_conv/cond/transpose(jvp())/conv",
            ("block3b", "depthwise", "backward"),
        ),
        (f"{BACKWARD}/block12aa/project_conv/mul", ("block12aa", "project", "backward")),
        (f"{FORWARD}/block1a/depthwise_bn/mul", ("block1a", "BN", "forward")),
        (f"{FORWARD}/block1a/squeeze_excite/se_reduce/dot_general", ("block1a", "squeeze-excite", "forward")),
        (f"{FORWARD}/block1a/jit(silu)/mul", ("block1a", "swish", "forward")),
        (f"{FORWARD}/block1a/squeeze_excite/jit(silu)/mul", ("block1a", "squeeze-excite", "forward")),
        (f"{BACKWARD}/block1a/stochastic_depth/jit(_where)/select_n", ("block1a", "shortcut", "backward")),
        (f"{FORWARD}/block2b/add", ("block2b", "shortcut", "forward")),
        (f"{BACKWARD}/block2a/state4_left/row/conv/mul", ("block2a", "state4", "backward")),
        (f"{FORWARD}/block2a/before/bn/mul", ("block2a", "BN", "forward")),
        (f"{FORWARD}/auxiliary/classifier/dot", ("auxiliary", "auxiliary", "forward")),
        (f"{FORWARD}/stem_conv/convert", ("stem", "stem", "forward")),
        (f"{BACKWARD}/head_bn/psum_invariant", ("head", "BN", "backward")),
        (f"{FORWARD}/Dropout_0/jit(_bernoulli)/lt", ("classifier", "classifier", "forward")),
        ("jit(f)/shard_map/EfficientNet/classifier/dot", ("classifier", "classifier", "forward")),
        (f"{FORWARD}/rematted_computation/block1a/expand_conv/conv", ("block1a", "expand", "backward")),
        ("a/mul;transpose(jvp(EfficientNet))/block1a/expand_bn/mul", None),
        ("jit(f)/shard_map/mul", None),
    ],
)
def test_a_path_through_the_network_names_layer_part_and_direction(op_name, expected):
    assert place_of(op_name) == (expected and Place(*expected))


@pytest.mark.parametrize(
    "path, part, direction",
    [
        ("optimizer/mul", "optimizer", "update"),
        ("checks/optimizer/jit(_where)/select_n", "optimizer", "update"),  # the innermost scope tells
        ("checks/reduce_and", "checks", "update"),
        ("statistics/psum_invariant", "statistics", "update"),
        ("jvp(loss)/jit(log_softmax)/sub", "loss", "forward"),
        ("transpose(jvp(loss))/psum_invariant", "loss", "backward"),
        ("metrics/psum_invariant", "metrics", "forward"),
        ("input/sub", "input", "forward"),
    ],
)
def test_outside_the_network_the_scopes_of_the_step_tell(path, part, direction):
    assert place_of(f"jit(f)/shard_map/{path}") == Place("step", part, direction)


@pytest.mark.parametrize("name", ["losses", "jit(loss)", "my_loss", "loss.1"])
def test_what_only_sounds_like_a_scope_is_none(name):
    assert place_of(f"jit(f)/shard_map/{name}/mul") is None


PROGRAM = """HloModule m, is_scheduled=true

%fused (p: f32[9]) -> f32[1] {
  %p = f32[9]{0} parameter(0), metadata={op_name="jvp(EfficientNet)/head_conv/a"}
  %large = f32[9]{0} negate(%p), metadata={op_name="jvp(EfficientNet)/block1a/expand_bn/a"}
  %dense = f32[2]{0} convolution(%large, %p), metadata={op_name="jvp(EfficientNet)/block1a/project_conv/a"}
  ROOT %small = f32[1]{0} slice(%dense), metadata={op_name="jvp(EfficientNet)/block2a/expand_bn/a"}
}

%elementwise (q: f32[9]) -> f32[1] {
  %q = f32[9]{0} parameter(0)
  %wide = f32[9]{0} negate(%q), metadata={op_name="jvp(EfficientNet)/block1a/expand_bn/a"}
  ROOT %thin = f32[1]{0} slice(%wide), metadata={op_name="jvp(EfficientNet)/block2a/expand_bn/a"}
}

ENTRY %main (x: f32[9]) -> f32[9] {
  %x = f32[9]{0} parameter(0), metadata={op_name="batch['image']"}
  %first = f32[9]{0} reshape(%x), metadata={op_name="jvp(EfficientNet)/reshape"}
  %stem = f32[9]{0} negate(%first), metadata={op_name="jvp(EfficientNet)/stem_bn/a"}
  %swish = f32[9]{0} negate(%stem), metadata={op_name="jvp(EfficientNet)/jit(silu)/a"}
  %hero = f32[1]{0} fusion(%swish), kind=kOutput, calls=%fused
  %loose = f32[1]{0} fusion(%swish), kind=kLoop, calls=%elementwise
  %copy.1 = f32[1]{0} copy(%hero)
  %copy.2 = f32[1]{0} copy(%copy.1)
  %head = f32[9]{0} add(%copy.2, %loose), metadata={op_name="jvp(EfficientNet)/head_bn/a"}
  %pool = f32[9]{0} negate(%head), metadata={op_name="jvp(EfficientNet)/reduce_sum"}
  %spread = f32[9]{0} negate(%pool), metadata={op_name="transpose(jvp(EfficientNet))/broadcast"}
  %head.2 = f32[9]{0} add(%spread, %head), metadata={op_name="transpose(jvp(EfficientNet))/head_bn/a"}
  ROOT %unknown = f32[9]{0} negate(%x)
}
"""


@pytest.mark.parametrize(
    "name, expected",
    [
        ("hero", ("block1a", "project", "forward")),  # the convolution, though it writes less
        ("loose", ("block1a", "BN", "forward")),  # what writes most
        ("copy.2", ("block1a", "project", "forward")),  # what it copies, two steps away
        ("first", ("stem", "stem", "forward")),  # nothing before it, so what it feeds
        ("swish", ("stem", "swish", "forward")),
        ("pool", ("head", "head", "forward")),
        ("spread", ("head", "head", "backward")),
    ],
)
def test_what_has_no_name_of_its_own_belongs_to_what_is_in_it_or_next_to_it(name, expected):
    module = parse(PROGRAM)
    assert Places(module).of(module.entry.instructions[name], module.entry) == Place(*expected)


def test_what_nothing_tells_of_is_other():
    module = parse(PROGRAM.replace("%first = f32[9]{0} reshape(%x)", "%first = f32[9]{0} iota()"))
    assert Places(module).of(module.entry.instructions["unknown"], module.entry) == OTHER
