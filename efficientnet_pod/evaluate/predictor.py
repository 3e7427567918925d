"""What a trained network takes images for: arrays or files in, probabilities of all classes out."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.inputs import mean_with_mirror
from efficientnet_pod.weights.trained import Trained


class Predictor:
    """A trained network, ready to look at images: float32, on one device.

    To evaluate a large set on all devices there is :func:`efficientnet_pod.evaluate.evaluate.evaluate`.
    """

    def __init__(self, trained: Trained, *, batch: int = 32, flip: bool = False) -> None:
        """Takes the weights; compiles at the first image.

        Args:
          trained: the weights, and what they were trained to see.
          batch: images at a time; fewer are padded, so that one program is compiled.
          flip: average the logits of each image and its mirror image.

        Raises:
          UserError: the batch is empty.
        """
        if batch < 1:
            raise UserError(f"a batch of {batch} images is none; give 1 or more")
        self._trained, self._batch, self._flip = trained, batch, flip
        self._variables = jax.tree.map(jnp.asarray, dict(trained.variables))

    @property
    def trained(self) -> Trained:
        """The weights."""
        return self._trained

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability of each class, float32 (images, classes).

        Args:
          images: levels of 0..255, of any real dtype, (images, height, width, 3).

        Raises:
          UserError: they have another shape.
        """
        if images.ndim != 4 or images.shape[3] != 3:
            raise UserError(
                f"images of shape {images.shape} cannot be predicted; it must be (images, height, width, 3), "
                "levels of 0..255: of one image take image[None]"
            )
        found = [np.zeros((0, self._trained.num_classes), np.float32)]
        for first in range(0, len(images), self._batch):
            part = images[first : first + self._batch]
            padding = np.zeros((self._batch - len(part), *part.shape[1:]), part.dtype)
            with jax.default_matmul_precision("float32"):  # a TPU's own choice is bfloat16
                result = self._predict(self._variables, np.concatenate([part, padding]))
            found.append(np.asarray(result)[: len(part)])
        return np.concatenate(found)

    def of_files(self, paths: Sequence[str]) -> Iterator[tuple[str, np.ndarray | str]]:
        """Yields each path, in order, with the probabilities (classes,), or why there are none, in one line.

        Files are decoded, cropped and resized as evaluation does it, the next ones while these are computed.

        Args:
          paths: JPEG or PNG files.
        """
        from efficientnet_pod.data.image_files import decoded  # TensorFlow takes seconds to import

        kept: list[tuple[str, np.ndarray | str]] = []
        images: list[np.ndarray] = []
        for path, image in decoded(paths, self.preprocessing):
            kept.append((path, image if isinstance(image, str) else ""))
            if not isinstance(image, str):
                images.append(image)
            if len(images) == self._batch:
                yield from self._with_probabilities(kept, images)
                kept, images = [], []
        yield from self._with_probabilities(kept, images)

    @cached_property
    def preprocessing(self) -> Any:
        """What happens to a file: a ``data.preprocess.Preprocessing``, that of evaluation."""
        from efficientnet_pod.data.transforms.preprocess import Preprocessing

        return Preprocessing(
            image_size=self._trained.image_size,
            augment=self._trained.augment,
            resize=self._trained.resize,
        )

    def _with_probabilities(
        self, kept: Sequence[tuple[str, np.ndarray | str]], images: Sequence[np.ndarray]
    ) -> Iterator[tuple[str, np.ndarray | str]]:
        """Yields what was kept, in order: faults as they are, and the images' probabilities."""
        found = iter(self.probabilities(np.stack(images)) if images else ())
        for path, fault in kept:
            yield path, fault if len(fault) else next(found)

    @cached_property
    def _predict(self) -> Any:
        model: Any = self._trained.model  # what `apply` returns depends on its arguments
        normalise = self._trained.normalise

        def predict(variables: Any, images: jax.Array) -> jax.Array:
            apply = partial(model.apply, variables, train=False)
            logits = mean_with_mirror(apply, normalise(images), flip=self._flip)
            return jax.nn.softmax(logits.astype(jnp.float32))

        return jax.jit(predict)
