"""The masks on a tree shaped like the network's: stem, a block with squeeze-and-excitation, head."""

import jax
import jax.numpy as jnp
import pytest

from efficientnet_pod.optim import masks

BN = {"scale": (8,), "bias": (8,)}
SHAPES = {
    "stem_conv": {"kernel": (3, 3, 3, 8)},
    "stem_bn": BN,
    "block_0": {
        "expand_conv": {"kernel": (1, 1, 8, 48)},
        "expand_bn": BN,
        "depthwise_conv": {"kernel": (3, 3, 1, 48)},
        "depthwise_bn": BN,
        "se_reduce": {"kernel": (1, 1, 48, 2), "bias": (2,)},
        "se_expand": {"kernel": (1, 1, 2, 48), "bias": (48,)},
        "project_conv": {"kernel": (1, 1, 48, 8)},
        "project_bn": BN,
    },
    "head_conv": {"kernel": (1, 1, 8, 32)},
    "whitening": {"fixed_kernel": (3, 3, 3, 27)},  # is in no mask
    "head_bn": BN,
    "classifier": {"kernel": (32, 10), "bias": (10,)},
}
# Shapes alone: a mask needs no arrays, so a plan of B7 costs no memory.
PARAMS = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
)
KERNELS = {
    "stem_conv/kernel",
    "block_0/expand_conv/kernel",
    "block_0/depthwise_conv/kernel",
    "block_0/se_reduce/kernel",
    "block_0/se_expand/kernel",
    "block_0/project_conv/kernel",
    "head_conv/kernel",
    "classifier/kernel",
}
NORMS = {
    f"{path}_bn/{leaf}"
    for path in ("stem", "block_0/expand", "block_0/depthwise", "block_0/project", "head")
    for leaf in ("scale", "bias")
}
BIASES = {"block_0/se_reduce/bias", "block_0/se_expand/bias", "classifier/bias"}


def chosen(mask):
    leaves, _ = jax.tree_util.tree_flatten_with_path(mask)
    assert all(type(leaf) is bool for _, leaf in leaves)
    return {masks.path_name(path) for path, leaf in leaves if leaf}


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (masks.KERNELS, KERNELS),
        (masks.KERNELS_AND_BIASES, KERNELS | BIASES),
        (masks.EVERYTHING, KERNELS | BIASES | NORMS),
        (masks.NOTHING, set()),
    ],
)
def test_mask_chooses_by_path(kinds, expected):
    tree = masks.where(kinds, PARAMS)
    assert jax.tree.structure(tree) == jax.tree.structure(PARAMS)
    assert chosen(tree) == expected


@pytest.mark.parametrize("name", ["embedding/table", "layer_norm/scale", "head_bn/kernel", "scale"])
@pytest.mark.parametrize("kinds", [masks.KERNELS, masks.EVERYTHING, masks.NOTHING])
def test_a_tensor_of_unknown_kind_is_refused(kinds, name):
    params = jax.ShapeDtypeStruct((3,), jnp.float32)
    for key in reversed(name.split("/")):
        params = {key: params}
    with pytest.raises(ValueError, match=f"parameter '{name}' is no kernel"):
        masks.where(kinds, params)
