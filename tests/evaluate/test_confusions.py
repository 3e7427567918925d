"""Confusions of an evaluation: counted without padding, and the samples that are kept."""

import jax
import numpy as np
import pytest
import tensorflow as tf

from efficientnet_pod.evaluate.confusions import MOST_CONFUSIONS, SAMPLES, Confusions, Pairs, predictions_of
from efficientnet_pod.pod.mesh import create_mesh, to_global
from efficientnet_pod.run.metrics import TopClasses, top_classes

CLASSES = 30


def found(images=150, *, padded=160, seed=0, size=16):
    """Returns batches of a host, the last one padded, their logits, and confusions that have taken them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, padded).astype(np.int32)
    logits = rng.normal(size=(padded, CLASSES)).astype(np.float32)
    logits[np.arange(padded), labels] += 2.0
    batch = {
        "image": rng.integers(0, 256, (padded, size, size, 3)).astype(np.uint8),
        "label": labels,
        "mask": np.float32(np.arange(padded) < images),
    }
    mesh, confusions = create_mesh(jax.devices(), 2), Confusions(CLASSES)
    on_devices = jax.jit(top_classes)
    for half in (slice(None, padded // 2), slice(padded // 2, None)):
        part = {name: array[half] for name, array in batch.items()}
        placed = on_devices(to_global({"": logits[half]}, mesh)[""])
        confusions.add(part, placed)
    return batch, logits, confusions


def test_confusions_and_hits_are_numpys_without_padding():
    batch, logits, confusions = found()
    labels, predicted = batch["label"][:150], np.argmax(logits[:150], axis=1)
    table = np.zeros((CLASSES, CLASSES), int)
    np.add.at(table, (labels, predicted), 1)
    pairs = confusions.merged(150)
    predictions = predictions_of(pairs, (), step=9, class_names=())
    assert (predictions.step, predictions.classes) == (9, ())
    per_class = [(label, int(row.sum()), int(row[label])) for label, row in enumerate(table) if row.any()]
    assert list(predictions.per_class) == per_class
    off = [(i, j, int(table[i, j])) for i, j in zip(*np.nonzero(table), strict=True) if i != j]
    assert sorted(predictions.confusions) == sorted(off) and off
    counts = [count for *_, count in predictions.confusions]
    assert counts == sorted(counts, reverse=True)
    with pytest.raises(RuntimeError, match="predictions of 150 images in an evaluation of 151"):
        confusions.merged(151)


def test_the_most_frequent_confusions_are_kept():
    pairs = Pairs({(i, j): i + j for i in range(20) for j in range(20) if i + j})
    confusions = predictions_of(pairs, (), step=1, class_names=("a",)).confusions
    assert len(confusions) == MOST_CONFUSIONS and all(label != other for label, other, _ in confusions)
    assert confusions[0] == (18, 19, 37) and confusions[-1][2] == 19


def test_samples_are_the_first_images_half_of_them_mistaken_as_the_network_saw_them():
    batch, logits, confusions = found()
    samples = predictions_of(Pairs(), confusions.samples(), step=9, class_names=()).samples
    wrong, right, seen = [], [], set()
    for i in range(150):  # one of each class: there are more than there are samples
        label, is_right = int(batch["label"][i]), np.argmax(logits[i]) == batch["label"][i]
        if (label, is_right) not in seen:
            (right if is_right else wrong).append(i)
            seen.add((label, is_right))
    chosen = (wrong[:12] + right)[:SAMPLES]
    assert len(samples) == SAMPLES
    for sample, i in zip(samples, chosen, strict=True):
        assert sample.label == batch["label"][i]
        shown = tf.io.decode_png(sample.image).numpy()
        np.testing.assert_array_equal(shown, batch["image"][i])
        probabilities = np.exp(np.float64(logits[i])) / np.sum(np.exp(np.float64(logits[i])))
        best = np.argsort(-probabilities)[:3]
        assert [label for label, _ in sample.predicted] == best.tolist()
        np.testing.assert_allclose([p for _, p in sample.predicted], probabilities[best], atol=2e-6)


def test_where_few_are_right_more_of_the_wrong_are_shown():
    labels = np.arange(40, dtype=np.int32) % 20
    classes = np.where(labels == 3, 3, 4)[:, None].astype(np.int32)  # the network knows 3 and says 4
    batch = {"image": np.zeros((40, 2, 2, 3)), "label": labels, "mask": np.ones(40, np.float32)}
    placed = to_global({"c": classes, "p": np.ones((40, 1), np.float32)}, create_mesh(jax.devices(), 1))
    confusions = Confusions(20)
    confusions.add(batch, TopClasses(placed["c"], placed["p"]))
    samples = confusions.samples()
    assert len(samples) == SAMPLES
    right = [sample for sample in samples if sample.predicted[0][0] == sample.label]
    assert len(right) == 4  # two of each class, of 3 and 4
