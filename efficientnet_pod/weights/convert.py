"""The tensors of a file as the variables of a network; tensors that do not fit are named."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from efficientnet_pod.data.class_names import fault_of
from efficientnet_pod.errors import UserError
from efficientnet_pod.models.initial import abstract_variables
from efficientnet_pod.models.registry import NETWORKS, network_named
from efficientnet_pod.recipe.preprocessing import EVAL_CROP_SHARE
from efficientnet_pod.weights.classes import IMAGENET_CLASSES, imagenet_names
from efficientnet_pod.weights.foreign import Foreign
from efficientnet_pod.weights.layouts import LAYOUTS, OWN, TIMM, Layout
from efficientnet_pod.weights.lookalikes import refuse_lookalikes, stated_network
from efficientnet_pod.weights.paths import Tensors, is_head, unflatten
from efficientnet_pod.weights.trained import (
    CENTRE,
    Trained,
    default_epsilon,
    image_constants,
    published_view,
    untrained,
)
from efficientnet_pod.workdir.checkpoints.commit import leaves_of

_SHOWN = 10  # names in a message
_SMALL = 64  # pixels: shapes of weights do not depend on the image's


class Match(NamedTuple):
    """The tensors of a file, compared with those of a network.

    Attributes:
      layout: names and axes of the file.
      tensors: those that the network has, by our paths and in our axes.
      head: paths of the classifier.
      missing: names and shapes of tensors that the file lacks, the classifier's left out.
      misshapen: names and shapes of tensors that have other shapes in the network, the classifier's left out.
      extra: names and shapes of tensors that the network lacks.
    """

    layout: Layout
    tensors: Tensors
    head: list[str]
    missing: list[str]
    misshapen: list[str]
    extra: list[str]

    @property
    def faults(self) -> int:
        """Number of tensors that do not fit."""
        return len(self.missing) + len(self.misshapen) + len(self.extra)

    @property
    def num_classes(self) -> int | None:
        """Classes of the file's classifier; None if it has none that is whole."""
        shapes = [self.tensors[path].shape for path in self.head if path in self.tensors]
        sizes = {shape[-1:] for shape in shapes}  # of a kernel, and a bias if there is one
        if len(shapes) < len(self.head) or len(sizes) != 1 or () in sizes:
            return None
        return sizes.pop()[0]

    @property
    def differences(self) -> str:
        """The tensors that do not fit, in words."""
        kinds = (
            (self.missing, "are missing"),
            (self.misshapen, "have other shapes"),
            (self.extra, "are too many"),
        )
        return "; ".join(f"{len(names)} tensors {kind}: {_first(names)}" for names, kind in kinds if names)


def convert(
    foreign: Foreign,
    *,
    network: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
) -> Trained:
    """Returns the weights as one of our networks; exact: axes move, numbers do not change.

    Args:
      foreign: the file.
      network: name of the network; None: the one that fits.
      num_classes: None: the file's; another number gives a new classifier, of zeros.
      class_names: by label; None: the file's, if it has any.
      image_size: pixels that the weights were trained for; None: the file's, or the network's.

    Raises:
      UserError: tensors are missing, too many, or of other shapes; or the network is not one of ours.
    """
    refuse_lookalikes(foreign)
    stated = stated_network(foreign)
    if network and stated and network != stated.network:
        raise UserError(
            f"'{foreign.path}' says that it is {stated.network}, not {network}; give --model={stated.network}"
        )
    name, match = _choose(foreign, network or (stated and stated.network))
    if image_size:
        network_named(name).require_size(image_size, "image-size")
    size = num_classes or match.num_classes
    if size is None:
        raise UserError(f"'{foreign.path}' has no classifier; give --num-classes=N for a new one")
    is_new = size != match.num_classes
    about, ours = foreign.about, foreign.about.get("ours") or {}
    settings = dict(ours.get("settings") or {})
    padding = settings.setdefault("padding", stated.padding if stated else "same")
    epsilon = settings.get("bn_epsilon", default_epsilon(name, padding))
    settings["bn_epsilon"] = float(about.get("bn_epsilon", epsilon))
    origin = {
        "source": foreign.path,
        "sha256": foreign.sha256,
        "layout": match.layout.title,
        "new_classifier": is_new,
        **{name: about[name] for name in ("table", "license") if name in about},
    }
    origin = origin if is_new else dict(ours.get("origin", origin))
    if foreign.path.startswith("hf:"):
        origin["base_model"] = foreign.path.removeprefix("hf:").partition("@")[0]
    mean, std = image_constants(name)
    sizes = (image_size, about.get("image_size"), ours.get("image_size"), network_named(name).image_size)
    warnings = list(about.get("warnings", ()))
    return Trained(
        network=name,
        variables=unflatten(match.tensors | (new_classifier(_shapes(name), size) if is_new else {})),
        class_names=_class_names(foreign, class_names, size, warnings, is_new=is_new),
        image_size=int(next(filter(None, sizes))),
        mean_rgb=tuple(about.get("mean", mean)),
        stddev_rgb=tuple(about.get("std", std)),
        view=about.get(
            "view", ours.get("view", CENTRE if "eval_crop_share" in about else published_view(name))
        ),
        resize=_resize_of(ours.get("resize"), about.get("resize")),
        exif=ours.get("exif", "ignored"),
        eval_crop_share=about.get("eval_crop_share", EVAL_CROP_SHARE),
        settings=settings,
        origin=origin,
        warnings=tuple(warnings),
    )


def _resize_of(ours: str | None, stated: str | None) -> str:
    """Returns how images are resized, by our own word or timm's; our first folders all stated "bicubic"."""
    if ours == "bilinear":
        return ours
    return "fast" if "fast" in (ours, stated) else "reference"


def _choose(foreign: Foreign, network: str | None) -> tuple[str, Match]:
    """Returns the network, or else the first one that fits, and its match; raises UserError if none fits."""
    if network:
        network_named(network)
    matches: dict[str, Match] = {}
    for name in [network] if network else NETWORKS:
        if match := _match(foreign, name):
            if not match.faults:
                return name, match
            matches[name] = match
    other = _fitting(foreign, besides=network) if network else None
    if not matches and other:
        raise UserError(f"'{foreign.path}' is {other}, not {network}; give --model={other}")
    if not matches:
        names = ", ".join(sorted(foreign.tensors)[:3])
        titles = ", ".join(layout.title for layout in LAYOUTS)
        raise UserError(
            f"'{foreign.path}' has no tensor of {network or 'any network'} (it has {names} …); "
            f"names are read as {titles} have them"
        )
    name, match = min(matches.items(), key=lambda item: item[1].faults)
    remedy = f"it is {other}: give --model={other}" if other else "is it whole, and of this network?"
    prefix = "" if network else f"no network fits; nearest is {name}: "
    raise UserError(
        f"{prefix}'{foreign.path}' is not {name}, read as {match.layout.title}: {match.differences}; {remedy}"
    )


def _fitting(foreign: Foreign, *, besides: str) -> str | None:
    """Returns the first other network that the file fits; None if it fits none."""
    matches = ((name, _match(foreign, name)) for name in NETWORKS if name != besides)
    return next((name for name, match in matches if match and not match.faults), None)


def _match(foreign: Foreign, network: str) -> Match | None:
    """Returns the match in the layout that fits best; None if the network has no name of the file."""
    shapes = _shapes(network)
    best = max(LAYOUTS, key=lambda layout: _hits(foreign, layout.names(shapes)))
    names = best.names(shapes)
    if not _hits(foreign, names):
        return None
    tensors, missing, misshapen = {}, [], []
    for path, name in names.items():
        if name in foreign.tensors:
            array = foreign.tensors[name]
            tensors[path] = best.to_ours(path, array)
            if not is_head(path) and tensors[path].shape != shapes[path]:
                misshapen.append(f"{name} {array.shape}")
        elif not is_head(path):
            missing.append(f"{name} {shapes[path]}")
    known = set(names.values())
    extra = [
        f"{name} {array.shape}"
        for name, array in foreign.tensors.items()
        if name not in known and not best.is_ignored(name)
    ]
    return Match(best, tensors, [*filter(is_head, shapes)], missing, misshapen, extra)


def _hits(foreign: Foreign, names: Mapping[str, str]) -> int:
    return sum(name in foreign.tensors for name in names.values())


@cache
def _shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a network's variables; the classifier's are those for one class."""
    variables = abstract_variables(untrained(network, 1), _SMALL)
    return {path: leaf.shape for path, leaf in leaves_of(variables).items()}


def _first(names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _class_names(
    foreign: Foreign, given: Sequence[str] | None, size: int, warnings: list[str], *, is_new: bool
) -> tuple[str, ...]:
    """Returns the given names of the classes, else the file's; none for a new classifier."""
    if given is not None:
        if fault := fault_of(given):
            raise UserError(f"the class names cannot be used: {fault}; correct the list")
        if len(given) == size:
            return tuple(given)
        raise UserError(
            f"{len(given):,} class names for the {size:,} classes of '{foreign.path}'; give one for each, or "
            f"--num-classes={len(given)} for a new classifier"
        )
    if is_new:
        return ()
    of_file, fault = foreign.about.get("class_names"), foreign.about.get("class_names_fault")
    if of_file and len(of_file) != size:
        fault = f"there are {len(of_file):,} for {size:,} classes"
    if fault:
        warnings.append(
            f"the class names of '{foreign.path}' are not kept: {fault}; name the classes with: "
            "import --class-names=FILE"
        )
        return ()
    if of_file:
        return tuple(of_file)
    # A thousand classes without names are ImageNet's, wherever the weights are from.
    return imagenet_names() if size == IMAGENET_CLASSES and of_file is None else ()


def new_classifier(shapes: Mapping[str, tuple[int, ...]], num_classes: int) -> Tensors:
    """Returns the tensors of an untrained classifier: zeros.

    The published spread, ±1/√classes, is for a thousand classes: with ten of them and trained features it
    begins with a loss of 8, whose gradient wrecks the layers below. BiT begins so too (arXiv 1912.11370).

    ``shapes`` are of the network's variables by path; the last dimension of the classifier's is replaced.
    """
    return {
        path: np.zeros((*shape[:-1], num_classes), np.float32)
        for path, shape in shapes.items()
        if is_head(path)
    }


def layout_for(tensors: Mapping[str, Any]) -> Layout:
    """Returns the layout in which such variables are written: timm's, or ours if timm lacks the network."""
    return TIMM if TIMM.names(tensors) else OWN
