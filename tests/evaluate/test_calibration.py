"""The calibration error and what each class was taken for, against numpy on the logits themselves."""

import dataclasses

import jax
import numpy as np
import pytest
from recipes import load
from tiny import CLASSES, build_tiny_networks

from efficientnet_pod.data.sources.digits import indexed_arrays
from efficientnet_pod.data.sources.types import Source
from efficientnet_pod.evaluate.calibration import BINS, Bin, Calibration, expected_calibration_error
from efficientnet_pod.evaluate.confusions import Confusions
from efficientnet_pod.evaluate.evaluate import eval_batches
from efficientnet_pod.evaluate.summary import Evaluation
from efficientnet_pod.evaluate.weights import evaluate_weights
from efficientnet_pod.models.inputs import normalise
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.metrics import TopClasses, top_classes
from efficientnet_pod.run.run import open_run

IMAGES = 1003


def error_of(logits, labels):
    """Guo et al., equations 2 and 3, image by image, in float64."""
    logits = np.asarray(logits, np.float64)
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    confidence, right = probabilities.max(1), logits.argmax(1) == labels
    total = 0.0
    for m in range(1, BINS + 1):
        inside = (confidence > (m - 1) / BINS) & (confidence <= m / BINS)
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    return total / len(labels)


def test_the_error_is_numpys_on_random_logits_and_padding_is_left_out():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (IMAGES + 21, CLASSES)).astype(np.float32)
    labels = np.where(rng.random(len(logits)) < 0.6, logits.argmax(1), rng.integers(0, CLASSES, len(logits)))
    mask = (np.arange(len(logits)) < IMAGES).astype(np.float32)
    found = Calibration()
    for part in np.split(np.arange(len(logits)), 8):
        found.add({"label": labels[part], "mask": mask[part]}, top_classes(jax.numpy.asarray(logits[part])))
    bins = found.merged(IMAGES)
    assert sum(each.images for each in bins) == IMAGES and len(bins) == 15
    assert [each.images > 0 for each in bins][-3:] == [True] * 3
    expected = error_of(logits[:IMAGES], labels[:IMAGES])
    assert expected_calibration_error(bins) == pytest.approx(expected, abs=1e-7) and expected > 0.01


def test_bins_hold_their_upper_edge_and_a_bin_without_images_says_nothing():
    confidence = np.array([[1.0], [0.0], [np.float32(1 / 3)], [0.5]], np.float32)
    classes = np.zeros((4, 1), np.int32)
    found = Calibration()
    batch = {"label": np.array([0, 0, 0, 1]), "mask": np.ones(4)}
    found.add(batch, TopClasses(jax.numpy.asarray(classes), jax.numpy.asarray(confidence)))
    bins = found.merged(4)
    assert [n for n, each in enumerate(bins) if each.images] == [0, 5, 7, 14]  # float32's third is above 1/3
    assert bins[1].confidence is None and bins[1].accuracy is None
    assert bins[14] == Bin(14 / 15, 1.0, 1, 1.0, 1.0)
    assert expected_calibration_error(bins) == pytest.approx((0 + 1 + 2 / 3 + 0.5) / 4, abs=1e-7)
    with pytest.raises(RuntimeError, match="probabilities of 4 images in an evaluation of 5"):
        found.merged(5)


def test_probabilities_that_are_not_finite_are_an_error():
    found = Calibration()
    logits = jax.numpy.asarray(np.array([[np.nan, 1.0], [0.0, 1.0], [np.nan, 1.0]], np.float32))
    found.add({"label": np.zeros(3, np.int32), "mask": np.array([1, 1, 0])}, top_classes(logits))
    with pytest.raises(ValueError, match="the probabilities of 1 of 2 images are not finite"):
        found.merged(2)


@pytest.fixture(scope="module")
def evaluated():
    """1,003 random images on eight replicas, and the logits of one program without a mesh."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, IMAGES).astype(np.int32)
    images = indexed_arrays(pixels, labels)
    names = tuple(f"digit {label}" for label in range(CLASSES))
    with pytest.MonkeyPatch.context() as patch:
        build_tiny_networks(patch)
        run = open_run(
            read_recipe(load("digits.py") | {"global_batch": 64}), Source("random", names, images, images)
        )
        variables = jax.device_get(run.initial_variables())
        apply = jax.jit(lambda variables, image: run.model.apply(variables, normalise(image), train=False))
        batches = list(eval_batches(run))

        def logits():
            parts = [np.asarray(apply(variables, b["image"]))[b["mask"] > 0] for b in batches]
            return np.concatenate(parts)

        variables["params"]["classifier"]["kernel"] *= 300  # confident enough for several bins
        variables["params"]["classifier"]["bias"] = -logits().mean(0)
        confusions, calibration = Confusions(CLASSES), Calibration()

        def collect(*batch):
            confusions.add(*batch)
            calibration.add(*batch)

        rates = evaluate_weights(run, variables, collect=collect)
    evaluation = Evaluation(
        weights={"path": "w", "title": "Tiny"},
        settings={"data": "random", "seen": "whole"},
        class_names=names,
        rates=rates,
        pairs=confusions.merged(IMAGES),
        calibration=calibration.merged(IMAGES),
    )
    return evaluation, logits(), labels


def test_eight_replicas_find_what_numpy_finds(evaluated):
    evaluation, logits, labels = evaluated
    predicted = logits.argmax(1)
    assert evaluation.rates.images == IMAGES and len(np.unique(predicted)) > 3
    assert evaluation.ece == pytest.approx(error_of(logits, labels), abs=1e-5) and evaluation.ece > 0.05
    assert sum(each.images > 0 for each in evaluation.calibration) > 3
    for each in evaluation.per_class:
        of_class = labels == each.label
        assert (each.images, each.hits) == (of_class.sum(), (predicted[of_class] == each.label).sum())
    table = np.zeros((CLASSES, CLASSES), int)
    np.add.at(table, (labels, predicted), 1)
    np.fill_diagonal(table, 0)
    assert {(a, b): n for a, b, n in evaluation.confusions} == {
        (a, b): table[a, b] for a, b in zip(*table.nonzero(), strict=True)
    }
    counts = [n for *_, n in evaluation.confusions]
    assert counts == sorted(counts, reverse=True)
    accuracies = [each.accuracy for each in evaluation.worst]
    assert accuracies == sorted(accuracies) and len(accuracies) == CLASSES


def test_the_json_has_all_of_it(evaluated):
    evaluation, *_ = evaluated
    found = evaluation.as_json()
    assert set(found) == {
        *("weights", "settings", "loss", "top1", "top5", "images"),
        *("ece", "calibration", "per_class", "confusions", "confusions_left_out"),
    }
    assert set(found["calibration"][0]) == {"low", "high", "images", "confidence", "accuracy"}
    assert set(found["per_class"][0]) == {"label", "name", "images", "hits", "accuracy"}
    assert set(found["confusions"][0]) == {"label", "name", "predicted", "predicted_name", "images"}
    assert sum(each["images"] for each in found["per_class"]) == IMAGES
    wrong = sum(each["images"] for each in found["confusions"])
    assert found["confusions_left_out"] == 0 and wrong == IMAGES - round(found["top1"] * IMAGES)
    missing = dataclasses.replace(evaluation, class_names=(*evaluation.class_names, "unseen"))
    last = missing.as_json()["per_class"][-1]
    assert last == {"label": 10, "images": 0, "hits": 0, "name": "unseen", "accuracy": None}
    assert all(each.label != 10 for each in missing.worst)
