"""What happens to an image on the host, by the fields of a recipe; importable without TensorFlow."""

from dataclasses import dataclass, fields

from efficientnet_pod.optim.ranges import allowed_in
from efficientnet_pod.recipe.recipe import DataSettings

EVAL_CROP_SHARE = 0.875  # source: tensorflow/tpu, models/official/efficientnet/preprocessing.py


@dataclass(frozen=True)
class Preprocessing:
    """Decoding, augmentation and size of the images.

    Attributes:
      image_size: height and width of the result, in pixels.
      augment: geometry of a training image. ``inception_crop``: a crop of ``min_crop_area`` to 100 % of the
        area with aspect ratio 3/4 to 4/3, resized, and mirrored in half the cases (source: tensorflow/tpu,
        models/official/efficientnet/preprocessing.py). ``shift``: the image resized, then moved up to
        ``max_shift`` pixels each way over black. ``pad_crop_flip``: the same over the image reflected at its
        border, and mirrored in half the cases; with a shift of 4 at 32 pixels the usual one of CIFAR.
      max_shift: largest shift, in pixels of the result.
      min_crop_area: smallest crop, as a share of the image's area.
      policy: ``none``, ``autoaugment`` or ``randaugment``, applied after the geometry to rounded levels.
      policy_layers: operations in a row of ``randaugment``.
      policy_magnitude: strength of ``randaugment``, 0 to 30.
      policy_bugs: repeat the faults of the released policies; see :mod:`policies`.
      cutout: side of a grey square over a random place, in pixels, an even number; 0 for none.
      erasing: share of the training images with a rectangle of noise over a random place; see :mod:`erasing`.
      resize: ``reference``, the bicubic kernel of the released code; ``bilinear``, TensorFlow 1's kernel of
        this name, which also skips pixels where the image shrinks; or ``fast``, averaged where the image
        shrinks and linear where it grows, in whole levels; see :mod:`fast_decode`.
      color_offsets: whether to add a random number to the brightness, to Cb and to Cr of a training image.
      eval_crop: shape of evaluation's central crop: ``square``; ``rectangular``, a shape that is given; or
        ``stretched``, the image's own shape, resized to a square.
      eval_crop_share: share of the shorter side that evaluation's central crop sees, of both sides if it is
        stretched.
      exif: ``ignored``: pixels are taken as they are stored, as the released code and TFDS take them;
        ``respected``: a photo is first turned or mirrored as its camera notes in EXIF.
      dtype: type of the result, ``uint8``, ``bfloat16`` or ``float32``; levels of 0..255 in each. The bicubic
        kernel overshoots, which uint8 clips and the others keep, as the released code does.
    """

    image_size: int
    augment: str = "inception_crop"
    max_shift: int = 0
    min_crop_area: float = 0.08
    policy: str = "none"
    policy_layers: int = 2
    policy_magnitude: float = 10.0
    policy_bugs: bool = False
    cutout: int = 0
    erasing: float = 0.0
    resize: str = "reference"
    color_offsets: bool = False
    eval_crop: str = "square"
    eval_crop_share: float = EVAL_CROP_SHARE
    exif: str = "ignored"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Asserts what the rules of a recipe have checked, for callers without a recipe."""
        for field in fields(DataSettings):
            if field.name in ("augment", "resize", "exif", "policy", "eval_crop") and (
                allowed := allowed_in(field)
            ):
                assert allowed.holds(getattr(self, field.name)), self
        assert 0 <= self.max_shift < self.image_size and self.cutout % 2 == 0, self

    @classmethod
    def of(cls, data: DataSettings, *, image_size: int, dtype: str) -> "Preprocessing":
        """Returns what a recipe asks for; the other fields have the names of the recipe's."""
        names = {field.name for field in fields(cls)} - {"image_size", "dtype"}
        return cls(image_size=image_size, dtype=dtype, **{name: getattr(data, name) for name in names})
