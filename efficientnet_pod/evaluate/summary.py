"""What an evaluation has found, as tables for people and as JSON for programs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from efficientnet_pod.evaluate.calibration import Bin, expected_calibration_error
from efficientnet_pod.evaluate.confusions import Pairs, confusions, images_by_class
from efficientnet_pod.run.metrics import Rates

SHOWN = 10  # classes and confusions in the tables
MOST_CONFUSIONS = 10_000  # in the JSON; the others are counted


@dataclasses.dataclass(frozen=True)
class OfClass:
    """The images of one class.

    Attributes:
      label: the class.
      images: how many.
      hits: that were taken for it.
    """

    label: int
    images: int
    hits: int

    @property
    def accuracy(self) -> float | None:
        """Share of the images; None without any."""
        return self.hits / self.images if self.images else None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All that is known of weights on images.

    Attributes:
      weights: path, network, and where the weights are from.
      settings: of the evaluation.
      class_names: by label.
      rates: over all images.
      pairs: images by label and predicted class.
      bins: of the probabilities of the first prediction.
    """

    weights: dict[str, Any]
    settings: dict[str, Any]
    class_names: Sequence[str]
    rates: Rates
    pairs: Pairs
    bins: Sequence[Bin]

    @property
    def per_class(self) -> list[OfClass]:
        """Every class, also those without images."""
        images = images_by_class(self.pairs)
        return [
            OfClass(label, images[label], self.pairs[label, label]) for label in range(len(self.class_names))
        ]

    @property
    def worst(self) -> list[OfClass]:
        """The classes with images, least accurate first; of equal ones that with more images."""
        seen = [each for each in self.per_class if each.images]
        return sorted(seen, key=lambda each: (each.hits / each.images, -each.images, each.label))

    @property
    def confusions(self) -> list[tuple[int, int, int]]:
        """Label, predicted class and images, most frequent first."""
        return confusions(self.pairs)

    @property
    def ece(self) -> float:
        """Expected calibration error, 0..1."""
        return expected_calibration_error(self.bins)

    def as_json(self) -> dict[str, Any]:
        """Returns plain values: ``weights``, ``settings``, the rates, ``ece``, ``calibration`` (the bins),
        ``per_class`` and ``confusions``."""
        names, confusions = self.class_names, self.confusions
        return {
            "weights": self.weights,
            "settings": self.settings,
            **dataclasses.asdict(self.rates),
            "ece": self.ece,
            "calibration": [dataclasses.asdict(each) for each in self.bins],
            "per_class": [
                {**dataclasses.asdict(each), "name": names[each.label], "accuracy": each.accuracy}
                for each in self.per_class
            ],
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

    def print(self, console: Console) -> None:
        """Prints the rates, the least accurate classes and the most frequent confusions."""
        console.print(self._summary())
        console.print("", self._worst(), sep="\n")
        if self.confusions:
            console.print("", self._confused(), sep="\n")

    def _summary(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        rows = {
            "weights": f"{self.weights['title']}, {self.weights['path']}",
            "images": f"{self.rates.images:,} of {self.settings['data']}, {self.settings['seen']}",
            "top-1": f"{self.rates.top1:.2%}",
            "top-5": f"{self.rates.top5:.2%}",
            "loss": f"{self.rates.loss:.4f}",
            "calibration": f"expected error {self.ece:.2%} in {len(self.bins)} bins of the top-1 probability",
        }
        for name, value in rows.items():
            table.add_row(name, escape(value))
        return table

    def _worst(self) -> Table:
        table = _table("least accurate classes", "accuracy", "right", "images")
        for each in self.worst[:SHOWN]:
            name, accuracy = self.class_names[each.label], each.hits / each.images
            table.add_row(escape(name), f"{accuracy:.1%}", f"{each.hits:,}", f"{each.images:,}")
        return table

    def _confused(self) -> Table:
        table = _table("most confused", "taken for", "images")
        of_class = images_by_class(self.pairs)
        for label, predicted, images in self.confusions[:SHOWN]:
            names = (escape(self.class_names[each]) for each in (label, predicted))
            table.add_row(*names, f"{images:,} of {of_class[label]:,}")
        return table


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=None, pad_edge=False)
    for name in others:
        table.add_column(name, justify="left" if name == "taken for" else "right")
    return table
