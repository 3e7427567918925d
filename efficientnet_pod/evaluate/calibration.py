"""The calibration of an evaluation: confidence and accuracy in bins, and the expected error."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from efficientnet_pod.pod.hosts import to_first
from efficientnet_pod.pod.mesh import of_this_host
from efficientnet_pod.run.metrics import TopClasses

BINS = 15


@dataclasses.dataclass(frozen=True)
class Bin:
    """The images whose first prediction has a probability above ``low`` and up to ``high``.

    Attributes:
      low: lower edge, outside the bin; but 0 belongs to the first bin.
      high: upper edge, inside the bin.
      images: number of images.
      confidence: mean probability of their first predictions; None without images.
      accuracy: share of images whose first prediction is right; None without images.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


class Calibration:
    """Probability and outcome of the first prediction of this host's images; padding is left out."""

    def __init__(self) -> None:
        """Begins with no image."""
        self._images, self._hits = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
        # Float64 sums of float32 probabilities are in practice exact, whatever the number of hosts.
        self._confidence = np.zeros(BINS)
        self._not_finite = 0

    def add(self, batch: Mapping[str, np.ndarray], predictions: TopClasses) -> None:
        """Adds a batch: this host's ``label`` and ``mask``.

        The predictions, on the devices, are those for the global batch.
        """
        classes, probabilities = map(of_this_host, (predictions.classes, predictions.probabilities))
        confidence = probabilities[:, 0].astype(np.float64)
        finite = np.isfinite(confidence)
        real = batch["mask"] > 0
        self._not_finite += int(np.sum(real & ~finite))
        real &= finite
        confidence, hits = confidence[real], (classes[:, 0] == batch["label"])[real]
        bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        self._images += np.bincount(bins, minlength=BINS)
        self._hits += np.bincount(bins[hits], minlength=BINS)
        self._confidence += np.bincount(bins, weights=confidence, minlength=BINS)

    def merged(self, images: int) -> tuple[Bin, ...] | None:
        """Returns on host 0 the bins of all hosts' images, in order; None on the others.

        Every host calls it, with the number of images in the set.

        Raises:
          ValueError: an image has no finite probability.
          RuntimeError: another number of images was added.
        """
        mine = [self._images.tolist(), self._hits.tolist(), self._confidence.tolist(), self._not_finite]
        all_hosts = to_first("calibration", mine)
        if all_hosts is None:
            return None
        if not_finite := sum(host[3] for host in all_hosts):
            raise ValueError(f"the probabilities of {not_finite:,} of {images:,} images are not finite")
        counts, hits, confidence = (np.sum([host[part] for host in all_hosts], 0) for part in range(3))
        if counts.sum() != images:
            raise RuntimeError(f"probabilities of {counts.sum()} images in an evaluation of {images}")
        edges = itertools.pairwise(number / BINS for number in range(BINS + 1))
        return tuple(
            Bin(low, high, int(n), float(total / n) if n else None, float(right / n) if n else None)
            for (low, high), n, right, total in zip(edges, counts, hits, confidence, strict=True)
        )


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Returns the mean difference of confidence and accuracy over the bins, weighted by their images; 0..1.

    Source: Guo et al., arXiv 1706.04599, equation 3; they use 15 bins of equal width.
    """
    gaps = [
        bin_.images * abs(bin_.confidence - bin_.accuracy)
        for bin_ in bins
        if bin_.confidence is not None and bin_.accuracy is not None
    ]
    return sum(gaps) / sum(bin_.images for bin_ in bins)
