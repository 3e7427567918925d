"""AutoAugment v0, RandAugment and Cutout: an image's operations and their strengths, drawn from its seed.

Source of table, arguments and constants: tensorflow/tpu, models/official/efficientnet/autoaugment.py. Its
faults are corrected here; ``reference_bugs`` brings them back:

* Contrast blends with pixels / 256 instead of the mean level (image_ops.contrast).
* Posterize keeps 1 to 4 bits, so that AutoAugment makes images black and white (``_argument``).
* RandAugment's Posterize and Solarize grow weaker with the magnitude (``_argument``).
* Numbers of Posterize and Solarize are bytes that overflow: from level 10 on Solarize inverts all levels from
  (threshold - 256) on, and from 22.5 on Posterize keeps one bit (``_argument``).
* Levels are truncated to whole numbers before a policy, not rounded (preprocess.train_image).
* Lengths are the same at every image size: 225 pixels blank an image of 224 (``_Lengths``).

The rounding of colours stays Pillow's: the grey of Color, the smoothed levels of Sharpness and the stretched
ones of AutoContrast are a level lower in the released code here and there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.transforms import image_ops
from efficientnet_pod.data.transforms.xla import compiled

# In the released order. RandAugment draws one of them per layer, each with the same probability.
OPS = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast"),
    *("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd"),
)
_IDENTITY = len(OPS)

# One row per sub-policy: two operations in order, each with its probability and its level of 0..10.
# Source: Cubuk et al., AutoAugment (arXiv:1805.09501), as released with EfficientNet under the name "v0".
AUTOAUGMENT_V0 = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)


class _Lengths(NamedTuple):
    """Pixels of level 10, for images of ``image_size`` pixels and more; in proportion for smaller ones."""

    translate: float
    cutout: float  # half of the square's side
    image_size: int

    def scaled(self, image_size: int, reference_bugs: bool) -> _Lengths:
        scale = 1.0 if reference_bugs else min(1.0, image_size / self.image_size)
        return _Lengths(self.translate * scale, self.cutout * scale, image_size)


# 331 pixels: the image size to which readers refer the paper's limit of 150 pixels (tensorflow/tpu#637); the
# code has 250 and no size. 224 pixels: the smallest network's, at which RandAugment's 100 are in proportion.
_AUTOAUGMENT_LENGTHS = _Lengths(translate=250, cutout=100, image_size=331)
_RANDAUGMENT_LENGTHS = _Lengths(translate=100, cutout=40, image_size=224)


def apply_policy(
    image: tf.Tensor, seed: tf.Tensor, *, name: str, layers: int, magnitude: float, reference_bugs: bool
) -> tf.Tensor:
    """Returns the image after the operations that the policy draws for ``seed``; uint8, of the same shape.

    ``image`` is uint8 (height, width, 3) with a static shape; equal ``seed`` pairs (int64, shape (2,)) give
    equal results. The policies:

    * ``none``: the image itself.
    * ``autoaugment``: one of the 25 rows of AUTOAUGMENT_V0. ``layers`` and ``magnitude`` mean nothing to it.
    * ``randaugment``: ``layers`` draws out of OPS, each at ``magnitude``, which may be fractional; 10 is the
      strongest that AutoAugment's search knew, and more is extrapolated. Source: arXiv:1909.13719.
    """
    if name == "none":
        return image
    if name == "autoaugment":
        layers, magnitude = 2, 0.0
    # Drawn outside of the compiled program, so that they are TensorFlow's own numbers.
    draws = tf.random.stateless_uniform([layers, _DRAWS], seed)
    program = _program(name, float(magnitude), tuple(image.shape), reference_bugs)
    return tf.ensure_shape(program(image, draws), image.shape)


def cutout(image: tf.Tensor, seed: tf.Tensor, *, size: int) -> tf.Tensor:
    """Returns the image with a grey (128) square of ``size`` pixels a side, cut off at the border.

    It reaches from centre - size / 2 to centre + size / 2 - 1; the centre is uniform over the pixels of the
    image, so that on average less than a whole square is covered. The released code asks for half the side.
    ``image`` is uint8 (height, width, 3) with a static shape, ``size`` a positive even number. Equal ``seed``
    pairs give equal results.
    """
    assert size > 0 and size % 2 == 0, size
    return tf.ensure_shape(
        _cutout(image, tf.random.stateless_uniform([2], seed), tf.constant(size)), image.shape
    )


# Random numbers of a layer: its operation, whether it is applied, and two for the operation itself.
_DRAWS = 4


@functools.cache
def _program(name: str, magnitude: float, shape: tuple[int, ...], reference_bugs: bool) -> Callable:
    """Returns a compiled function of (image, draws); the same one for the same arguments, to compile once."""
    size = min(shape[:2])
    if name == "autoaugment":
        lengths = _AUTOAUGMENT_LENGTHS.scaled(size, reference_bugs)
        choose = _autoaugment_choice(lengths, reference_bugs)
    else:
        lengths = _RANDAUGMENT_LENGTHS.scaled(size, reference_bugs)
        choose = _randaugment_choice(magnitude, lengths, reference_bugs)

    def program(image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        ops, arguments = choose(draws)

        def layer(number: tf.Tensor, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            own_draws = tf.gather(draws, number)[2:]
            image = _apply_op(
                image, tf.gather(ops, number), tf.gather(arguments, number), own_draws, reference_bugs
            )
            return number + 1, image

        # A loop, although its length is known, has each operation once in the program.
        return tf.while_loop(lambda number, _: number < draws.shape[0], layer, (tf.constant(0), image))[1]

    return compiled(program)


Choice: TypeAlias = "Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]"


def _autoaugment_choice(lengths: _Lengths, reference_bugs: bool) -> Choice:
    """Returns a function from draws to the operations' numbers in OPS and their arguments, for each layer."""
    table = [
        (OPS.index(op), probability, _argument(op, level, lengths, False, reference_bugs))
        for row in AUTOAUGMENT_V0
        for op, probability, level in row
    ]
    numbers, probabilities, arguments = np.reshape(table, (-1, 2, 3)).transpose(2, 0, 1)

    def choose(draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Gathered, not sliced: for a slice at a drawn place the compiler makes a program for each place.
        row = tf.cast(draws[0, 0] * len(AUTOAUGMENT_V0), tf.int32)
        applied = draws[:, 1] < tf.gather(tf.constant(probabilities, tf.float32), row)
        ops = tf.where(applied, tf.gather(tf.constant(numbers, tf.int32), row), _IDENTITY)
        return ops, tf.gather(tf.constant(arguments, tf.float32), row)

    return choose


def _randaugment_choice(magnitude: float, lengths: _Lengths, reference_bugs: bool) -> Choice:
    """Returns a function from draws to the operations' numbers in OPS and their arguments, for each layer."""
    arguments = [_argument(op, magnitude, lengths, True, reference_bugs) for op in OPS]

    def choose(draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        ops = tf.cast(draws[:, 0] * len(OPS), tf.int32)
        return ops, tf.gather(tf.constant(arguments, tf.float32), ops)

    return choose


def _argument(op: str, level: float, lengths: _Lengths, harder: bool, reference_bugs: bool) -> float:
    """Returns the operation's argument at a level: degrees, bits, a threshold, a factor, a slope or pixels.

    With ``harder`` every operation grows stronger with the level, but an enhancement goes from 0.1 to 1.9.
    """
    strength = level / 10
    if op == "Posterize":
        bits = int(strength * 4)
        if reference_bugs:  # a shift by 8 - bits, a byte; TensorFlow shifts by 7 at most
            return 8 - min((8 - bits) % 256, 7)
        return max(8 - bits, 1) if harder else 4 + bits  # the paper says 4 to 8 bits
    if op == "Solarize":
        threshold = int(strength * 256)
        if reference_bugs:
            return threshold % 256  # a byte
        # The released threshold suits AutoAugment, whose search used it; RandAugment at 10 would do nothing.
        return max(256 - threshold, 0) if harder else threshold
    if op == "SolarizeAdd":
        return int(strength * 110)
    if op in ("Color", "Contrast", "Brightness", "Sharpness"):
        return strength * 1.8 + 0.1
    if op in ("TranslateX", "TranslateY"):
        return strength * lengths.translate
    if op == "Cutout":
        return 2 * int(strength * lengths.cutout)
    return strength * {"Rotate": 30, "ShearX": 0.3, "ShearY": 0.3}.get(op, 0)


def _apply_op(
    image: tf.Tensor, op: tf.Tensor, argument: tf.Tensor, draws: tf.Tensor, reference_bugs: bool
) -> tf.Tensor:
    """Returns the image after operation number ``op``; ``draws`` are two random numbers in 0..1."""
    signed = tf.where(draws[0] < 0.5, argument, -argument)
    functions = {
        "AutoContrast": lambda: image_ops.autocontrast(image),
        "Equalize": lambda: image_ops.equalize(image),
        "Invert": lambda: image_ops.invert(image),
        "Rotate": lambda: image_ops.rotate(image, signed),
        "Posterize": lambda: image_ops.posterize(image, argument),
        "Solarize": lambda: image_ops.solarize(image, argument),
        "SolarizeAdd": lambda: image_ops.solarize_add(image, argument),
        "Color": lambda: image_ops.color(image, argument),
        "Contrast": lambda: image_ops.contrast(image, argument, reference_bugs=reference_bugs),
        "Brightness": lambda: image_ops.brightness(image, argument),
        "Sharpness": lambda: image_ops.sharpness(image, argument),
        "ShearX": lambda: image_ops.shear_x(image, signed),
        "ShearY": lambda: image_ops.shear_y(image, signed),
        "TranslateX": lambda: image_ops.translate_x(image, signed),
        "TranslateY": lambda: image_ops.translate_y(image, signed),
        "Cutout": lambda: _cutout_by_draws(image, draws, argument),
    }
    branches = [functions[name] for name in OPS] + [lambda: image]
    return tf.switch_case(op, branches)


def _cutout_by_draws(image: tf.Tensor, draws: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    extent = tf.cast(tf.shape(image)[:2], tf.float32)
    row, column = tf.unstack(tf.cast(draws * extent, tf.int32))
    return image_ops.cutout_at(image, row, column, size)


@compiled
def _cutout(image: tf.Tensor, draws: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return _cutout_by_draws(image, draws, size)
