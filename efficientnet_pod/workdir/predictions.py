"""What an evaluation predicted: sample images, confused classes and hits by class, in one JSON file."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from efficientnet_pod.workdir.files import warn_if_not_written, write_json
from efficientnet_pod.workdir.values import list_of, number, triple_of, whole
from efficientnet_pod.workdir.workdir import Workdir

FILE = "predictions.json"
_FOLDER = "samples"  # of the images
_MOST_SAMPLES = 48
_MOST_BYTES = 256 * 1024  # of an image
_PICTURE_TYPES = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))


@dataclass(frozen=True)
class SampleImage:
    """One evaluated image.

    Attributes:
      image: a PNG, JPEG or GIF file; empty where it is missing, too large or none of these.
      label: true class.
      predicted: (class, probability), the most probable first.
    """

    image: bytes
    label: int
    predicted: tuple[tuple[int, float], ...]

    @property
    def is_hit(self) -> bool:
        """Whether the most probable class is the label."""
        return bool(self.predicted) and self.predicted[0][0] == self.label

    @property
    def data_uri(self) -> str:
        """The image as a ``data:`` URI, empty where there is none."""
        kind = _picture_type(self.image)
        return f"data:image/{kind};base64,{base64.b64encode(self.image).decode()}" if kind else ""


@dataclass(frozen=True)
class EvaluationPredictions:
    """The predictions of one evaluation.

    Attributes:
      step: step of the weights; None where not recorded.
      classes: names by label; may be empty.
      confusions: (label, predicted, images), the most images first.
      per_class: (label, images, correct).
      samples: a few images.
    """

    step: int | None
    classes: tuple[str | None, ...]
    confusions: tuple[tuple[int, int, int], ...]
    per_class: tuple[tuple[int, int, int], ...]
    samples: tuple[SampleImage, ...]

    def name(self, label: int) -> str:
        """Returns the name of a class, or its number where it has none."""
        name = self.classes[label] if label < len(self.classes) else None
        return name or f"class {label:,}"


def write_predictions(
    workdir: Workdir, predictions: EvaluationPredictions, *, warn: Callable[[str], None]
) -> None:
    """Writes ``predictions.json`` and the images it names; a failure is one line for ``warn``."""
    file = workdir.path / FILE
    with warn_if_not_written(file, warn):
        (workdir.path / _FOLDER).mkdir(parents=True, exist_ok=True)
        samples: list[dict[str, Any]] = []
        for index, sample in enumerate(predictions.samples):
            name = f"{_FOLDER}/{index:03}.png"
            (workdir.path / name).write_bytes(sample.image)
            pairs = [[label, round(probability, 6)] for label, probability in sample.predicted]
            samples.append({"image": name, "label": sample.label, "predicted": pairs})
        write_json(file, vars(predictions) | {"classes": predictions.classes or None, "samples": samples})


def read_predictions(
    table: dict[str, Any], read_image: Callable[[str], bytes | None]
) -> EvaluationPredictions:
    """Returns the contents of ``predictions.json``; entries that are not as they should be are left out.

    ``read_image`` returns the bytes of a file by its path in the workdir, None where there is none.
    """
    classes = (name if isinstance(name, str) else None for name in list_of(table.get("classes")))
    samples = [_read_sample(entry, read_image) for entry in list_of(table.get("samples"))[:_MOST_SAMPLES]]
    return EvaluationPredictions(
        step=whole(table.get("step")),
        classes=tuple(classes),
        confusions=tuple(sorted(_triples(table.get("confusions")), key=lambda triple: -triple[2])),
        per_class=tuple(triple for triple in _triples(table.get("per_class")) if triple[1]),
        samples=tuple(sample for sample in samples if sample),
    )


def _triples(value: Any) -> list[tuple[int, int, int]]:
    return [triple for entry in list_of(value) if (triple := triple_of(entry))]


def _read_sample(entry: Any, read_image: Callable[[str], bytes | None]) -> SampleImage | None:
    if not isinstance(entry, dict) or (label := whole(entry.get("label"))) is None:
        return None
    predicted = []
    for pair in list_of(entry.get("predicted"))[:3]:
        numbers = list_of(pair)
        if len(numbers) == 2 and whole(numbers[0]) is not None and number(numbers[1]) is not None:
            predicted.append((int(numbers[0]), float(numbers[1])))
    name = entry.get("image")
    image = (read_image(name) if isinstance(name, str) else None) or b""
    return SampleImage(image if _picture_type(image) else b"", label, tuple(predicted))


def _picture_type(image: bytes) -> str | None:
    """Returns ``png``, ``jpeg`` or ``gif``; None for a file that is too large or none of these."""
    kind = next((kind for start, kind in _PICTURE_TYPES if image.startswith(start)), None)
    return kind if len(image) <= _MOST_BYTES else None
