"""The kinds of tensors that weight decay and the trust ratio apply to, known by the path of a tensor."""

from typing import Literal

import jax
import optax

Kind = Literal["kernel", "bias", "norm", "fixed"]
Kinds = frozenset[Kind]

NOTHING: Kinds = frozenset()
# Those of convolutions and the classifier. Source: the skip list of the authors' LARS (batch_normalization,
# bias, beta, gamma), tensorflow/tpu models/official/efficientnet/utils.py.
KERNELS: Kinds = frozenset({"kernel"})
# The biases are those of squeeze-and-excitation and of the classifier. Source: the L2 term of tensorflow/tpu
# models/official/efficientnet/main.py leaves out only the names that contain "batch_normalization".
KERNELS_AND_BIASES: Kinds = frozenset({"kernel", "bias"})
# All that is trained: scale and bias of batch norm too.
EVERYTHING: Kinds = frozenset({"kernel", "bias", "norm"})


def where(kinds: Kinds, params: optax.Params) -> optax.Params:
    """Returns a tree of bool shaped like ``params``, True at the tensors of these kinds.

    Only the paths are read, so ``params`` may hold ``jax.ShapeDtypeStruct``. Raises ValueError on a tensor of
    unknown kind.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: _kind(path_name(path)) in kinds, params)


def path_name(path: jax.tree_util.KeyPath) -> str:
    """Returns a tensor's path as it is printed: ``"head_bn/scale"``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _kind(name: str) -> Kind:
    """Returns the kind of a tensor, from the last two names of its path."""
    module, _, leaf = name.rpartition("/")
    match leaf, module.endswith("bn"):
        case (("scale" | "bias"), True):
            return "norm"
        case "kernel", False:
            return "kernel"
        case "bias", False:
            return "bias"
        case "fixed_kernel", False:  # computed from the images; its gradient is zero
            return "fixed"
    # A mask that guesses silently treats a new layer wrongly for a whole run.
    raise ValueError(
        f"parameter '{name}' is no kernel, bias or batch norm's scale or bias (in a module named *bn); "
        "teach efficientnet_pod/optim/masks.py whether it is decayed and adapted"
    )
