"""Owns what the last evaluation predicted: sample images, confused pairs and the accuracy of each class."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from efficientnet_pod.workdir.values import list_of, number, whole

_MOST_SAMPLES = 48
_MOST_BYTES = 256 * 1024
_KINDS = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"))


@dataclass(frozen=True)
class Sample:
    """One evaluated image.

    Attributes:
      image: as a ``data:`` URI; empty where the file is missing, too large or no picture.
      label: its class.
      predicted: (class, probability), the most probable first.
    """

    image: str
    label: int
    predicted: tuple[tuple[int, float], ...]

    @property
    def is_hit(self) -> bool:
        """Whether the most probable class is the label."""
        return bool(self.predicted) and self.predicted[0][0] == self.label


@dataclass(frozen=True)
class Predictions:
    """What the last evaluation predicted.

    Attributes:
      step: of the evaluation.
      classes: names by label; may be empty.
      confusions: (label, predicted, images), the most images first.
      per_class: (label, images, correct).
      samples: a few images.
    """

    step: int | None
    classes: tuple[str | None, ...]
    confusions: tuple[tuple[int, int, int], ...]
    per_class: tuple[tuple[int, int, int], ...]
    samples: tuple[Sample, ...]

    def name(self, label: int) -> str:
        """Returns the name of a class, or its number where it has none."""
        name = self.classes[label] if label < len(self.classes) else None
        return name or f"class {label:,}"


def read_predictions(table: dict[str, Any], read_image: Callable[[str], bytes | None]) -> Predictions:
    """Returns what ``predictions.json`` holds; entries that are not as they should be are left out.

    Args:
      table: its contents.
      read_image: returns the bytes of a file by its path in the workdir, None where there is none.
    """
    classes = (name if isinstance(name, str) else None for name in list_of(table.get("classes")))
    samples = [_sample(each, read_image) for each in list_of(table.get("samples"))[:_MOST_SAMPLES]]
    return Predictions(
        step=whole(table.get("step")),
        classes=tuple(classes),
        confusions=tuple(sorted(_triples(table.get("confusions")), key=lambda each: -each[2])),
        per_class=tuple(each for each in _triples(table.get("per_class")) if each[1]),
        samples=tuple(each for each in samples if each),
    )


def _triples(value: Any) -> list[tuple[int, int, int]]:
    found = []
    for each in list_of(value):
        numbers = [whole(n) for n in list_of(each)]
        if len(numbers) == 3 and None not in numbers:
            found.append(tuple(numbers))
    return found


def _sample(value: Any, read_image: Callable[[str], bytes | None]) -> Sample | None:
    if not isinstance(value, dict) or (label := whole(value.get("label"))) is None:
        return None
    predicted = []
    for pair in list_of(value.get("predicted"))[:3]:
        numbers = list_of(pair)
        if len(numbers) == 2 and whole(numbers[0]) is not None and number(numbers[1]) is not None:
            predicted.append((int(numbers[0]), float(numbers[1])))
    name = value.get("image")
    stored = read_image(name) if isinstance(name, str) else None
    return Sample(_data_uri(stored or b""), label, tuple(predicted))


def _data_uri(stored: bytes) -> str:
    kind = next((kind for start, kind in _KINDS if stored.startswith(start)), None)
    if kind is None or len(stored) > _MOST_BYTES:
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(stored).decode()}"
