"""A trained network: its weights and all that is needed to use them on a photograph."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from efficientnet_pod.models.inputs import MEAN_RGB, STDDEV_RGB, normalise
from efficientnet_pod.models.registry import NEUTRAL, Model, create_network, network_named
from efficientnet_pod.weights.paths import Tensors, flatten

# What evaluation sees of an image.
CENTRE, WHOLE = "centre", "whole"
# timm calls them so; the centre's is tensorflow/tpu's.
CROP_PCT = {CENTRE: 0.875, WHOLE: 1.0}


@dataclasses.dataclass(frozen=True)
class Trained:
    """Weights with what they were trained to see.

    Attributes:
      network: ``"b0"``, as ``config.model.name``.
      variables: ``params`` and ``batch_stats``, float32 numpy arrays.
      class_names: by label; empty where nobody said them.
      image_size: height and width, in pixels.
      mean_rgb: subtracted from pixels in 0..1.
      stddev_rgb: they are then divided by it.
      view: ``centre``, of a photograph, or ``whole``.
      resize: ``reference`` or ``fast``, see :class:`Preprocessing`.
      settings: of the network: the fields of ``config.model`` that change what it computes in evaluation.
      origin: where the weights are from, for people: ``source``, ``sha256``, ``step``, ``top1`` …
    """

    network: str
    variables: Mapping[str, Any]
    class_names: tuple[str, ...]
    image_size: int
    mean_rgb: tuple[float, ...] = MEAN_RGB
    stddev_rgb: tuple[float, ...] = STDDEV_RGB
    view: str = CENTRE
    resize: str = "reference"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def tensors(self) -> Tensors:
        """The variables as a flat table."""
        return flatten(self.variables)

    @property
    def num_classes(self) -> int:
        """Size of the logits."""
        return len(self.variables["params"]["classifier"]["kernel"].T)

    @property
    def title(self) -> str:
        """What people call the network."""
        return network_named(self.network).title

    @property
    def bn_epsilon(self) -> float:
        """Added to the variances of batch norm."""
        return float(self.settings.get("bn_epsilon", default_epsilon(self.network)))

    @property
    def model(self) -> Model:
        """The network, float32: ``model.apply(variables, images, train=False)`` gives the logits."""
        return untrained(self.network, self.num_classes, self.settings)

    @property
    def augment(self) -> str:
        """A ``config.data.augment`` that evaluates images as these weights see them."""
        return "inception_crop" if self.view == CENTRE else "pad_crop_flip"

    def logits(self, levels: Any) -> Any:
        """Returns float32 logits (batch, classes); the weights are constants of what is compiled around it.

        Args:
          levels: see :meth:`normalise`.
        """
        model: Any = self.model  # what `apply` returns depends on its arguments
        return model.apply(self.variables, self.normalise(levels), train=False)

    def normalise(self, levels: Any) -> Any:
        """Returns float32 images as the network takes them.

        Args:
          levels: 0..255, (batch, height, width, 3), of any dtype.
        """
        return normalise(levels, self.mean_rgb, self.stddev_rgb)

    def label(self, index: int) -> str:
        """Returns the name of a class, or its number where it has none."""
        return self.class_names[index] if self.class_names else str(index)


def view_of(augment: str) -> str:
    """Returns what evaluation sees of an image where training augments so."""
    return CENTRE if augment == "inception_crop" else WHOLE


def image_constants(network: str) -> dict[str, tuple[float, ...]]:
    """Returns ``mean_rgb`` and ``stddev_rgb`` with which the network was published, of pixels in 0..1.

    Source: tensorflow/tpu, efficientnet_builder.py and, for Lite, efficientnet_lite_builder.py; torchvision.
    """
    if network.startswith("lite"):
        return {"mean_rgb": (127 / 255,) * 3, "stddev_rgb": (128 / 255,) * 3}
    return {"mean_rgb": MEAN_RGB, "stddev_rgb": STDDEV_RGB}


def default_epsilon(network: str) -> float:
    """Returns the epsilon with which the network was published."""
    return float(inspect.signature(network_named(network).create).parameters["bn_epsilon"].default)


def untrained(network: str, num_classes: int, settings: Mapping[str, Any] | None = None) -> Model:
    """Returns the network without weights, float32, outside a mesh.

    Args:
      network: its name.
      num_classes: size of the logits.
      settings: of :attr:`Trained.settings`; what is missing is neutral.

    Raises:
      UserError: no such network.
    """
    import jax.numpy as jnp

    usual = {**NEUTRAL, "dropout": 0.0, "bn_momentum": 0.9, "bn_epsilon": default_epsilon(network)}
    return create_network(
        network,
        num_classes=num_classes,
        dtype=jnp.float32,
        bn_axis=None,
        packed=False,
        settings=usual | dict(settings or {}),
    )
