"""Leaves and axes of PyTorch's tensors: outputs before inputs, height and width last."""

import numpy as np

from efficientnet_pod.weights.paths import split

_BN_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def torch_leaf(layer: str, leaf: str) -> str:
    """Returns PyTorch's name of a leaf of one of our layers."""
    return _BN_LEAVES[leaf] if layer.endswith("_bn") else {"kernel": "weight", "bias": "bias"}[leaf]


def from_torch(path: str, array: np.ndarray) -> np.ndarray:
    """Returns a kernel (outputs, inputs, height, width) as (height, width, inputs, outputs).

    A depthwise kernel, (channels, 1, height, width), becomes (height, width, 1, channels). The kernel of a
    dense layer, or of a 1×1 convolution that is one here, becomes (inputs, outputs). All else stays.
    """
    _, layer, leaf = split(path)
    if leaf != "kernel":
        return array
    if array.ndim == 2:
        return array.T
    if layer.startswith("se_") and array.shape[2:] == (1, 1):
        return array[:, :, 0, 0].T
    return array.transpose(2, 3, 1, 0)


def to_torch(path: str, array: np.ndarray) -> np.ndarray:
    """Returns the array as PyTorch has it; the inverse of :func:`from_torch`."""
    _, layer, leaf = split(path)
    if leaf != "kernel":
        return array
    if layer.startswith("se_"):
        return array.T[:, :, None, None]
    return array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
