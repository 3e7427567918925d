"""Host cores by hand from the cost of an image."""

import pytest
from recipes import load

from efficientnet_pod.data import host_cores
from efficientnet_pod.data.host_cores import describe_input, images_per_core_second
from efficientnet_pod.recipe.plan import resolve
from efficientnet_pod.recipe.reading import read_recipe


def plan(**data):
    config = load("imagenet.py:b0")
    config["data"] |= data
    numbers = {"num_train": 1_281_167, "num_eval": 50_000, "num_classes": 1000}
    return resolve(read_recipe(config), **numbers, num_devices=32, num_hosts=4, default_dtype="bfloat16")


@pytest.fixture(autouse=True)
def round_costs(monkeypatch):
    monkeypatch.setattr(host_cores, "_DECODE", 1.0)
    monkeypatch.setattr(host_cores, "_RESIZE", {"reference": 1.0, "fast": 0.5})
    monkeypatch.setattr(host_cores, "_POLICY", {"none": 0.0, "randaugment": 0.25, "autoaugment": 0.5})


@pytest.mark.parametrize(
    ("data", "milliseconds"),
    [
        ({}, 1 + 1),
        ({"resize": "fast"}, 1 + 0.5),
        ({"policy": "autoaugment", "policy_layers": 5}, 1 + 1 + 0.5),  # layers mean nothing to it
        ({"resize": "fast", "policy": "randaugment", "image_size": 448}, 1 + 4 * (0.5 + 2 * 0.25)),
    ],
)
def test_an_image_costs_its_decoding_and_what_grows_with_the_output(data, milliseconds):
    assert images_per_core_second(plan(**data)) == pytest.approx(1000 / milliseconds)


@pytest.mark.parametrize("data", [{"resize": "bilinear"}, {"color_offsets": True}])
def test_nothing_is_said_of_what_has_not_been_measured(data):
    assert images_per_core_second(plan(**data)) is None


def test_the_cores_are_those_that_feed_the_replicas_of_a_host():
    # 8 x 441 images/s at 2 ms each are 7.06 cores.
    text = describe_input(plan(), replica_rate=441.0, replicas_per_host=8)
    assert text is not None
    assert "about 500 images/s a host core" in text
    assert text.endswith("8 replicas a host at 441 images/s take 3,528: 8 cores")
    alone = describe_input(plan(), replica_rate=None, replicas_per_host=8)
    assert alone is not None and alone.endswith("about 500 images/s a host core")


def test_nothing_is_said_of_what_was_not_measured():
    digits = plan(augment="shift", max_shift=2)
    assert describe_input(digits, replica_rate=441.0, replicas_per_host=8) is None
