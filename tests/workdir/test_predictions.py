"""predictions.json and its sample images: read back as they were written; a failure ends nothing."""

import json

import pytest

from efficientnet_pod.workdir.predictions import (
    EvaluationPredictions,
    SampleImage,
    read_predictions,
    write_predictions,
)
from efficientnet_pod.workdir.workdir import Workdir

PNG = b"\x89PNG\r\n\x1a\n"
PREDICTIONS = EvaluationPredictions(
    step=9,
    classes=("cat", "dog"),
    confusions=((1, 0, 3), (0, 1, 2)),
    per_class=((0, 10, 8), (1, 5, 2)),
    samples=(
        SampleImage(PNG + b"a", 1, ((0, 0.75), (1, 0.25))),
        SampleImage(PNG + b"b", 0, ((0, 0.5), (1, 0.123456))),
    ),
)


def stored(folder):
    return json.loads((folder / "predictions.json").read_text())


def test_predictions_are_read_as_they_were_written(tmp_path):
    write_predictions(Workdir(tmp_path), PREDICTIONS, warn=pytest.fail)
    table = stored(tmp_path)
    assert list(table) == ["step", "classes", "confusions", "per_class", "samples"]
    assert table["samples"][1] == {
        "image": "samples/001.png",
        "label": 0,
        "predicted": [[0, 0.5], [1, 0.123456]],
    }
    assert read_predictions(table, lambda name: (tmp_path / name).read_bytes()) == PREDICTIONS


def test_classes_without_names_are_none_and_probabilities_have_six_decimals(tmp_path):
    sample = SampleImage(PNG, 0, ((0, 1 / 3),))
    write_predictions(Workdir(tmp_path), EvaluationPredictions(1, (), (), (), (sample,)), warn=pytest.fail)
    table = stored(tmp_path)
    assert table["classes"] is None and table["samples"][0]["predicted"] == [[0, 0.333333]]


def test_predictions_that_cannot_be_written_are_one_warning(tmp_path):
    (tmp_path / "samples").write_text("a file where the folder should be")
    warnings = []
    write_predictions(Workdir(tmp_path), PREDICTIONS, warn=warnings.append)
    assert len(warnings) == 1 and "predictions.json' is not written" in warnings[0]
