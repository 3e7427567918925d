"""The confusions of an evaluation: images by class and predicted class, and a few images as examples."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from efficientnet_pod.data.contact_sheet import thumbnail
from efficientnet_pod.pod.hosts import to_first
from efficientnet_pod.pod.mesh import of_this_host
from efficientnet_pod.run.metrics import TopClasses
from efficientnet_pod.workdir.predictions import EvaluationPredictions, SampleImage

SAMPLES = 24
MOST_CONFUSIONS = 200
LONGEST_SIDE = 128  # pixels of a sample

Pairs = Counter[tuple[int, int]]  # images by label and predicted class


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image as the network saw it.

    Attributes:
      image: levels of 0..255, (height, width, 3).
      label: class of the image.
      predicted: most probable classes with their probabilities, best first.
    """

    image: np.ndarray
    label: int
    predicted: list[tuple[int, float]]


class Confusions:
    """Classes and predicted classes of this host's images in one evaluation; padding is left out."""

    def __init__(self, num_classes: int) -> None:
        """Begins with no image."""
        self._pairs: Pairs = Counter()
        self._samples: dict[bool, list[Sample]] = {False: [], True: []}
        # A set may be stored class by class, so no class contributes more than its share.
        self._most_of_a_class = math.ceil(SAMPLES / num_classes)

    def add(self, batch: Mapping[str, np.ndarray], predictions: TopClasses) -> None:
        """Adds a batch: this host's ``image``, ``label`` and ``mask``.

        The predictions, on the devices, are those for the global batch.
        """
        classes, probabilities = map(of_this_host, (predictions.classes, predictions.probabilities))
        real, labels = np.flatnonzero(batch["mask"] > 0), batch["label"]
        self._pairs.update(zip(labels[real].tolist(), classes[real, 0].tolist(), strict=True))
        for is_right, kept in self._samples.items():
            if len(kept) == SAMPLES:
                continue
            of_class = Counter(sample.label for sample in kept)
            for i in real[(classes[real, 0] == labels[real]) == is_right].tolist():
                label = int(labels[i])
                if len(kept) < SAMPLES and of_class[label] < self._most_of_a_class:
                    predicted = list(zip(classes[i].tolist(), probabilities[i].tolist(), strict=True))
                    # A copy: a view would keep the whole batch in memory.
                    kept.append(Sample(batch["image"][i].copy(), label, predicted))
                    of_class[label] += 1

    def samples(self) -> list[Sample]:
        """Returns the first mistaken images, up to half of `SAMPLES`, then the first correct ones.

        If there are too few correct ones, mistaken ones fill the rest. No class exceeds its share.
        """
        wrong, right = self._samples[False], self._samples[True]
        mistaken = max(SAMPLES // 2, SAMPLES - len(right))
        return [*wrong[:mistaken], *right][:SAMPLES]

    def merged(self, images: int) -> Pairs | None:
        """Returns on host 0 the images of all hosts by label and predicted class; None on the others.

        Every host calls it, with the number of images in the set.

        Raises:
          RuntimeError: another number of images was added.
        """
        all_hosts = to_first("predictions", [[*pair, n] for pair, n in sorted(self._pairs.items())])
        if all_hosts is None:
            return None
        pairs: Pairs = Counter()
        for host in all_hosts:
            for label, predicted, n in host:
                pairs[label, predicted] += n
        if pairs.total() != images:
            raise RuntimeError(f"predictions of {pairs.total()} images in an evaluation of {images}")
        return pairs


def predictions_of(
    pairs: Pairs, samples: Sequence[Sample], *, step: int, class_names: Sequence[str]
) -> EvaluationPredictions:
    """Returns the predictions of an evaluation as a workdir keeps them, samples as PNG files."""
    images = images_by_class(pairs)
    return EvaluationPredictions(
        step=step,
        classes=tuple(class_names),
        confusions=tuple(most_confused(pairs)[:MOST_CONFUSIONS]),
        per_class=tuple((label, images[label], pairs[label, label]) for label in sorted(images)),
        samples=tuple(
            SampleImage(
                thumbnail(sample.image, longest_side=LONGEST_SIDE), sample.label, tuple(sample.predicted)
            )
            for sample in samples
        ),
    )


def most_confused(pairs: Pairs) -> list[tuple[int, int, int]]:
    """Returns label, predicted class and number of images of each confusion, most frequent first."""
    mistaken = [(*pair, n) for pair, n in pairs.items() if pair[0] != pair[1]]
    return sorted(mistaken, key=lambda confusion: (-confusion[2], *confusion[:2]))


def images_by_class(pairs: Pairs) -> Counter[int]:
    """Returns the number of images of each class."""
    images: Counter[int] = Counter()
    for (label, _), n in pairs.items():
        images[label] += n
    return images
