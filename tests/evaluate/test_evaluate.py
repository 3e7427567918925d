"""1,003 images on eight replicas are counted once each, and top-1 is numpy's."""

from collections import Counter

import jax
import numpy as np
import pytest
from recipes import load
from tiny import CLASSES, SIZE, build_tiny_networks
from whole_runs import compiled_eval_step as compiled

from efficientnet_pod.data.sources.digits import indexed_arrays
from efficientnet_pod.data.sources.types import Source
from efficientnet_pod.evaluate import evaluate as evaluate_module
from efficientnet_pod.evaluate.confusions import Confusions
from efficientnet_pod.evaluate.evaluate import EvalBatches, eval_batches, evaluate
from efficientnet_pod.models.inputs import normalise
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.run.run import open_run

IMAGES = 1003


@pytest.fixture
def open_with(monkeypatch):
    """Returns a function that opens the digits recipe on 1,003 random images with a tiny network."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, IMAGES).astype(np.int32)
    images = indexed_arrays(pixels, labels)
    source = Source("random", tuple(map(str, range(CLASSES))), train=images, eval=images)
    build_tiny_networks(monkeypatch)

    def make(**fields):
        return open_run(read_recipe(load("digits.py") | fields), source), labels

    return make


@pytest.mark.parametrize("global_batch", [64, 2048])
def test_each_image_is_counted_once_and_top1_is_numpys(open_with, global_batch):
    run, labels = open_with(global_batch=global_batch)
    variables = run.initial_variables()
    apply = jax.jit(lambda variables, image: run.model.apply(variables, normalise(image), train=False))
    batches = list(eval_batches(run))
    # A bias against the mean logits spreads the predictions; the initial network knows one class only.
    logits = [apply(variables, batch["image"]) for batch in batches]
    variables["params"]["classifier"]["bias"] = -np.mean(np.concatenate(logits), axis=0)
    predicted = [np.argmax(apply(variables, batch["image"]), 1)[batch["mask"] > 0] for batch in batches]
    expected = np.mean(np.concatenate(predicted) == labels)
    confusions = Confusions(CLASSES)
    result = evaluate(run, compiled(run), variables, collect=confusions.add)
    assert confusions.merged(IMAGES) == Counter(
        zip(labels.tolist(), np.concatenate(predicted).tolist(), strict=True)
    )
    assert len(np.unique(np.concatenate(predicted))) > 3
    assert (result.images, result.top1) == (IMAGES, pytest.approx(expected, abs=1e-12))
    assert result.top1 < result.top5 < 1
    assert run.plan.image_size == SIZE


def test_with_flips_the_logits_of_an_image_and_its_mirror_image_are_averaged(open_with):
    run, labels = open_with(global_batch=512, eval_flip=True)
    variables = run.initial_variables()
    variables["params"]["classifier"]["kernel"] *= 1000  # so that mirror images matter

    @jax.jit
    def logits(variables, pixels):
        return run.model.apply(variables, normalise(pixels), train=False)

    plain, mirrored = (
        np.concatenate(
            [
                np.asarray(logits(variables, b["image"][:, :, ::step]))[b["mask"] > 0]
                for b in eval_batches(run)
            ]
        )
        for step in (1, -1)
    )
    shifted = np.asarray(plain + mirrored, np.float64) / 2
    log_sums = np.log(np.exp(shifted - shifted.max(1, keepdims=True)).sum(1)) + shifted.max(1)
    expected = np.mean(log_sums - shifted[np.arange(IMAGES), labels])
    result = evaluate(run, compiled(run), variables)
    assert result.top1 == pytest.approx(np.mean(np.argmax(shifted, 1) == labels), abs=2 / IMAGES)
    assert result.loss == pytest.approx(expected, rel=1e-4)
    alone = np.mean(np.argmax(plain, 1) == labels)
    assert abs(plain - mirrored).max() > 0.01 and alone != result.top1


def test_lost_images_are_an_error(open_with, monkeypatch):
    run, _ = open_with(global_batch=512)
    first = next(eval_batches(run))
    monkeypatch.setattr(evaluate_module, "eval_batches", lambda _: iter([first]))
    variables = run.initial_variables()
    with pytest.raises(RuntimeError, match="512 images were counted in an evaluation of 1003"):
        evaluate(run, compiled(run), variables)


@pytest.mark.parametrize(("room", "reads"), [(1023, 2), (1024, 1)])  # images that may be kept
def test_batches_that_fit_are_read_by_one_whole_evaluation(open_with, monkeypatch, room, reads):
    run, _ = open_with(global_batch=64)  # 16 batches: 1,024 images with the padding
    variables, step = run.initial_variables(), compiled(run)
    expected = evaluate(run, step, variables)
    read = list[int]()

    def read_again(run):
        read.append(run.plan.num_eval)
        return eval_batches(run)

    monkeypatch.setattr(evaluate_module, "eval_batches", read_again)
    bytes_of_image = 3 * SIZE**2 * np.dtype(run.plan.link_dtype).itemsize
    monkeypatch.setattr(evaluate_module, "MOST_KEPT", room * bytes_of_image)
    batches = EvalBatches(run)
    assert evaluate(run, step, variables, batches=batches, stop=lambda: True) is None
    stopped = len(read)
    results = [evaluate(run, step, variables, batches=batches) for _ in range(2)]
    assert (results, len(read) - stopped) == ([expected, expected], reads)


def test_an_evaluation_step_sends_counts_and_nothing_of_the_images(open_with):
    run, _ = open_with(global_batch=64)
    text = run.lower_eval_steps()[0].as_text()
    assert text.count('"stablehlo.all_reduce"') == 5  # four counts, and who is to stop
    assert not any(name in text for name in ("all_gather", "all_to_all", "collective"))
