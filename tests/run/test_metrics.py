"""Loss and counts against numpy and TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

from efficientnet_pod.run.metrics import Counts, count, cross_entropy, rates, top_classes

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(64, 10)).astype(np.float32) * 3
LABELS = RNG.integers(0, 10, 64, dtype=np.int32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_tensorflow(smoothing):
    target = tf.one_hot(LABELS, 10) * (1 - smoothing) + smoothing / 10
    expected = tf.nn.softmax_cross_entropy_with_logits(target, LOGITS)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, label_smoothing=smoothing), expected, rtol=1e-5)


def test_counts_equal_tensorflow_and_ignore_padding():
    mask = RNG.random(64) < 0.7
    counts = count(LOGITS, LABELS, np.where(mask, 1.5, np.nan).astype(np.float32), mask)
    for k, hits in ((1, counts.top1), (5, counts.top5)):
        assert int(hits) == int(np.sum(tf.math.in_top_k(LABELS, LOGITS, k).numpy() & mask))
    assert int(counts.images) == mask.sum()
    assert float(counts.loss) == pytest.approx(1.5 * mask.sum())


def test_predictions_are_the_most_probable_classes_the_first_of_equals():
    found = top_classes(LOGITS)
    probabilities = tf.nn.softmax(LOGITS.astype(np.float64)).numpy()
    best = np.argsort(-probabilities, axis=1)[:, :3]
    np.testing.assert_array_equal(found.classes, best)
    np.testing.assert_allclose(found.probabilities, np.take_along_axis(probabilities, best, 1), rtol=1e-5)
    assert (found.classes.dtype, found.probabilities.dtype) == ("int32", "float32")
    equal = top_classes(np.zeros((1, 4), np.float32))
    assert equal.classes.tolist() == [[0, 1, 2]] and equal.probabilities.tolist() == [[0.25] * 3]
    assert top_classes(np.zeros((1, 2), np.float32)).classes.shape == (1, 2)
    # Where probabilities are equal in float32, the logits decide, as they do for the counts.
    far = top_classes(np.float32([[0.0, 60.0, 60.000004]]))
    assert far.classes[0, 0] == 2


def test_equal_logits_score_as_argmax():
    logits, labels = np.zeros((10, 10), np.float32), np.arange(10, dtype=np.int32)
    counts = count(logits, labels, np.zeros(10, np.float32), np.ones(10, bool))
    assert int(counts.top1) == int(np.sum(np.argmax(logits, 1) == labels)) == 1


def test_non_finite_logits_are_no_hits():
    logits = np.full((4, 10), np.nan, np.float32)
    labels = np.zeros(4, np.int32)
    counts = count(logits, labels, np.asarray(cross_entropy(logits, labels)), np.ones(4, bool))
    assert (int(counts.top1), int(counts.top5), int(counts.images)) == (0, 0, 4)


def test_rates_divide_once():
    parts = [Counts(*(np.float32(v) for v in values)) for values in ((2.0, 1, 2, 3), (4.0, 0, 1, 1))]
    result = rates(parts)
    assert (result.loss, result.top1, result.top5, result.images) == (1.5, 0.25, 0.75, 4)
    with pytest.raises(ValueError, match="no image"):
        rates([Counts(*(np.float32(0) for _ in range(4)))])
