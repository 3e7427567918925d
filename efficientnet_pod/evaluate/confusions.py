"""What an evaluation has found for each image: which classes are mistaken for which, and a few examples."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from efficientnet_pod.pod.hosts import to_first
from efficientnet_pod.pod.mesh import of_this_host
from efficientnet_pod.run.metrics import TopClasses
from efficientnet_pod.workdir.predictions import EvaluationPredictions, SampleImage

SAMPLES = 24
MOST_CONFUSIONS = 200
LONGEST_SIDE = 128  # pixels, of a sample

Pairs = Counter[tuple[int, int]]  # images by label and predicted class


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image as the network saw it.

    Attributes:
      image: levels of 0..255, (height, width, 3).
      label: its class.
      predicted: the most probable classes with their probabilities, best first.
    """

    image: np.ndarray
    label: int
    predicted: list[tuple[int, float]]

    @property
    def is_right(self) -> bool:
        """Whether the first prediction is the label."""
        return self.predicted[0][0] == self.label


class Findings:
    """What this host's images of one evaluation were taken for; padding is left out."""

    def __init__(self, num_classes: int) -> None:
        """Begins with no image."""
        self._pairs: Pairs = Counter()
        self._samples: dict[bool, list[Sample]] = {False: [], True: []}
        # Images may be stored class by class: of no class there are more than leave room for all.
        self._most_of_a_class = math.ceil(SAMPLES / num_classes)

    def add(self, batch: Mapping[str, np.ndarray], predictions: TopClasses) -> None:
        """Adds a batch.

        Args:
          batch: this host's ``image``, ``label`` and ``mask``.
          predictions: of the global batch, on the devices.
        """
        classes, probabilities = map(of_this_host, (predictions.classes, predictions.probabilities))
        real, labels = np.flatnonzero(batch["mask"] > 0), batch["label"]
        self._pairs.update(zip(labels[real].tolist(), classes[real, 0].tolist(), strict=True))
        for is_right, kept in self._samples.items():
            alike = real[(classes[real, 0] == labels[real]) == is_right]
            of_class = Counter(sample.label for sample in kept)
            for i in alike.tolist() if len(kept) < SAMPLES else ():
                label = int(labels[i])
                if len(kept) < SAMPLES and of_class[label] < self._most_of_a_class:
                    predicted = list(zip(classes[i].tolist(), probabilities[i].tolist(), strict=True))
                    # A copy: a view would keep the whole batch in memory.
                    kept.append(Sample(batch["image"][i].copy(), label, predicted))
                    of_class[label] += 1

    def samples(self) -> list[Sample]:
        """Returns the first images that were mistaken, up to half of `SAMPLES`, then the first of the others.

        Where there are too few of the others, more of those mistaken. Of one class there are at most so many,
        mistaken or not, that all have room.
        """
        wrong, right = self._samples[False], self._samples[True]
        mistaken = max(SAMPLES // 2, SAMPLES - len(right))
        return [*wrong[:mistaken], *right][:SAMPLES]

    def merged(self, images: int) -> Pairs | None:
        """Returns on host 0 the images of all hosts by label and predicted class; None on the others.

        Every host calls it.

        Raises:
          RuntimeError: they are not so many images.
        """
        mine = [[*pair, many] for pair, many in sorted(self._pairs.items())]
        all_hosts = to_first("predictions", mine)
        if all_hosts is None:
            return None
        pairs: Pairs = Counter()
        for host in all_hosts:
            for label, predicted, many in host:
                pairs[label, predicted] += many
        if pairs.total() != images:
            raise RuntimeError(f"predictions of {pairs.total()} images in an evaluation of {images}")
        return pairs


def predictions_of(
    pairs: Pairs, samples: Sequence[Sample], *, step: int, class_names: Sequence[str]
) -> EvaluationPredictions:
    """Returns the predictions of an evaluation as a workdir keeps them, samples as PNG files.

    Args:
      pairs: images by label and predicted class.
      samples: images to show.
      step: of the weights.
      class_names: by label; may be empty.
    """
    from efficientnet_pod.data.contact_sheet import thumbnail

    images = images_by_class(pairs)
    return EvaluationPredictions(
        step=step,
        classes=tuple(class_names),
        confusions=tuple(confusions(pairs)[:MOST_CONFUSIONS]),
        per_class=tuple((label, images[label], pairs[label, label]) for label in sorted(images)),
        samples=tuple(
            SampleImage(
                thumbnail(sample.image, longest_side=LONGEST_SIDE), sample.label, tuple(sample.predicted)
            )
            for sample in samples
        ),
    )


def confusions(pairs: Pairs) -> list[tuple[int, int, int]]:
    """Returns label, predicted class and images of each confusion, most frequent first."""
    mistaken = [(*pair, many) for pair, many in pairs.items() if pair[0] != pair[1]]
    return sorted(mistaken, key=lambda each: (-each[2], each[0], each[1]))


def images_by_class(pairs: Pairs) -> Counter[int]:
    """Returns how many images each class has."""
    images: Counter[int] = Counter()
    for (label, _), many in pairs.items():
        images[label] += many
    return images
