"""From the tensors of a file to the variables of a network; says by name what does not fit."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.initial import abstract_variables
from efficientnet_pod.models.registry import NETWORKS, network_named
from efficientnet_pod.weights.classes import IMAGENET_CLASSES, imagenet_names
from efficientnet_pod.weights.foreign import Foreign
from efficientnet_pod.weights.layouts import LAYOUTS, OWN, TIMM, Layout
from efficientnet_pod.weights.lookalikes import network_said, refuse_others
from efficientnet_pod.weights.paths import Tensors, flatten, is_head, unflatten
from efficientnet_pod.weights.trained import (
    CENTRE,
    WHOLE,
    Trained,
    default_epsilon,
    image_constants,
    untrained,
)

_SHOWN = 10
_SMALL = 64  # pixels: shapes of weights do not depend on the image's


class Match(NamedTuple):
    """How the tensors of a file fit a network.

    Attributes:
      layout: in which they are.
      found: those that the network has, by our paths and in our axes.
      head: paths of the classifier.
      missing: names and shapes, but the classifier's.
      misshapen: likewise.
      extra: likewise.
    """

    layout: Layout
    found: Tensors
    head: list[str]
    missing: list[str]
    misshapen: list[str]
    extra: list[str]

    @property
    def fits(self) -> bool:
        """Whether all that is not of the classifier is there, and nothing besides."""
        return not (self.missing or self.misshapen or self.extra)


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
      foreign: what was read.
      network: which one it is to be; None: the one that fits.
      class_names: by label; None: the file's, if it has any.
      image_size: pixels that the weights were trained for; None: the file's, or the network's.
      num_classes: None: the file's; another number gives a new classifier, of zeros.

    Raises:
      UserError: tensors are missing, too many, or of other shapes; or they are of a network that is not here.
    """
    refuse_others(foreign)
    given = network_said(foreign)
    if network and given and network != given:
        raise UserError(f"'{foreign.path}' says that it is {given}, not {network}; give --model={given}")
    if name := network or given:
        network_named(name)
        match = _match(foreign, name)
    else:
        name, match = _that_fits(foreign)
    if match is None:
        raise _nothing_known(foreign, name)
    if not match.fits:
        raise UserError(_difference(foreign, name, match))
    size, tensors = _wanted_classes(foreign, match, num_classes), dict(match.found)
    ours, about = foreign.about.get("ours") or {}, foreign.about
    settings = dict(ours.get("settings") or {})
    if replaced := size != _classes(match):
        tensors |= new_classifier(_shapes(name), size)
    names = _class_names(foreign, class_names, size, replaced=replaced)
    constants = image_constants(name) | {
        our_name: tuple(about[name]) for our_name, name in _CONSTANTS if name in about
    }
    return Trained(
        network=name,
        variables=unflatten(tensors),
        class_names=names,
        image_size=int(
            image_size or ours.get("image_size") or about.get("image_size") or network_named(name).image_size
        ),
        view=ours.get("view", WHOLE if about.get("crop_pct") == 1.0 and ours else CENTRE),
        resize=ours.get("resize", "reference"),
        settings=settings | {"bn_epsilon": float(settings.get("bn_epsilon", default_epsilon(name)))},
        origin=ours["origin"] if "origin" in ours and not replaced else _origin(foreign, match, replaced),
        **constants,
    )


def _origin(foreign: Foreign, match: Match, replaced: bool) -> dict[str, Any]:
    return {
        "source": foreign.path,
        "sha256": foreign.sha256,
        "layout": match.layout.title,
        "new_classifier": replaced,
    }


_CONSTANTS = (("mean_rgb", "mean"), ("stddev_rgb", "std"))


@cache
def _shapes(network: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a network's variables; the classifier's are those for one class."""
    return {
        path: leaf.shape for path, leaf in flatten(abstract_variables(untrained(network, 1), _SMALL)).items()
    }


def _match(foreign: Foreign, network: str) -> Match | None:
    """Returns how the file fits the network, in the layout that fits best; None if nothing has its names."""
    shapes = _shapes(network)
    best: tuple[int, Layout, dict[str, str]] | None = None
    for layout in LAYOUTS:
        names = layout.names(shapes)
        hits = sum(name in foreign.tensors for name in names.values())
        if names and (best is None or hits > best[0]):
            best = hits, layout, names
    assert best is not None  # our own layout has every network
    hits, layout, names = best
    if not hits:
        return None
    found, missing, misshapen = {}, [], []
    for path, name in names.items():
        if name not in foreign.tensors:
            if not is_head(path):
                missing.append(f"{name} {shapes[path]}")
            continue
        array = layout.to_ours(path, foreign.tensors[name])
        if not is_head(path) and array.shape != shapes[path]:
            misshapen.append(f"{name} {foreign.tensors[name].shape}")
        found[path] = array
    known = set(names.values())
    extra = [
        f"{name} {array.shape}"
        for name, array in foreign.tensors.items()
        if name not in known and not layout.is_beside(name)
    ]
    return Match(layout, found, [*filter(is_head, shapes)], missing, misshapen, extra)


def _that_fits(foreign: Foreign) -> tuple[str, Match]:
    """Returns the one network that the file fits, and how; raises UserError if there is none."""
    nearest: tuple[int, str, Match] | None = None
    for name in NETWORKS:
        match = _match(foreign, name)
        if match is None:
            continue
        if match.fits:
            return name, match
        wrong = len(match.missing) + len(match.misshapen) + len(match.extra)
        if nearest is None or wrong < nearest[0]:
            nearest = wrong, name, match
    if nearest is None:
        raise _nothing_known(foreign, "any network")
    raise UserError(
        f"no network fits; nearest is {nearest[1]}: {_difference(foreign, *nearest[1:], look=False)}"
    )


def _difference(foreign: Foreign, network: str, match: Match, *, look: bool = True) -> str:
    """Returns what is wrong, in one line, and the network that would fit, if one would."""
    other = _that_would_fit(foreign, network) if look else None
    found = [
        f"{len(names)} tensors {what}: {_first(names)}"
        for names, what in (
            (match.missing, "are missing"),
            (match.misshapen, "have other shapes"),
            (match.extra, "are too many"),
        )
        if names
    ]
    remedy = f"it is {other}: give --model={other}" if other else "is it whole, and of this network?"
    return f"'{foreign.path}' is not {network}, read as {match.layout.title}: {'; '.join(found)}; {remedy}"


def _that_would_fit(foreign: Foreign, network: str) -> str | None:
    """Returns another network that the file is of, None if there is none."""
    matches = ((name, _match(foreign, name)) for name in NETWORKS if name != network)
    return next((name for name, match in matches if match and match.fits), None)


def _nothing_known(foreign: Foreign, network: str) -> UserError:
    if other := network in NETWORKS and _that_would_fit(foreign, network):
        return UserError(f"'{foreign.path}' is {other}, not {network}; give --model={other}")
    named = ", ".join(sorted(foreign.tensors)[:3])
    titles = ", ".join(layout.title for layout in LAYOUTS)
    return UserError(
        f"'{foreign.path}' has no tensor of {network} (it has {named} …); "
        f"names are read as {titles} have them"
    )


def _first(names: Iterable[str]) -> str:
    names = list(names)
    more = f", and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _classes(match: Match) -> int | None:
    """Returns the classes of the file's own classifier; None where it has none that is whole."""
    if not all(path in match.found for path in match.head):
        return None
    sizes = {match.found[path].shape[-1:] for path in match.head}  # of a kernel, and a bias if there is one
    return next(iter(sizes))[0] if len(sizes) == 1 and () not in sizes else None


def _wanted_classes(foreign: Foreign, match: Match, num_classes: int | None) -> int:
    """Returns how many classes the network is to have."""
    wanted = num_classes or _classes(match)
    if wanted is None:
        raise UserError(f"'{foreign.path}' has no classifier; give --num-classes=N for a new one")
    return wanted


def _class_names(
    foreign: Foreign, given: Sequence[str] | None, size: int, *, replaced: bool
) -> tuple[str, ...]:
    """Returns the names of the classes: those given, or the file's if the classifier is."""
    if given is not None and len(given) != size:
        raise UserError(
            f"{len(given):,} class names for the {size:,} classes of '{foreign.path}'; give one for each, or "
            f"--num-classes={len(given)} for a new classifier"
        )
    if given is not None:
        return tuple(given)
    of_file: Any = foreign.about.get("class_names")
    keeps = not replaced and isinstance(of_file, (list, tuple)) and len(of_file) == size
    if keeps:
        return tuple(map(str, of_file))
    # A thousand classes without names are ImageNet's, wherever the weights are from.
    return imagenet_names() if size == IMAGENET_CLASSES and not replaced and of_file is None else ()


def new_classifier(shapes: Mapping[str, tuple[int, ...]], num_classes: int) -> Tensors:
    """Returns the tensors of a classifier that knows nothing: zeros.

    The published spread, ±1/√classes, is for a thousand classes: with ten of them and trained features it
    begins with a loss of 8, whose gradient wrecks the layers below. BiT begins so too (arXiv 1912.11370).
    """
    return {
        path: np.zeros((*shape[:-1], num_classes), np.float32)
        for path, shape in shapes.items()
        if is_head(path)
    }


def layout_for(tensors: Mapping[str, Any]) -> Layout:
    """Returns the layout in which such variables are written: timm's, or ours for networks it has not."""
    return TIMM if TIMM.names(tensors) else OWN
