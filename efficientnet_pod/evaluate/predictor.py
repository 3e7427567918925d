"""A predictor of a few images: files or photos in memory in, classes with probabilities or features out."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.features import features_of
from efficientnet_pod.models.inputs import mean_with_mirror
from efficientnet_pod.pod.cpu import compiler_options
from efficientnet_pod.recipe.preprocessing import Preprocessing
from efficientnet_pod.weights.trained import Trained

if TYPE_CHECKING:  # which imports TensorFlow
    from efficientnet_pod.data.image_files import Photo


@dataclasses.dataclass(frozen=True, repr=False)
class Prediction:
    """The most probable classes of an image, best first; of equal ones the lower label.

    Attributes:
      names: names of the classes, or their numbers where they have no names.
      probabilities: probability of each, 0..1.
      labels: number of each.
    """

    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    labels: tuple[int, ...]

    def __repr__(self) -> str:
        return f"Prediction({self})"

    def __str__(self) -> str:
        pairs = zip(self.names, self.probabilities, strict=True)
        return ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in pairs)

    def as_json(self) -> list[dict[str, Any]]:
        """Returns ``label``, ``name`` and ``probability`` of the classes."""
        rows = zip(self.labels, self.names, self.probabilities, strict=True)
        return [dict(zip(("label", "name", "probability"), row, strict=True)) for row in rows]


class Predictor:
    """A trained network, ready to look at images: float32, on one device. ``trained`` are its weights.

    :func:`efficientnet_pod.evaluate.weights.evaluate_path` evaluates a large set on all devices.
    """

    def __init__(self, trained: Trained, *, batch: int = 32, flip: bool = False) -> None:
        """Takes the weights; compiles at the first image.

        Args:
          trained: the weights, with the size and view of their images.
          batch: images at a time; a smaller number is padded, so that one program is compiled.
          flip: average the logits, or the features, of each image and its mirror image.

        Raises:
          UserError: the batch is empty.
        """
        if batch < 1:
            raise UserError(f"a batch of {batch} images is none; give 1 or more")
        self.trained, self._batch = trained, batch
        self._variables = jax.device_put(dict(trained.variables))
        model: Any = trained.model  # what `apply` returns depends on its arguments

        def predict(variables: Any, images: jax.Array) -> jax.Array:
            apply = partial(model.apply, variables, train=False)
            logits = mean_with_mirror(apply, trained.normalise(images), flip=flip)
            return jax.nn.softmax(logits.astype(jnp.float32))

        def features(variables: Any, images: jax.Array) -> jax.Array:
            return mean_with_mirror(
                partial(features_of, model, variables), trained.normalise(images), flip=flip
            )

        compiled = partial(jax.jit, compiler_options=compiler_options(jax.default_backend()))
        self._predict, self._features = compiled(predict), compiled(features)

    def __repr__(self) -> str:
        return f"Predictor({self.trained!r}, {self._batch} images at a time)"

    def __call__(self, images: "Photo | Iterable[Photo]", *, top: int = 5) -> list[Prediction]:
        """Returns a :class:`Prediction` of each image, with the names of its ``top`` most probable classes.

        Images are seen as by the command ``predict``: decoded, cropped and resized as in evaluation.

        Args:
          images: one image or several, mixed, of any size: paths; PIL images; uint8 arrays (height, width,
            3), also stacked in one. See :func:`.image_files.decode_images`.
          top: number of classes to name.

        Raises:
          UserError: there is no such image; :meth:`of_files` goes on behind it.
        """
        return [self.most_probable(row, top=top) for row in self._rows_of(images, self._predict)]

    def features(self, images: "Photo | Iterable[Photo]") -> np.ndarray:
        """Returns the pooled features before the classifier, float32 (images, channels).

        The logits are ``features @ kernel + bias`` of the layer ``classifier``, but for the networks of
        CIFAR, which scale them. Images and errors as of calling the predictor.
        """
        rows = self._rows_of(images, self._features)
        return np.stack(rows) if rows else np.zeros((0, self.trained.num_features), np.float32)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability of each class, float32 (images, classes).

        Images are levels of 0..255, of any real dtype, (images, height, width, 3), which the network takes
        as they are; raises UserError for another shape.
        """
        if images.ndim != 4 or images.shape[3] != 3:
            raise UserError(
                f"images of shape {images.shape} cannot be predicted; it must be (images, height, width, 3), "
                "levels of 0..255: of one image take image[None]"
            )
        empty = np.zeros((0, self.trained.num_classes), np.float32)
        return np.concatenate([empty, *self._batches(images, self._predict)])

    def of_files(self, paths: Sequence[str]) -> Iterator[tuple[str, np.ndarray | str]]:
        """Yields each path, in order, with its probabilities (classes,), or with the reason, in one line.

        Files are decoded, cropped and resized as evaluation does it, some ahead of the network.
        """
        for path, row in self._of(paths, self._predict):
            yield str(path), row

    def most_probable(self, probabilities: np.ndarray, *, top: int = 5) -> Prediction:
        """Returns the ``top`` most probable classes, or all that there are, of probabilities (classes,)."""
        if top < 1:
            raise UserError(f"top={top} names no class; give 1 or more")
        labels = (-probabilities).argsort(kind="stable")[:top].tolist()
        names = tuple(map(self.trained.label, labels))
        return Prediction(names, tuple(probabilities[labels].tolist()), tuple(labels))

    @property
    def preprocessing(self) -> Preprocessing:
        """Decoding, crop and size of a file, as in evaluation."""
        return preprocessing_of(self.trained)

    def _rows_of(self, images: Any, program: Any) -> list[np.ndarray]:
        """Returns the row of each image; raises UserError for one that cannot be used."""
        rows = []
        for number, (image, row) in enumerate(self._of(_listed(images), program)):
            if isinstance(row, str):
                raise UserError(f"{_named(image, number)}: {row}")
            rows.append(row)
        return rows

    def _of(self, images: Iterable["Photo"], program: Any) -> Iterator[tuple["Photo", np.ndarray | str]]:
        """Yields each image with its row of the program's result, or with the reason why there is none."""
        from efficientnet_pod.data.image_files import decode_images  # TensorFlow takes seconds to import

        decoded = decode_images(images, self.preprocessing)
        while batch := list(islice(decoded, self._batch)):
            usable = [pixels for _, pixels in batch if not isinstance(pixels, str)]
            rows = iter(np.concatenate(list(self._batches(np.stack(usable), program))) if usable else ())
            for image, pixels in batch:
                yield image, pixels if isinstance(pixels, str) else next(rows)

    def _batches(self, images: np.ndarray, program: Any) -> Iterator[np.ndarray]:
        """Yields the program's results for batch after batch of pixels, padding left out."""
        for first in range(0, len(images), self._batch):
            part = images[first : first + self._batch]
            padding = np.zeros((self._batch - len(part), *part.shape[1:]), part.dtype)
            with jax.default_matmul_precision("float32"):  # a TPU's own choice is bfloat16
                result = program(self._variables, np.concatenate([part, padding]))
            yield np.asarray(result)[: len(part)]


def preprocessing_of(trained: Trained, dtype: str = "float32") -> Preprocessing:
    """Returns the decoding, crop and size of an image, as in the evaluation of these weights."""
    same = ("image_size", "augment", "resize", "exif", "eval_crop", "eval_crop_share")
    return Preprocessing(**{name: getattr(trained, name) for name in same}, dtype=dtype)


def pixels_of(image: "Photo", trained: Trained) -> np.ndarray:
    """Returns an image as exported programs take it, uint8 (image_size, image_size, 3), levels of 0..255.

    They are the pixels of the command ``predict``, in whole levels.

    Raises:
      UserError: there is no such image.
    """
    from efficientnet_pod.data.image_files import decode_images  # TensorFlow takes seconds to import

    [(_, pixels)] = decode_images([image], preprocessing_of(trained, "uint8"))
    if isinstance(pixels, str):
        raise UserError(f"{_named(image)}: {pixels}")
    return pixels


def _listed(images: Any) -> Iterable[Any]:
    """Returns the images one by one; an array with four axes, or of paths, holds several."""
    if isinstance(images, np.ndarray):
        is_several = images.ndim == 4 or images.dtype.kind in "OU"
    else:
        is_several = isinstance(images, Iterable) and not isinstance(images, str | bytes | os.PathLike)
    return images if is_several else [images]


def _named(image: Any, number: int | None = None) -> str:
    """Returns the path of an image, or its place among the others, for messages."""
    if isinstance(image, str | os.PathLike):
        return f"'{os.fspath(image)}'"
    return "the image" if number is None else f"image {number}"
