"""Batch norm inside the kernels of the convolutions before it: the same logits of fewer operations."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from efficientnet_pod.models.batch_norm import BatchNorm
from efficientnet_pod.models.layers import Conv, DepthwiseConv, StemConv

Path = tuple[str, ...]


def folded(model: Any, variables: Mapping[str, Any], image_size: int) -> tuple[Any, dict[str, Any]]:
    """Returns a network for inference and its variables, whose convolutions have taken in their batch norms.

    A batch norm that directly follows a convolution leaves a bias behind. Its multiplier is computed and put
    into the kernel in float64, and rounded once: logits are the same but for rounding. A batch norm behind
    anything else, such as a sum or a pool, stays as it is.

    Args:
      model: a network of the registry, not packed, outside a mesh.
      variables: ``params`` and ``batch_stats``; they are not changed.
      image_size: height and width of an image, in pixels.
    """
    tensors = {path: np.asarray(array) for path, array in flatten_dict(dict(variables)).items()}
    places = _norms_of_convolutions(model, variables, image_size)
    for kernel, norm in places.items():
        mean, variance = (
            tensors.pop(("batch_stats", *norm.path, name)).astype(np.float64) for name in ("mean", "var")
        )
        scale = tensors.pop(("params", *norm.path, "scale"), norm.fixed_scale)
        multiplier = np.asarray(scale, np.float64) / np.sqrt(variance + norm.epsilon)
        bias = ("params", *norm.path, "bias")
        tensors[bias] = (tensors[bias] - mean * multiplier).astype(np.float32)
        tensors[kernel] = (tensors[kernel] * multiplier).astype(np.float32)
    names = frozenset("/".join(norm.path) for norm in places.values())
    return model.clone(norm=partial(model.norm, folded=names)), {"batch_stats": {}} | unflatten_dict(tensors)


def _norms_of_convolutions(
    model: Any, variables: Mapping[str, Any], image_size: int
) -> dict[Path, BatchNorm]:
    """Returns the batch norms whose input is the very array that a convolution returned, by its kernel."""
    norms: dict[Path, BatchNorm] = {}
    results: list[tuple[Path, Any]] = []

    def note(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        layer, result = context.module, call(*arguments, **options)
        if isinstance(layer, Conv | DepthwiseConv | StemConv):
            results.append((("params", *layer.path, "kernel"), result))
        elif isinstance(layer, BatchNorm):
            kernel = next((kernel for kernel, array in results if array is arguments[0]), None)
            norms.update({kernel: layer} if kernel else {})
        return result

    with nn.intercept_methods(note):
        images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
        jax.eval_shape(lambda images: model.apply(variables, images, train=False), images)
    return norms
