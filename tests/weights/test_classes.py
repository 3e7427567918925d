"""ImageNet's classes: complete, distinct, in the order of TFDS; which lists are the same."""

from pathlib import Path

import tensorflow_datasets as tfds

from efficientnet_pod.weights.classes import imagenet_names, may_be_same, readable


def test_names_are_in_the_order_of_tfds():
    labels = Path(tfds.__file__).parent / "datasets" / "imagenet2012" / "labels.txt"
    numbers = labels.read_text().split()
    assert len(numbers) == 1000 and readable(numbers) == imagenet_names()
    assert len({name.lower() for name in imagenet_names()}) == 1000
    known = {0: "tench", 281: "tabby", 282: "tiger cat", 657: "missile", 967: "espresso", 985: "daisy"}
    assert {i: imagenet_names()[i] for i in known} == known


def test_numbers_and_names_are_the_same_classes():
    assert may_be_same(("n01440764", "n01443537"), ("tench", "goldfish"))
    assert not may_be_same(("n01443537", "n01440764"), ("tench", "goldfish"))
    assert may_be_same((), ("a",)) and may_be_same(("a",), ()) and not may_be_same(("a",), ("b",))
    assert readable(("none", "n1", "n01440764")) == ("none", "n1", "n01440764")  # no list of numbers
