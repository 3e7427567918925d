"""Which tensors weight decay and the trust ratio apply to, decided by each tensor's path."""

from collections.abc import Collection
from typing import Literal

import jax
import optax

Kind = Literal["kernel", "bias", "norm", "fixed"]


def kernels(params: optax.Params) -> optax.Params:
    """Returns a tree of bool shaped like ``params``, True at the convolutions' and the classifier's kernels.

    Biases and both parameters of batch norm are False. Only the paths are read, so ``params`` may hold
    ``jax.ShapeDtypeStruct``. Raises ValueError on a tensor of unknown kind.

    Source: the skip list of the authors' LARS (batch_normalization, bias, beta, gamma),
    tensorflow/tpu models/official/efficientnet/utils.py.
    """
    return _where_kind({"kernel"}, params)


def kernels_and_biases(params: optax.Params) -> optax.Params:
    """Returns a tree of bool shaped like ``params``, True everywhere but at batch norm's scale and bias.

    The biases of squeeze-and-excitation and of the classifier are True. Only the paths are read. Raises
    ValueError on a tensor of unknown kind.

    Source: the L2 term of tensorflow/tpu models/official/efficientnet/main.py leaves out only the names that
    contain "batch_normalization".
    """
    return _where_kind({"kernel", "bias"}, params)


def everything(params: optax.Params) -> optax.Params:
    """Returns a tree of bool shaped like ``params``, True at all that is trained, batch norm's too.

    Only the paths are read. Raises ValueError on a tensor of unknown kind.
    """
    return _where_kind({"kernel", "bias", "norm"}, params)


def nothing(params: optax.Params) -> optax.Params:
    """Returns a tree of bool shaped like ``params``, False everywhere."""
    return _where_kind((), params)


def path_name(path: jax.tree_util.KeyPath) -> str:
    """Returns a tensor's path as it is printed: ``"head_bn/scale"``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _where_kind(kinds: Collection[Kind], params: optax.Params) -> optax.Params:
    return jax.tree_util.tree_map_with_path(lambda path, _: _kind(path_name(path)) in kinds, params)


def _kind(name: str) -> Kind:
    """Returns what a tensor is, from the last two names of its path."""
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
