"""The features of a network: what its classifier takes, the pooled channels of the last layer."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

CLASSIFIER = ("classifier",)  # path of this layer in every network


def features_of(model: Any, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """Returns the float32 input of the classifier, (batch, channels); compiled, the logits are left out.

    Args:
      model: a network of the registry.
      variables: ``params`` and ``batch_stats``.
      images: normalised images (batch, height, width, 3).
    """
    inputs: list[jax.Array] = []

    def note(call: Any, arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        if context.module.path == CLASSIFIER and context.method_name == "__call__":
            inputs.append(arguments[0])
        return call(*arguments, **options)

    with nn.intercept_methods(note):
        model.apply(variables, images, train=False)
    return inputs[0]
