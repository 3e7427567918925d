"""Whether two tables of tensors are the same, to the bit."""

import numpy as np

from efficientnet_pod.weights.paths import Tensors


def same(a: Tensors, b: Tensors) -> bool:
    """Returns whether two tables hold the same bits under the same names."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]) for name in a
    )
