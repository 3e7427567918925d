"""The classes of ImageNet by WordNet number and name, and a comparison of lists of classes."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from efficientnet_pod.data.class_names import spelling_of

IMAGENET_CLASSES = 1000


@cache
def _imagenet() -> dict[str, str]:
    """Returns the names by WordNet number, in the order of the labels, 0..999.

    Names are WordNet's first word for the synset, with a second one where two classes have the same.
    """
    text = files("efficientnet_pod.weights").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return dict(line.split(" ", 1) for line in text.splitlines())


def imagenet_names() -> tuple[str, ...]:
    """Returns a short name for each class of ImageNet, in the order of TFDS, timm, Keras and TensorFlow."""
    return tuple(_imagenet().values())


def readable(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names, with words in place of WordNet numbers such as TFDS's ``n01440764``."""
    words = _imagenet() if names and names[0][:1] == "n" and names[0][1:].isdecimal() else {}
    return tuple(words.get(name, name) for name in names)


def keys_of(names: Sequence[str]) -> tuple[str, ...]:
    """Returns what classes are compared by: words for ImageNet's WordNet numbers, in one spelling."""
    return tuple(spelling_of(_imagenet().get(name, name)) for name in names)


def may_be_same(a: Sequence[str], b: Sequence[str]) -> bool:
    """Returns whether both lists name the same classes in the same order; an empty list equals any."""
    return not a or not b or keys_of(a) == keys_of(b)
