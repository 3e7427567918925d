"""Small images, prepared once and kept in memory; the random choices of an epoch are drawn at once.

This is the idea of cifar10-fast. Decoding, resizing and the border are the same in every epoch and are done
before the first one. The random part is a few numbers an image, drawn for all images by one call.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from efficientnet_pod.data.host_share import HostShare
from efficientnet_pod.data.sources.types import Source
from efficientnet_pod.data.stored import stored_images
from efficientnet_pod.data.transforms.image_ops import FILL
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.preprocessing import Preprocessing

MOST_BYTES = 8 << 30  # of prepared images in each host's memory


@dataclasses.dataclass(frozen=True)
class Draws:
    """The random choices of an epoch, for all its images, by number of the image.

    Attributes:
      order: (images,) permutation of the images' numbers.
      top: (images,) row of the crop in the padded image.
      left: (images,) column of the crop in the padded image.
      flipped: (images,) bool, whether the image is mirrored.
      cut: (images, 2) row and column of the cut-out square's centre.
    """

    order: np.ndarray
    top: np.ndarray
    left: np.ndarray
    flipped: np.ndarray
    cut: np.ndarray

    @classmethod
    def of(cls, seed: int, epoch: int, count: int, preprocessing: Preprocessing) -> "Draws":
        """Returns the choices of an epoch, a function of the arguments alone."""
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
        shift, size = 2 * preprocessing.max_shift + 1, preprocessing.image_size
        return cls(
            order=rng.permutation(count),
            top=rng.integers(shift, size=count),
            left=rng.integers(shift, size=count),
            flipped=rng.random(count) < (0.5 if preprocessing.augment == "pad_crop_flip" else 0.0),
            cut=rng.integers(size, size=(count, 2)),
        )


class InMemory:
    """The endless training batches of one host, out of arrays.

    The order is as in ``pipeline.train_batches``: places count the images of all hosts, each epoch is one
    permutation, and a run that enters anywhere sees the images that the uninterrupted run sees from there on.
    The random numbers are others.
    """

    def __init__(self, source: Source, preprocessing: Preprocessing, share: HostShare, *, seed: int):
        """Takes the arguments of ``pipeline.train_batches``; nothing is read.

        Raises:
          UserError: the images do not fit in memory.
        """
        assert preprocessing.augment != "inception_crop" and preprocessing.policy == "none", preprocessing
        side = preprocessing.image_size + 2 * preprocessing.max_shift
        needed = source.num_train * side * side * 3 * jnp.dtype(preprocessing.dtype).itemsize
        if needed > MOST_BYTES:
            raise UserError(
                f"config.data.in_memory=True would keep {needed / 2**30:.0f} GiB of images on each host; the "
                f"limit is {MOST_BYTES >> 30} GiB: use --config.data.in_memory=False"
            )
        self._source, self._preprocessing, self._share, self._seed = source, preprocessing, share, seed

    def as_numpy_iterator(self) -> Iterator[dict[str, np.ndarray]]:
        """Returns an iterator over ``{"image": (host_batch, size, size, 3), "label": (host_batch,) int32}``.

        Raises:
          UserError: an image cannot be used.
        """
        images, labels = stored_images(self._source, self._preprocessing, self._source.num_train)
        border: Any = "constant" if self._preprocessing.augment == "shift" else "reflect"
        shift = self._preprocessing.max_shift
        padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode=border)
        return self._batches(padded, labels)

    def _batches(self, images: np.ndarray, labels: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        count, size = len(labels), self._preprocessing.image_size
        draws: dict[int, Draws] = {}
        # (image, row, column, channel, height, width): a view, so that a batch is one gather.
        windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
        share = self._share
        while True:
            epochs, ranks = np.divmod(share.place(np.arange(share.host_batch)), count)
            draws = {
                int(e): draws.get(int(e)) or Draws.of(self._seed, int(e), count, self._preprocessing)
                for e in np.unique(epochs)
            }
            parts = [self._augmented(windows, draws[e], ranks[epochs == e]) for e in draws]
            numbers = np.concatenate([part[0] for part in parts])
            yield {"image": np.concatenate([part[1] for part in parts]), "label": labels[numbers]}
            share = share.later(1)

    def _augmented(
        self, windows: np.ndarray, draws: Draws, ranks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numbers of the images at these places of an epoch, and the images."""
        numbers = draws.order[ranks]
        image = windows[numbers, draws.top[numbers], draws.left[numbers]].transpose(0, 2, 3, 1)
        flipped = draws.flipped[numbers]
        image = np.where(flipped[:, None, None, None], image[:, :, ::-1], image)
        if self._preprocessing.cutout:
            distance = np.abs(np.arange(image.shape[1]) - draws.cut[numbers][..., None] + 0.5)
            near = distance < self._preprocessing.cutout / 2  # (batch, axis, pixel)
            image[near[:, 0, :, None] & near[:, 1, None, :]] = FILL
        return numbers, np.ascontiguousarray(image)
