"""AutoAugment v0, RandAugment and Cutout: which operations an image gets, and how strongly, from its seed.

Source of table, arguments and constants: tensorflow/tpu, models/official/efficientnet/autoaugment.py. Its
faults are mended unless ``reference_bugs`` asks for what was released:

* Contrast blends with pixels / 256 instead of the mean level (image_ops.contrast).
* Posterize keeps 0 to 4 bits, so that AutoAugment makes images black and white (``_argument``).
* RandAugment's Posterize and Solarize grow weaker with the magnitude (``_argument``).
* Lengths are the same at every image size: 225 pixels blank an image of 224 (``_Lengths``).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from efficientnet_pod.data.quiet import tf
from efficientnet_pod.data.transforms import image_ops
from efficientnet_pod.data.transforms.xla import compiled
from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.recipe.recipe import POLICIES

# In the released order, from which RandAugment draws one per layer, all alike.
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
    """What level 10 means in pixels, at images of ``image_size`` pixels and more; in proportion below."""

    translate: float
    cutout: float  # half of the square's side
    image_size: int

    def at(self, image_size: int, reference_bugs: bool) -> "_Lengths":
        scale = 1.0 if reference_bugs else min(1.0, image_size / self.image_size)
        return _Lengths(self.translate * scale, self.cutout * scale, image_size)


# 331 pixels: what readers take the paper's limit of 150 pixels to refer to (tensorflow/tpu#637); the code has
# 250 and no size. 224 pixels: the smallest network's, where RandAugment's 100 are those 150 in proportion.
_AUTOAUGMENT_LENGTHS = _Lengths(translate=250, cutout=100, image_size=331)
_RANDAUGMENT_LENGTHS = _Lengths(translate=100, cutout=40, image_size=224)


def check_policy(name: str, *, layers: int, magnitude: float) -> None:
    """Raises UserError unless the policy exists and, for RandAugment, has possible layers and magnitude."""
    if name not in POLICIES:
        raise UserError(f"unknown policy '{name}'{did_you_mean(name, POLICIES)}")
    if name == "randaugment" and layers < 1:
        raise UserError(
            f"RandAugment has {layers} layers; it must have 1 or more; use policy 'none' for none"
        )
    if name == "randaugment" and not 0 <= magnitude <= 30:
        raise UserError(
            f"RandAugment's magnitude is {magnitude}; it must be 0..30; published runs used 5..28"
        )


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

    Raises UserError for impossible arguments.
    """
    check_policy(name, layers=layers, magnitude=magnitude)
    if name == "none":
        return image
    if name == "autoaugment":
        layers, magnitude = 2, 0.0
    # Drawn outside of the compiled program, so that the draws are TensorFlow's own.
    draws = tf.random.stateless_uniform([layers, _DRAWS], seed)
    program = _program(name, float(magnitude), tuple(image.shape), reference_bugs)
    return tf.ensure_shape(program(image, draws), image.shape)


def cutout(image: tf.Tensor, seed: tf.Tensor, *, size: int) -> tf.Tensor:
    """Returns the image with a grey (128) square of ``size`` pixels a side, which ends at the border.

    It reaches from centre - size / 2 to centre + size / 2 - 1; the centre is uniform over the pixels of the
    image, so that on average less than a whole square is covered. The released code asks for half the side.
    ``image`` is uint8 (height, width, 3) with a static shape. Equal ``seed`` pairs give equal results.

    Raises UserError unless ``size`` is even and positive.
    """
    if size < 2 or size % 2:
        raise UserError(f"the side of Cutout's square is {size} pixels; it must be a positive even number")
    return tf.ensure_shape(
        _cutout(image, tf.random.stateless_uniform([2], seed), tf.constant(size)), image.shape
    )


# Of each layer: which operation, whether it is applied, and two for what the operation itself draws.
_DRAWS = 4


@functools.cache
def _program(name: str, magnitude: float, shape: tuple[int, ...], reference_bugs: bool) -> Callable:
    """Returns a compiled function of (image, draws); the same one for the same arguments, to compile once."""
    size = min(shape[:2])
    if name == "autoaugment":
        lengths = _AUTOAUGMENT_LENGTHS.at(size, reference_bugs)
        choose = _autoaugment_choice(lengths, reference_bugs)
    else:
        lengths = _RANDAUGMENT_LENGTHS.at(size, reference_bugs)
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


Choice = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def _autoaugment_choice(lengths: _Lengths, reference_bugs: bool) -> Choice:
    """Returns a function from draws to the operations' numbers in OPS and their arguments, by layer."""
    numbers, probabilities, arguments = [], [], []
    for row in AUTOAUGMENT_V0:
        numbers.append([OPS.index(op) for op, _, _ in row])
        probabilities.append([probability for _, probability, _ in row])
        arguments.append(
            [
                _argument(op, level, lengths, harder=False, reference_bugs=reference_bugs)
                for op, _, level in row
            ]
        )

    def choose(draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Gathered, not sliced: for a slice at a drawn place the compiler makes a program for each place.
        row = tf.cast(draws[0, 0] * len(AUTOAUGMENT_V0), tf.int32)
        applied = draws[:, 1] < tf.gather(tf.constant(probabilities, tf.float32), row)
        ops = tf.where(applied, tf.gather(tf.constant(numbers), row), _IDENTITY)
        return ops, tf.gather(tf.constant(arguments, tf.float32), row)

    return choose


def _randaugment_choice(magnitude: float, lengths: _Lengths, reference_bugs: bool) -> Choice:
    """Returns a function from draws to the operations' numbers in OPS and their arguments, by layer."""
    arguments = [_argument(op, magnitude, lengths, harder=True, reference_bugs=reference_bugs) for op in OPS]

    def choose(draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        ops = tf.cast(draws[:, 0] * len(OPS), tf.int32)
        return ops, tf.gather(tf.constant(arguments, tf.float32), ops)

    return choose


def _argument(op: str, level: float, lengths: _Lengths, *, harder: bool, reference_bugs: bool) -> float:
    """Returns what the level means to the operation: degrees, bits, a threshold, a factor, a slope or pixels.

    With ``harder`` every operation grows stronger with the level, or, an enhancement, goes from 0.1 to 1.9.
    """
    strength = level / 10
    if op == "Posterize":
        bits = int(strength * 4)
        if reference_bugs:
            return bits  # the paper says 4 to 8 bits, and 0, to TensorFlow, is 1: black and white
        return max(8 - bits, 1) if harder else 4 + bits
    if op == "Solarize":
        threshold = int(strength * 256)
        # Released as it suits AutoAugment, whose search knew its levels so: RandAugment at 10 does nothing.
        return max(256 - threshold, 0) if harder and not reference_bugs else threshold
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
    """Returns the image after operation number ``op`` alone; ``draws`` are its own two."""
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
