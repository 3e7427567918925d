"""Where in a step an operation belongs: by its path, its source, what is fused in it, its neighbours."""

import pytest

from efficientnet_pod.preflight.attribution import OTHER, PARTS, Place, Places, place_of
from efficientnet_pod.preflight.hlo import Frame, parse

FORWARD, BACKWARD = "jit(f)/shard_map/jvp(EfficientNet)", "jit(f)/shard_map/transpose(jvp(EfficientNet))"
STEPS = "/efficientnet_pod/steps.py"


@pytest.mark.parametrize(
    "op_name, functions, expected",
    [
        (f"{FORWARD}/block3b/expand_conv/cond/conv_general_dilated", (), ("block3b", "expand", "forward")),
        (
            f"{BACKWARD}/block3b/depthwise_conv/cond/transpose(jvp())/conv",
            (),
            ("block3b", "depthwise", "backward"),
        ),
        (f"{BACKWARD}/block12aa/project_conv/mul", (), ("block12aa", "project", "backward")),
        (f"{FORWARD}/block1a/depthwise_bn/mul", (), ("block1a", "BN", "forward")),
        (f"{FORWARD}/block1a/se_reduce/dot_general", (), ("block1a", "squeeze-excite", "forward")),
        (f"{FORWARD}/block1a/jit(silu)/mul", ("MBConv.__call__",), ("block1a", "swish", "forward")),
        (
            f"{FORWARD}/block1a/jit(silu)/mul",
            ("squeeze_excite", "MBConv.__call__"),
            ("block1a", "squeeze-excite", "forward"),
        ),
        (
            f"{BACKWARD}/block1a/jit(_where)/select_n",
            ("stochastic_depth", "MBConv.__call__"),
            ("block1a", "shortcut", "backward"),
        ),
        (f"{FORWARD}/block2b/add", ("MBConv.__call__",), ("block2b", "shortcut", "forward")),
        (f"{FORWARD}/stem_conv/convert", (), ("stem", "stem", "forward")),
        (f"{BACKWARD}/head_bn/psum_invariant", (), ("head", "BN", "backward")),
        (f"{FORWARD}/Dropout_0/jit(_bernoulli)/lt", (), ("classifier", "classifier", "forward")),
        ("jit(f)/shard_map/EfficientNet/classifier/dot", (), ("classifier", "classifier", "forward")),
        (f"{FORWARD}/rematted_computation/block1a/expand_conv/conv", (), ("block1a", "expand", "backward")),
        ("a/mul;transpose(jvp(EfficientNet))/block1a/expand_bn/mul", (), None),
        ("jit(f)/shard_map/mul", (), None),
    ],
)
def test_a_path_through_the_network_names_layer_part_and_direction(op_name, functions, expected):
    stack = tuple(Frame("/efficientnet_pod/models/efficientnet.py", function) for function in functions)
    assert place_of(op_name, stack) == (expected and Place(*expected))


@pytest.mark.parametrize(
    "frames, part, direction",
    [
        ([("/efficientnet_pod/optim/lars.py", "Lars._decay_and_adapt")], "optimizer", "update"),
        ([("/site-packages/optax/transforms/_accumulation.py", "trace")], "optimizer", "update"),
        ([("/efficientnet_pod/state.py", "update_ema")], "optimizer", "update"),
        ([(STEPS, "TrainStep.__call__.<locals>.<lambda>")], "optimizer", "update"),
        ([(STEPS, "_all_finite.<locals>.<listcomp>"), (STEPS, "TrainStep.__call__")], "checks", "update"),
        (
            [("/site-packages/optax/tree_utils/_tree_math.py", "tree_norm"), (STEPS, "TrainStep.__call__")],
            "checks",
            "update",
        ),
        (
            [("/efficientnet_pod/metrics.py", "cross_entropy"), (STEPS, "TrainStep._losses")],
            "loss",
            "backward",
        ),
        ([(STEPS, "TrainStep.__call__.<locals>.loss_fn")], "loss", "backward"),
        ([("/efficientnet_pod/metrics.py", "count")], "metrics", "backward"),
        ([("/efficientnet_pod/images.py", "normalise"), (STEPS, "TrainStep._mixed")], "input", "backward"),
    ],
)
def test_outside_the_network_the_source_tells(frames, part, direction):
    stack = tuple(Frame(*frame) for frame in [*frames, (STEPS, "TrainStep.__call__")])
    assert place_of("jit(f)/shard_map/transpose(jvp())/mul", stack) == Place("step", part, direction)
    assert part in PARTS


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
