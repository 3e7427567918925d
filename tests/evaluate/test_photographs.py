"""Trained weights of EfficientNet-Lite0 name what is on the photographs that two packages carry."""

import jax
import lite0
import numpy as np
import pytest

from efficientnet_pod.models.initial import initial_variables

# Of ImageNet's 1,000 classes in the usual order.
TABBY, TIGER_CAT, EGYPTIAN_CAT = 281, 282, 285
ESPRESSO, CUP, MISSILE, PROJECTILE, SPACE_SHUTTLE = 967, 968, 657, 744, 812
TRIPOD, MOPED, MOTOR_SCOOTER, DAISY = 872, 665, 670, 985
PALACE, MONASTERY = 698, 663

# Package, file, the classes that are right, and what their probabilities add up to at least. These are the
# packages' photographs of something that is a class, or nearly; of astronauts, coins and brick walls none is.
PHOTOGRAPHS = [
    ("skimage", "data/chelsea.png", {TABBY, TIGER_CAT, EGYPTIAN_CAT}, 0.8),
    ("skimage", "data/coffee.png", {ESPRESSO, CUP}, 0.8),
    ("skimage", "data/rocket.jpg", {MISSILE, PROJECTILE, SPACE_SHUTTLE}, 0.3),
    ("skimage", "data/camera.png", {TRIPOD}, 0.8),  # with a camera and a man behind it, in grey
    ("skimage", "data/motorcycle_left.png", {MOPED, MOTOR_SCOOTER}, 0.5),
    ("sklearn", "datasets/images/flower.jpg", {DAISY}, 0.15),  # a relative of it
    ("sklearn", "datasets/images/china.jpg", {PALACE, MONASTERY}, 0.2),  # a tower
]


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """The photographs as the released evaluation crops and resizes them, normalised for these weights."""
    import tensorflow as tf

    from efficientnet_pod.data.transforms.preprocess import eval_image
    from efficientnet_pod.recipe.preprocessing import Preprocessing

    how = Preprocessing(lite0.SIZE)
    files = [lite0.data_folder(package) / file for package, file, _, _ in PHOTOGRAPHS]
    pixels = np.stack([eval_image(tf.constant(file.read_bytes()), how).numpy() for file in files])
    return (pixels - np.float32(lite0.MEAN)) / np.float32(lite0.STD)


def probabilities(variables, images: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(lite0.logits(variables, images)))


def recognised(rows: np.ndarray) -> list[bool]:
    """Returns of each photograph whether the likeliest class is right, and the right ones likely enough."""
    return [
        int(row.argmax()) in right and bool(row[list(right)].sum() >= least)
        for row, (_, _, right, least) in zip(rows, PHOTOGRAPHS, strict=True)
    ]


def test_trained_weights_recognise_photographs(photographs):
    rows = probabilities(lite0.variables(), photographs)
    for row, (_, file, right, _) in zip(rows, PHOTOGRAPHS, strict=True):
        first = ", ".join(f"{i}: {row[i]:.3f}" for i in np.argsort(-row)[:5])
        print(f"{file:28} {row[list(right)].sum():.3f} right; {first}")
    assert recognised(rows) == [True] * len(PHOTOGRAPHS)


def test_untrained_weights_and_another_order_of_classes_recognise_nothing(photographs):
    untrained = initial_variables(lite0.model(), lite0.SIZE, seed=0)
    assert not any(recognised(probabilities(untrained, photographs)))
    order = np.random.default_rng(0).permutation(1000)
    assert not any(recognised(probabilities(lite0.variables(), photographs)[:, order]))
