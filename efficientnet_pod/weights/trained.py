"""A trained network: its weights, and everything needed to use them on a photograph."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from efficientnet_pod.models.folding import folded
from efficientnet_pod.models.inputs import MEAN_RGB, STDDEV_RGB, normalise
from efficientnet_pod.models.registry import Model, create_network, network_named
from efficientnet_pod.pod.terminal import plural
from efficientnet_pod.recipe.preprocessing import EVAL_CROP_SHARE
from efficientnet_pod.recipe.recipe import DataSettings
from efficientnet_pod.weights.paths import Tensors
from efficientnet_pod.workdir.checkpoints.commit import leaves_of

# The part of an image that evaluation sees.
CENTRE, WHOLE, STRETCHED = "centre", "whole", "stretched"
# timm's names of what resizes an image: Pillow's kernels, which average where an image shrinks. Those of the
# released code, bicubic and bilinear, do not.
INTERPOLATIONS = {"reference": "bicubic", "bilinear": "bilinear", "fast": "bilinear"}
_NAMED = 3  # classes in a notebook's line


@dataclasses.dataclass(frozen=True)
class Trained:
    """Weights with what they were trained to see.

    Attributes:
      network: name of the network, as ``config.model.name`` has it: ``"b0"``.
      variables: ``params`` and ``batch_stats``, float32 numpy arrays.
      class_names: names by label; empty if they are not known.
      image_size: height and width of an image, in pixels.
      mean_rgb: mean that is subtracted from pixels in 0..1.
      stddev_rgb: divisor of the pixels after that.
      view: part of a photograph that the network sees: ``centre``, a square; ``stretched``, a centre of the
        photograph's shape, made a square; or ``whole``.
      resize: ``reference``, ``bilinear`` or ``fast``, see :class:`Preprocessing`.
      eval_crop_share: share of the sides that the centre has, see :class:`Preprocessing`.
      exif: ``ignored`` or ``respected``, see :class:`Preprocessing`.
      settings: fields of ``config.model`` that change what the network computes in evaluation.
      origin: history of the weights, for people: ``source``, ``sha256``, ``step``, ``top1`` …
      warnings: sentences on what their file states and is not kept.
    """

    network: str
    variables: Mapping[str, Any]
    class_names: tuple[str, ...]
    image_size: int
    mean_rgb: tuple[float, ...] = MEAN_RGB
    stddev_rgb: tuple[float, ...] = STDDEV_RGB
    view: str = CENTRE
    resize: str = "reference"
    eval_crop_share: float = EVAL_CROP_SHARE
    exif: str = "ignored"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        names = ", ".join(self.class_names[:_NAMED]) + (", …" if self.num_classes > _NAMED else "")
        source = self.origin.get("source")
        return (
            f"Trained({self.title}: {plural(self.num_classes, 'class', 'classes')}"
            f"{f' ({names})' if self.class_names else ''}, images of {self.image_size} px, "
            f"{self.num_parameters:,} parameters{f', from {source}' if source else ''})"
        )

    @property
    def tensors(self) -> Tensors:
        """The variables by path: ``"params/stem_conv/kernel"``."""
        return leaves_of(self.variables)

    @property
    def num_parameters(self) -> int:
        """Number of parameters, BN statistics left out."""
        return sum(array.size for array in leaves_of(self.variables["params"]).values())

    @property
    def num_classes(self) -> int:
        """Size of the logits."""
        return len(self.variables["params"]["classifier"]["kernel"].T)

    @property
    def num_features(self) -> int:
        """Number of channels that the classifier takes."""
        return len(self.variables["params"]["classifier"]["kernel"])

    @property
    def title(self) -> str:
        """Name of the network for people: ``"EfficientNet-B0"``."""
        return network_named(self.network).title

    @property
    def bn_epsilon(self) -> float:
        """Number that batch norm adds to variances."""
        return float(self.settings.get("bn_epsilon", default_epsilon(self.network, self.padding)))

    @property
    def padding(self) -> str:
        """``same`` or ``symmetric``, see :class:`.ModelSettings`."""
        return str(self.settings.get("padding", "same"))

    @property
    def model(self) -> Model:
        """The network, float32: ``model.apply(variables, images, train=False)`` gives the logits."""
        return untrained(self.network, self.num_classes, self.settings)

    @property
    def augment(self) -> str:
        """A ``config.data.augment`` that evaluates images as these weights see them."""
        return "pad_crop_flip" if self.view == WHOLE else "inception_crop"

    @property
    def eval_crop(self) -> str:
        """The ``config.data.eval_crop`` that evaluates images as these weights see them."""
        return "stretched" if self.view == STRETCHED else "square"

    @property
    def seen(self) -> str:
        """The part of an image that these weights see, for people."""
        if self.view == WHOLE:
            return "the whole image"
        sides = "both sides, stretched" if self.view == STRETCHED else "the shorter side"
        return f"the central {100 * self.eval_crop_share:.4g} % of {sides}"

    def logits(self, levels: Any) -> Any:
        """Returns float32 logits (batch, classes), of levels as :meth:`normalise` takes them.

        A program compiled from this holds the weights.
        """
        model: Any = self.model  # what `apply` returns depends on its arguments
        return model.apply(self.variables, self.normalise(levels), train=False)

    def program(self) -> Callable[[Any], Any]:
        """Returns :meth:`logits` for other programs to run, with batch norm inside the kernels."""
        model, variables = self.folded()
        return lambda levels: model.apply(variables, self.normalise(levels), train=False)

    def folded(self) -> tuple[Any, dict[str, Any]]:
        """Returns the network and its variables with batch norm inside the kernels, see :func:`.folded`."""
        return folded(self.model, self.variables, self.image_size)

    def normalise(self, levels: Any) -> Any:
        """Returns float32 images for the network, of levels 0..255, (batch, height, width, 3), any dtype."""
        return normalise(levels, self.mean_rgb, self.stddev_rgb)

    def label(self, index: int) -> str:
        """Returns the name of a class, or its number if it has no name."""
        return self.class_names[index] if self.class_names else str(index)


def view_of(data: DataSettings) -> str:
    """Returns the part of an image that evaluation sees."""
    if data.augment != "inception_crop":
        return WHOLE
    return STRETCHED if data.eval_crop == "stretched" else CENTRE


def image_constants(network: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the published ``mean_rgb`` and ``stddev_rgb`` of a network, for pixels in 0..1.

    Source: tensorflow/tpu, efficientnet_builder.py and, for Lite, efficientnet_lite_builder.py; google/automl
    efficientnetv2, preprocessing.py, where B0 to B3 see what the first version sees; torchvision.
    """
    if network.startswith("lite"):
        return (127 / 255,) * 3, (128 / 255,) * 3
    if network in ("v2_s", "v2_m", "v2_l"):
        return (128 / 255,) * 3, (128 / 255,) * 3
    return MEAN_RGB, STDDEV_RGB


def published_view(network: str) -> str:
    """Returns the part of a photograph that a network was published with.

    EfficientNetV2-S, M and L see the whole, resized to a square. Source: google/automl efficientnetv2,
    preprocessing.py: no crop from 320 pixels on.
    """
    return WHOLE if network in ("v2_s", "v2_m", "v2_l") else CENTRE


def default_epsilon(network: str, padding: str = "same") -> float:
    """Returns the published epsilon of a network's batch norms; with symmetric padding, PyTorch's."""
    return 1e-5 if padding == "symmetric" else network_named(network).bn_epsilon


def untrained(network: str, num_classes: int, settings: Mapping[str, Any] | None = None) -> Model:
    """Returns the network without weights, float32, outside a mesh; settings that are left out are neutral.

    Raises:
      UserError: no such network.
    """
    settings = {"dropout": 0.0, **(settings or {})}
    return create_network(network, num_classes=num_classes, settings=settings)
