"""Train EfficientNet data-parallel, from a laptop to a TPU pod; use the weights in a notebook.

    import efficientnet_pod as ep

    model, variables = ep.load("runs/digits")

Importing this starts no backend and imports neither JAX nor TensorFlow; :func:`load` does.
"""

from typing import TYPE_CHECKING, Any

from efficientnet_pod.errors import RunError, UserError

if TYPE_CHECKING:
    from efficientnet_pod.evaluate.predictor import Predictor
    from efficientnet_pod.weights.trained import Trained

__version__ = "0.1.0"
__all__ = ["RunError", "UserError", "load", "predictor", "trained"]


def load(path: str, *, checkpoint: str = "best", raw: bool = False) -> tuple[Any, dict[str, Any]]:
    """Returns a network and its trained variables, ready for ``model.apply``.

    >>> import jax
    >>> import numpy as np
    >>> import efficientnet_pod as ep
    >>> model, variables = ep.load("weights/b0")
    >>> apply = jax.jit(model.apply, static_argnames="train")
    >>> trained = ep.trained("weights/b0")  # the same, with what it was trained to see
    >>> levels = np.zeros((1, trained.image_size, trained.image_size, 3), np.uint8)
    >>> logits = apply(variables, trained.normalise(levels), train=False)
    >>> logits.shape == (1, trained.num_classes)
    True

    Args:
      path: a workdir, a folder of weights, a file of Keras, timm or TensorFlow, or ``hf:OWNER/NAME``.
      checkpoint: of a workdir: ``best``, ``latest`` or a step.
      raw: the weights themselves where averages over the training are kept beside them.

    Returns:
      The Flax module, float32, and ``{"params": …, "batch_stats": …}`` of numpy arrays.

    Raises:
      UserError: there is nothing of the kind, or it is damaged; the message says what to do.
    """
    weights = trained(path, checkpoint=checkpoint, raw=raw)
    return weights.model, dict(weights.variables)


def trained(path: str, *, checkpoint: str = "best", raw: bool = False) -> "Trained":
    """Returns trained weights with all that is needed to use them; arguments as of :func:`load`.

    Its ``class_names``, ``image_size``, ``mean_rgb``, ``stddev_rgb`` say how an image is shown to the network
    and what its logits mean.
    """
    from efficientnet_pod.weights.open import open_weights

    return open_weights(path, which=checkpoint, raw=raw)


def predictor(path: str, *, checkpoint: str = "best", raw: bool = False, batch: int = 32) -> "Predictor":
    """Returns what looks at images with trained weights; arguments as of :func:`load`.

    >>> import numpy as np
    >>> import efficientnet_pod as ep
    >>> predictor = ep.predictor("weights/b0")
    >>> trained = predictor.trained
    >>> levels = np.zeros((2, trained.image_size, trained.image_size, 3), np.uint8)
    >>> probabilities = predictor.probabilities(levels)  # float32 (images, classes)
    >>> [trained.label(row.argmax()) in trained.class_names for row in probabilities]
    [True, True]

    ``predictor.of_files(["cat.jpg"])`` decodes, crops and resizes as evaluation does.
    """
    from efficientnet_pod.evaluate.predictor import Predictor

    return Predictor(trained(path, checkpoint=checkpoint, raw=raw), batch=batch)
