"""Small images, prepared once and kept: the random choices of a whole epoch are drawn at once.

The idea of cifar10-fast: what is the same in every epoch (decoding, resizing, the border) is done before the
first, and what is random is a few numbers an image, drawn for all images by one call.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from efficientnet_pod.data.order import place_of_host
from efficientnet_pod.data.sources.opening import Source
from efficientnet_pod.data.stored import stored_images
from efficientnet_pod.data.transforms.image_ops import FILL
from efficientnet_pod.data.transforms.preprocess import Preprocessing
from efficientnet_pod.errors import UserError

MOST_BYTES = 8 << 30  # of prepared images in each host's memory


@dataclasses.dataclass(frozen=True)
class Draws:
    """What is random about an epoch, for all its images.

    Attributes:
      order: permutation of the images' numbers.
      top: row of the crop in the padded image, by image; as the following.
      left: column of the crop.
      flipped: mirrored.
      cut: (row, column) of the cut-out square's centre.
    """

    order: np.ndarray
    top: np.ndarray
    left: np.ndarray
    flipped: np.ndarray
    cut: np.ndarray

    @classmethod
    def of(cls, seed: int, epoch: int, count: int, how: Preprocessing) -> "Draws":
        """Returns those of an epoch, a function of the arguments alone."""
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
        shift, size = 2 * how.max_shift + 1, how.image_size
        return cls(
            order=rng.permutation(count),
            top=rng.integers(shift, size=count),
            left=rng.integers(shift, size=count),
            flipped=rng.random(count) < (0.5 if how.augment == "pad_crop_flip" else 0.0),
            cut=rng.integers(size, size=(count, 2)),
        )


class InMemory:
    """The endless training batches of one host, out of arrays.

    As of ``pipeline.train_batches``: places count the images of all hosts, each epoch is one permutation, and
    a run that enters anywhere sees what the uninterrupted run sees from there on. The draws are others.
    """

    def __init__(
        self,
        source: Source,
        how: Preprocessing,
        *,
        global_batch: int,
        first_image: int,
        seed: int,
        host_index: int = 0,
        host_count: int = 1,
    ):
        """Takes what ``pipeline.train_batches`` takes; nothing is read.

        Raises:
          UserError: the augmentation works on undecoded images, or the images do not fit in memory.
        """
        if how.augment == "inception_crop" or how.policy != "none":
            raise UserError(
                f"config.data.in_memory=True is for shift and pad_crop_flip without a policy, not for "
                f"config.data.augment={how.augment} with policy={how.policy}; use "
                "--config.data.in_memory=False"
            )
        side = how.image_size + 2 * how.max_shift
        needed = source.num_train * side * side * 3 * tf.as_dtype(how.dtype).size
        if needed > MOST_BYTES:
            raise UserError(
                f"config.data.in_memory=True would keep {needed / 2**30:.0f} GiB of images on each host; the "
                f"limit is {MOST_BYTES >> 30} GiB: use --config.data.in_memory=False"
            )
        self._source, self._how, self._seed = source, how, seed
        self._host = place_of_host(global_batch, host_index, host_count, first_image)

    def as_numpy_iterator(self) -> Iterator[dict[str, np.ndarray]]:
        """Returns an iterator over ``{"image": (host_batch, size, size, 3), "label": (host_batch,) int32}``.

        Raises:
          UserError: an image cannot be used.
        """
        images, labels = self._prepared()
        return self._batches(images, labels)

    def _batches(self, images: np.ndarray, labels: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        host, count, size = self._host, len(labels), self._how.image_size
        draws: dict[int, Draws] = {}
        # (image, row, column, channel, height, width): a view, of which a batch is one gather.
        windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(1, 2))
        first = host.first + host.index * host.batch
        while True:
            epochs, ranks = np.divmod(np.arange(first, first + host.batch), count)
            draws = {
                int(e): draws.get(int(e)) or Draws.of(self._seed, int(e), count, self._how)
                for e in np.unique(epochs)
            }
            parts = [self._augmented(windows, draws[e], ranks[epochs == e]) for e in draws]
            numbers = np.concatenate([part[0] for part in parts])
            yield {"image": np.concatenate([part[1] for part in parts]), "label": labels[numbers]}
            first += host.batch * host.count

    def _augmented(
        self, windows: np.ndarray, draws: Draws, ranks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numbers of the images at these places of an epoch, and the images."""
        numbers = draws.order[ranks]
        image = windows[numbers, draws.top[numbers], draws.left[numbers]].transpose(0, 2, 3, 1)
        flipped = draws.flipped[numbers]
        image = np.where(flipped[:, None, None, None], image[:, :, ::-1], image)
        if self._how.cutout:
            apart = np.abs(np.arange(self._how.image_size) - draws.cut[numbers][..., None] + 0.5)
            near = apart < self._how.cutout / 2  # (batch, axis, pixel)
            image[near[:, 0, :, None] & near[:, 1, None, :]] = FILL
        return numbers, np.ascontiguousarray(image)

    def _prepared(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all training images, resized and with a border, and their labels, in stored order."""
        images, labels = stored_images(self._source, self._how, self._source.num_train)
        border: Any = "constant" if self._how.augment == "shift" else "reflect"
        shift = self._how.max_shift
        return np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode=border), labels
