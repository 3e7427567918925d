"""The results of an evaluation, as tables for people and as JSON for programs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from efficientnet_pod.evaluate.calibration import Bin, expected_calibration_error
from efficientnet_pod.evaluate.confusions import Pairs, images_by_class, most_confused
from efficientnet_pod.pod.terminal import console, table
from efficientnet_pod.run.metrics import Rates

SHOWN = 10  # classes and confusions in the tables
MOST_CONFUSIONS = 10_000  # in the JSON; the others are counted


@dataclasses.dataclass(frozen=True)
class ClassRate:
    """The images of one class.

    Attributes:
      label: number of the class.
      name: name of the class.
      images: number of images.
      hits: number of images whose first prediction is right.
    """

    label: int
    name: str
    images: int
    hits: int

    @property
    def accuracy(self) -> float | None:
        """Share of hits among the images; None without images."""
        return self.hits / self.images if self.images else None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of weights on images.

    Attributes:
      weights: ``path``, ``title``, ``network`` and ``origin`` of the weights.
      settings: settings of the evaluation.
      class_names: names by label.
      rates: averages over all images.
      pairs: number of images by label and predicted class.
      calibration: confidence and accuracy of the first predictions, in bins.
      step: step of a run's checkpoint; None for other weights.
    """

    weights: dict[str, Any]
    settings: dict[str, Any]
    class_names: Sequence[str]
    rates: Rates
    pairs: Pairs
    calibration: Sequence[Bin]
    step: int | None = None

    def __repr__(self) -> str:
        return (
            f"Evaluation({self.weights['title']}, {self.weights['path']}: top-1 {self.top1:.2%}, "
            f"top-5 {self.top5:.2%}, loss {self.loss:.4f} of {self.images:,} images, {self.settings['data']})"
        )

    @property
    def top1(self) -> float:
        """Share of the images whose first prediction is right, 0..1."""
        return self.rates.top1

    @property
    def top5(self) -> float:
        """Share of the images with the right class among the first five predictions, 0..1."""
        return self.rates.top5

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats."""
        return self.rates.loss

    @property
    def images(self) -> int:
        """Number of images; each was counted once."""
        return self.rates.images

    @property
    def per_class(self) -> list[ClassRate]:
        """Rates of all classes by label, also of those without images."""
        images = images_by_class(self.pairs)
        return [
            ClassRate(label, name, images[label], self.pairs[label, label])
            for label, name in enumerate(self.class_names)
        ]

    @property
    def worst(self) -> list[ClassRate]:
        """Classes with images, the least accurate first; among equals those with more images."""
        seen = [row for row in self.per_class if row.images]
        return sorted(seen, key=lambda row: (row.hits / row.images, -row.images, row.label))

    @property
    def confusions(self) -> list[tuple[int, int, int]]:
        """Label, predicted class and number of images, most frequent first."""
        return most_confused(self.pairs)

    @property
    def ece(self) -> float:
        """Expected calibration error, 0..1."""
        return expected_calibration_error(self.calibration)

    def as_json(self) -> dict[str, Any]:
        """Returns plain values: ``weights``, ``settings``, the rates, ``ece``, ``calibration``,
        ``per_class`` and ``confusions``."""
        names, confusions = self.class_names, self.confusions
        return {
            "weights": self.weights,
            "settings": self.settings,
            **dataclasses.asdict(self.rates),
            "ece": self.ece,
            "calibration": [dataclasses.asdict(bin_) for bin_ in self.calibration],
            "per_class": [{**dataclasses.asdict(row), "accuracy": row.accuracy} for row in self.per_class],
            "confusions": [
                {
                    "label": label,
                    "name": names[label],
                    "predicted": predicted,
                    "predicted_name": names[predicted],
                    "images": images,
                }
                for label, predicted, images in confusions[:MOST_CONFUSIONS]
            ],
            "confusions_left_out": max(0, len(confusions) - MOST_CONFUSIONS),
        }

    def print(self) -> None:
        """Prints the rates, the least accurate classes and the most frequent confusions."""
        out, rates = console(), self.rates
        step = "" if self.step is None else f"step {self.step:,}"
        if (which := self.weights["origin"].get("checkpoint")) in ("best", "latest"):
            step += f", the {which} checkpoint"
        step += ": " if step else ""
        out.print(
            f"{step}top-1 {rates.top1:.2%}, top-5 {rates.top5:.2%}, loss {rates.loss:.4f} "
            f"of {rates.images:,} images\n"
        )
        out.print(self._summary())
        out.print("", self._worst(), sep="\n")
        if self.confusions:
            out.print("", self._most_confused(), sep="\n")

    def _summary(self) -> Table:
        rows = {
            "weights": f"{self.weights['title']}, {self.weights['path']}",
            "images": f"{self.rates.images:,} of {self.settings['data']}, {self.settings['seen']}",
            "classes": self._classes(),
            "top-1": f"{self.rates.top1:.2%}",
            "top-5": f"{self.rates.top5:.2%}",
            "loss": f"{self.rates.loss:.4f}",
            "calibration": f"expected error {self.ece:.2%} in {len(self.calibration)} bins of the top-1 "
            "probability",
        }
        summary = table()
        for name, value in rows.items():
            summary.add_row(name, value)
        return summary

    def _classes(self) -> str:
        """Returns which classes the images have, and which compete for each image."""
        of_images, of_weights = self.settings["image_classes"], self.settings["classes"]
        matched = f"matched by {self.settings['matched_by']}"
        if of_images == of_weights:
            return f"{of_weights:,}, {matched}"
        return f"{of_images:,} of the weights' {of_weights:,}, {matched}; all {of_weights:,} compete"

    def _worst(self) -> Table:
        worst = table("least accurate classes", "accuracy", "right", "images")
        for row in self.worst[:SHOWN]:
            worst.add_row(row.name, f"{row.hits / row.images:.1%}", f"{row.hits:,}", f"{row.images:,}")
        return worst

    def _most_confused(self) -> Table:
        confused = table("most confused", "taken for", "images", left=2)
        of_class = images_by_class(self.pairs)
        for label, predicted, images in self.confusions[:SHOWN]:
            names = (self.class_names[number] for number in (label, predicted))
            confused.add_row(*names, f"{images:,} of {of_class[label]:,}")
        return confused
