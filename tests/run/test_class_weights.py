"""The weighed loss against PyTorch and Keras; its gradient."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

from efficientnet_pod.data.balance import class_weights
from efficientnet_pod.run.mixing import MixedBatch
from efficientnet_pod.run.train_step import TrainStep

NAMES = ("often", "now and then", "rare")
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(24, 3)).astype(np.float32) * 2
LABELS = np.array([0, 2, 0, 2, 0, 0, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 2, 0, 1, 0, 1, 0, 1], np.int32)
RNG.shuffle(np.arange(24))  # the draws of the program that made the numbers below
SHARE = RNG.random(24).astype(np.float32)
BALANCED = class_weights("balanced", NAMES, LABELS)
TABLE = class_weights((("now and then", 0.5), ("rare", 4.0)), NAMES, None)


def loss_and_slope(weights, *, share=None, smoothing=0.0):
    """Returns the mean loss of logits, and its derivative by their scale."""
    step = TrainStep(
        None,
        optax.sgd(0.1),
        smoothing,
        0.0,
        jax.random.key(0),
        mixup=share is not None,
        class_weights=weights,
    )
    shares = jnp.ones(24) if share is None else jnp.asarray(share)
    mixed = MixedBatch(jnp.zeros(()), jnp.asarray(LABELS), jnp.roll(jnp.asarray(LABELS), 1), shares)
    mean = jax.value_and_grad(lambda scale: jnp.mean(step._losses(scale * LOGITS, mixed)))
    return [float(value) for value in mean(1.0)]


@pytest.mark.parametrize(
    ("weights", "share", "expected"),
    [
        # torch 2.13, float64: CrossEntropyLoss(weight=w)(scale · logits, labels), and its gradient. PyTorch
        # divides by the weights of the labels, whose sum is the number of images where w is balanced on them.
        (BALANCED, None, (1.2339387685075998, 0.5216774668254326)),
        # The same, times the sum of the weights over the number of images.
        (TABLE, None, (1.5013792550207643, 0.6413890617768546)),
        # With shares of two classes as the target PyTorch divides by the number of images itself.
        (BALANCED, SHARE, (1.3542187106469177, 0.743167614605482)),
    ],
)
def test_the_mean_is_that_of_pytorch(weights, share, expected):
    assert loss_and_slope(weights, share=share) == pytest.approx(expected, rel=1e-5)


def test_the_smoothed_part_has_the_weight_of_the_label_as_in_keras():
    """PyTorch gives each class of the smoothed part its own weight: a rare class would be learnt from all."""
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    expected = loss(np.eye(3)[LABELS], LOGITS, sample_weight=np.array(TABLE)[LABELS])
    assert loss_and_slope(TABLE, smoothing=0.1)[0] == pytest.approx(float(expected), rel=1e-5)


def test_equal_weights_are_no_weights():
    assert loss_and_slope((1.0, 1.0, 1.0), smoothing=0.1) == loss_and_slope((), smoothing=0.1)
