"""A predictor of a few images: arrays or files in, probabilities of all classes out."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.inputs import mean_with_mirror
from efficientnet_pod.pod.cpu import inference_options
from efficientnet_pod.recipe.preprocessing import Preprocessing
from efficientnet_pod.weights.trained import Trained


class Predictor:
    """A trained network, ready to look at images: float32, on one device. ``trained`` are its weights.

    :func:`efficientnet_pod.evaluate.weights.evaluate_path` evaluates a large set on all devices.
    """

    def __init__(self, trained: Trained, *, batch: int = 32, flip: bool = False) -> None:
        """Takes the weights; compiles at the first image.

        Args:
          trained: the weights, with the size and view of their images.
          batch: images at a time; a smaller number is padded, so that one program is compiled.
          flip: average the logits of each image and its mirror image.

        Raises:
          UserError: the batch is empty.
        """
        if batch < 1:
            raise UserError(f"a batch of {batch} images is none; give 1 or more")
        self.trained, self._batch = trained, batch
        self._variables = jax.tree.map(jnp.asarray, dict(trained.variables))
        model: Any = trained.model  # what `apply` returns depends on its arguments

        def predict(variables: Any, images: jax.Array) -> jax.Array:
            apply = partial(model.apply, variables, train=False)
            logits = mean_with_mirror(apply, trained.normalise(images), flip=flip)
            return jax.nn.softmax(logits.astype(jnp.float32))

        self._predict: Any = jax.jit(predict, compiler_options=inference_options())

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability of each class, float32 (images, classes).

        Images are levels of 0..255, of any real dtype, (images, height, width, 3); raises UserError for
        another shape.
        """
        if images.ndim != 4 or images.shape[3] != 3:
            raise UserError(
                f"images of shape {images.shape} cannot be predicted; it must be (images, height, width, 3), "
                "levels of 0..255: of one image take image[None]"
            )
        batches = [np.zeros((0, self.trained.num_classes), np.float32)]
        for first in range(0, len(images), self._batch):
            part = images[first : first + self._batch]
            padding = np.zeros((self._batch - len(part), *part.shape[1:]), part.dtype)
            with jax.default_matmul_precision("float32"):  # a TPU's own choice is bfloat16
                result = self._predict(self._variables, np.concatenate([part, padding]))
            batches.append(np.asarray(result)[: len(part)])
        return np.concatenate(batches)

    def of_files(self, paths: Sequence[str]) -> Iterator[tuple[str, np.ndarray | str]]:
        """Yields each path, in order, with its probabilities (classes,), or with the reason, in one line.

        Files are decoded, cropped and resized as evaluation does it, some ahead of the network.
        """
        from efficientnet_pod.data.image_files import decode_files  # TensorFlow takes seconds to import

        images = decode_files(paths, self.preprocessing)
        while batch := list(islice(images, self._batch)):
            usable = [image for _, image in batch if not isinstance(image, str)]
            rows = iter(self.probabilities(np.stack(usable)) if usable else ())
            for path, image in batch:
                yield path, image if isinstance(image, str) else next(rows)

    @property
    def preprocessing(self) -> Preprocessing:
        """Decoding, crop and size of a file, as in evaluation."""
        trained = self.trained
        same = ("image_size", "augment", "resize", "exif", "eval_crop", "eval_crop_share")
        return Preprocessing(**{name: getattr(trained, name) for name in same})
