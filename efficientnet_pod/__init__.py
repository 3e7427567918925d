"""Train EfficientNet data-parallel, from a laptop to a TPU pod; use the weights in a notebook.

    import efficientnet_pod as ep

    tuned = ep.fine_tune("photos", weights="weights/b0", workdir="runs/photos")
    tuned.predictor()("cat.jpg")

Importing this is light: it imports neither JAX nor TensorFlow and starts no backend; the functions do, at
their first call. A path of weights is a workdir, a folder of weights, a file of Keras, timm or TensorFlow, or
``hf:OWNER/NAME``. An error that the user can correct is a :class:`UserError` of one line: what is wrong, the
value, the remedy, which may be named as the command line has it (``--config.epochs=5`` is ``epochs=5`` here).
"""

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from efficientnet_pod.errors import RunError, UserError
from efficientnet_pod.pod.version import VERSION

if TYPE_CHECKING:
    import numpy as np

    from efficientnet_pod.data.image_files import Photo
    from efficientnet_pod.evaluate.predictor import Predictor
    from efficientnet_pod.evaluate.summary import Evaluation
    from efficientnet_pod.train.fine_tune import FineTuned
    from efficientnet_pod.weights.trained import Trained

__version__ = VERSION
__all__ = [
    "RunError",
    "UserError",
    "evaluate",
    "fine_tune",
    "load",
    "pixels",
    "predictor",
    "trained",
]

AnyPath = str | os.PathLike[str]


def load(path: AnyPath, *, checkpoint: str | int = "best", raw: bool = False) -> tuple[Any, dict[str, Any]]:
    """Returns a network and its trained variables, ready for ``model.apply``.

    >>> import jax
    >>> import numpy as np
    >>> import efficientnet_pod as ep
    >>> model, variables = ep.load("weights/b0")
    >>> apply = jax.jit(model.apply, static_argnames="train")
    >>> trained = ep.trained("weights/b0")  # the same, with what it was trained to see
    >>> levels = np.zeros((1, trained.image_size, trained.image_size, 3), np.uint8)
    >>> logits = apply(variables, trained.normalise(levels), train=False)
    >>> logits.shape == (1, trained.num_classes)
    True

    Args:
      path: a workdir, a folder of weights, a file of Keras, timm or TensorFlow, or ``hf:OWNER/NAME``.
      checkpoint: of a workdir: ``best``, ``latest`` or a step.
      raw: the weights themselves where averages over the training are kept beside them.

    Returns:
      The Flax module, float32, and ``{"params": …, "batch_stats": …}`` of numpy arrays.

    Raises:
      UserError: there is nothing of the kind, or it is damaged; the message says what to do.
    """
    weights = trained(path, checkpoint=checkpoint, raw=raw)
    return weights.model, dict(weights.variables)


def trained(path: AnyPath, *, checkpoint: str | int = "best", raw: bool = False) -> "Trained":
    """Returns trained weights with all that is needed to use them; arguments and errors as of :func:`load`.

    Its ``class_names``, ``image_size``, ``mean_rgb``, ``stddev_rgb`` say how an image is shown to the network
    and what its logits mean.

    >>> import efficientnet_pod as ep
    >>> ep.trained("weights/b0")  # doctest: +ELLIPSIS
    Trained(EfficientNet-B0: 3 classes (cat, dog, horse), images of 32 px, ... parameters, from b0.h5)
    """
    from efficientnet_pod.pod.runtime import take_cpu_alone
    from efficientnet_pod.weights.open import open_weights

    take_cpu_alone()
    return open_weights(os.fspath(path), which=str(checkpoint), raw=raw)


def predictor(
    path: AnyPath, *, checkpoint: str | int = "best", raw: bool = False, batch: int = 32, flip: bool = False
) -> "Predictor":
    """Returns what looks at images with trained weights; path, checkpoint and raw as of :func:`load`.

    Called, it takes images of any size: paths, PIL images, uint8 arrays (height, width, 3), or a list of
    them, mixed. It decodes, crops and resizes them as evaluation and the command ``predict`` do, and returns
    for each the ``top`` most probable classes, 5 by default, with their probabilities.

    >>> import numpy as np
    >>> import PIL.Image
    >>> import efficientnet_pod as ep
    >>> predictor = ep.predictor("weights/b0")
    >>> photo = PIL.Image.open("cat.jpg")
    >>> of_file, of_photo, of_array = predictor(["cat.jpg", photo, np.asarray(photo)], top=2)
    >>> len(of_file.names), len(of_file.probabilities)
    (2, 2)
    >>> of_file.names == of_photo.names == of_array.names
    True

    Of a PIL image grey, palettes and CMYK become RGB, transparency is dropped, 16 bits are reduced to 8, and
    EXIF turns it where it turns files. A photo and its file give the same pixels, with two exceptions: a JPEG
    file is decoded no further than its crop, so the outermost two columns of some may differ; and weights of
    ``resize="fast"`` see other pixels of large JPEG files.

    ``features`` are what the classifier sees, for retrieval and linear probes: float32 (images, channels).

    >>> predictor.features(["cat.jpg", photo]).shape == (2, predictor.trained.num_features)
    True

    ``probabilities`` takes what the network takes, levels of 0..255, and returns float32 (images, classes);
    ``of_files`` yields them file by file, and the reason for a file that cannot be used.

    >>> size = predictor.trained.image_size
    >>> predictor.probabilities(np.zeros((2, size, size, 3), np.uint8)).shape
    (2, 3)

    Args:
      path: weights.
      checkpoint: of a workdir.
      raw: whether to take weights that are not averaged.
      batch: images at a time; fewer are padded, so that one program is compiled.
      flip: whether to average each image and its mirror image.

    Raises:
      UserError: as of :func:`load`; when called, an image that cannot be used: a file that is none, an array
        that is grey, RGBA or not uint8.
    """
    from efficientnet_pod.evaluate.predictor import Predictor

    return Predictor(trained(path, checkpoint=checkpoint, raw=raw), batch=batch, flip=flip)


def pixels(image: "Photo", trained: "Trained") -> "np.ndarray":
    """Returns an image as exported programs (StableHLO, ONNX) take it: uint8 (height, width, 3), 0..255.

    It is decoded, cropped and resized as by the command ``predict``, which keeps the fractions that are
    rounded here. An ONNX program takes it as float32.

    >>> import efficientnet_pod as ep
    >>> trained = ep.trained("weights/b0")
    >>> levels = ep.pixels("cat.jpg", trained)
    >>> levels.shape, levels.dtype
    ((32, 32, 3), dtype('uint8'))
    >>> trained.program()(levels[None]).shape  # as an exported program: (images, classes)
    (1, 3)

    Args:
      image: a path, a PIL image or a uint8 array (height, width, 3), of any size.
      trained: the weights, which say how they see an image.

    Raises:
      UserError: it is no image; the message says what to do.
    """
    from efficientnet_pod.evaluate.predictor import pixels_of

    return pixels_of(image, trained)


def evaluate(
    path: AnyPath,
    data: str | None = None,
    *,
    split: str | None = None,
    checkpoint: str | int = "best",
    raw: bool = False,
    batch: int | None = None,
    image_size: int | None = None,
    flip: bool | None = None,
    exif: str | None = None,
    data_dir: str | None = None,
) -> "Evaluation":
    """Returns what the command ``evaluate`` prints: weights on a whole set, each image counted once.

    It has ``top1`` and ``top5`` (0..1), ``loss`` (nats), ``images``, ``per_class`` (label, name, images,
    hits, accuracy), ``confusions``, ``calibration`` (bins), ``ece`` (0..1); ``print()`` and ``as_json()``.

    >>> import efficientnet_pod as ep
    >>> evaluation = ep.evaluate("weights/b0", "folder:photos", split="all")
    >>> evaluation.images, [(row.name, row.images) for row in evaluation.per_class]
    (40, [('cat', 20), ('dog', 20), ('horse', 0)])
    >>> evaluation.top1 == sum(row.hits for row in evaluation.per_class) / 40
    True

    Args:
      path: weights; path, checkpoint and raw as of :func:`load`.
      data: images by the names of ``config.data.name``: ``"folder:/photos"``, ``"digits"``, a data set of
        TFDS; None takes the images of a workdir's recipe.
      split: split of the images; ``"all"`` takes every image of a folder without split folders.
      checkpoint: of a workdir.
      raw: whether to take weights that are not averaged.
      batch: images at a time, all replicas together.
      image_size: height and width in pixels; None for the weights'.
      flip: whether to average each image and its mirror image; None for as the recipe has it.
      exif: ``ignored`` or ``respected``; None for as the weights were trained.
      data_dir: folder of TFDS's data.

    Raises:
      UserError: there are no such weights or images, or their classes differ.
    """
    from efficientnet_pod.evaluate.overrides import Overrides
    from efficientnet_pod.evaluate.weights import evaluate_path

    evaluation = evaluate_path(
        os.fspath(path),
        Overrides(data, data_dir, split, batch, image_size, flip, exif),
        checkpoint=str(checkpoint),
        raw=raw,
        warn=lambda warning: print(f"warning: {warning}", file=sys.stderr),
    )
    assert evaluation, "of several hosts, the first one has it"
    return evaluation


def fine_tune(folder: AnyPath, *, weights: AnyPath, workdir: AnyPath, **fields: Any) -> "FineTuned":
    """Trains weights on to tell a folder of your own photos apart; returns the run when it has ended.

    It is the recipe ``configs/finetune.py``, whose network follows from the weights, and prints what the
    command ``train`` prints. A finished run is returned as it is; one that was stopped goes on.

    >>> import efficientnet_pod as ep
    >>> tuned = ep.fine_tune(
    ...     "photos",
    ...     weights="weights/b0",
    ...     workdir="runs/photos",
    ...     epochs=1,
    ...     global_batch=8,
    ...     **{"data.image_size": 32, "optimizer.sgd.lr_per_256": 0.01},
    ... )  # doctest: +ELLIPSIS
    replicas=auto: ...
    >>> tuned  # doctest: +ELLIPSIS
    FineTuned(runs/photos: top-1 ...% of 4 images at step 4)
    >>> tuned.predictor()("cat.jpg")[0].names[0] in ("cat", "dog")
    True

    Ctrl-C, in the main thread, where notebooks run their cells, saves and raises KeyboardInterrupt: the same
    call goes on. In another thread it is not heard, and the run goes on to its end.

    Args:
      folder: photos, a folder a class; or ``train`` and ``validation`` with such folders. Without them a
        fixed tenth of each class is held out.
      weights: trained weights; a path as of :func:`load`.
      workdir: folder of the run, new or begun by the same call; afterwards a path of weights.
      fields: other fields of the recipe, by dotted name: ``epochs=5``.

    Raises:
      UserError: there are no such weights, photos or fields, or they do not suit each other.
      RunError: the run cannot go on, such as a loss that is not finite.
    """
    from efficientnet_pod.train.fine_tune import fine_tune

    paths = {"weights": os.fspath(weights), "workdir": os.fspath(workdir)}
    return fine_tune(os.fspath(folder), **paths, fields=fields)


class _Package(ModuleType):
    """This package, in which :func:`evaluate` stays a function when the room of its name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "evaluate" or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
