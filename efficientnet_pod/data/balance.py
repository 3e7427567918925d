"""Classes with few images and classes with many: how unequal they are, and what weighs them alike."""

from collections.abc import Sequence

import numpy as np

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.recipe.recipe import BALANCED

IMBALANCED = 3.0  # times as many images; of ImageNet's classes the largest has 1.8 times the smallest's


def class_weights(
    setting: str | Sequence[tuple[str, float]], class_names: Sequence[str], labels: np.ndarray | None
) -> tuple[float, ...]:
    """Returns the factor of each class in the training loss, by label; () where all are 1.

    ``balanced`` is images / (classes · images of the class), so that each class has the same sum, and the
    mean over all images is 1. A class without training images has 1, and does not count as one.
    Source: scikit-learn, ``compute_class_weight("balanced")``.

    Args:
      setting: ``config.data.class_weights``.
      class_names: name of each label.
      labels: of the training images; only ``balanced`` needs them.

    Raises:
      UserError: the table names a class that is not there.
    """
    if setting == "none":
        return ()
    weights = np.ones(len(class_names))
    if setting == BALANCED:
        assert labels is not None, "the labels are read first"
        counts = np.bincount(labels, minlength=len(class_names))
        present = counts > 0
        weights[present] = len(labels) / (present.sum() * counts[present])
        return tuple(weights.tolist())
    number = {name: label for label, name in enumerate(class_names)}
    for name, weight in setting:
        if name not in number:
            raise UserError(
                f"config.data.class_weights names the class '{name}', which the images do not have"
                f"{did_you_mean(name, class_names)}"
            )
        weights[number[name]] = weight
    return tuple(weights.tolist())


def imbalance(counts: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns a sentence on the largest and the smallest class if they are far apart; else an empty one.

    ``counts`` are the training images of each class; those without any are left out.
    """
    present = np.flatnonzero(counts)
    most, least = int(np.argmax(counts)), int(present[np.argmin(counts[present])])
    times = counts[most] / counts[least]
    if times < IMBALANCED:
        return ""
    return (
        f"class '{class_names[most]}' has {counts[most]:,} training images and '{class_names[least]}' "
        f"{counts[least]:,}, {times:,.0f} times fewer; to learn rare classes as well: "
        "--config.data.class_weights=balanced (the loss) or --config.data.sampling=balanced (the order)"
    )
