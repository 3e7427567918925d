"""Writes ``model.weights.h5`` as Keras 3 lays it out, without Keras."""

from pathlib import Path

import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.weights.layouts import KERAS, KERAS_NUMBERED
from efficientnet_pod.weights.trained import Trained

_LEAVES = {"gamma": 0, "beta": 1, "moving_mean": 2, "moving_variance": 3, "kernel": 0, "bias": 1}


def require_keras_network(trained: Trained) -> None:
    """Raises UserError where ``keras.applications`` has no network that computes the same."""
    if not trained.network.startswith("b"):
        raise UserError(
            f"keras.applications has no {trained.title} that computes what this one does; "
            "leave keras out of --to, or export b0 to b7"
        )
    if trained.bn_epsilon != 1e-3:
        raise UserError(
            f"batch norm's epsilon is .001 in Keras's EfficientNets and {trained.bn_epsilon} here; "
            "leave keras out of --to"
        )


def write_keras(trained: Trained, path: Path) -> None:
    """Writes the weights for ``keras.applications.EfficientNetB0(weights=None, classes=…).load_weights``.

    The network's own layers divide pixels by 255 and normalise: mean and variance are ours.

    Raises:
      UserError: Keras has no such network.
    """
    import h5py

    require_keras_network(trained)
    tensors = trained.tensors
    names, places = KERAS.names(tensors), KERAS_NUMBERED.names(tensors)
    with h5py.File(path, "w") as file:
        for our_path in sorted(tensors):
            layer, _, leaf = names[our_path].partition("/")
            group = file.require_group(f"layers/{places[our_path].partition('/')[0]}/vars")
            group.attrs["name"] = layer
            group[str(_LEAVES[leaf])] = KERAS.from_ours(our_path, tensors[our_path])
        group = file.require_group("layers/normalization/vars")
        group.attrs["name"] = "normalization"
        group["0"] = np.asarray(trained.mean_rgb, np.float32)
        group["1"] = np.square(np.asarray(trained.stddev_rgb, np.float64)).astype(np.float32)
        group["2"] = np.int32(0)
