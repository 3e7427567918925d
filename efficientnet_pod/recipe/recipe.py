"""The typed form of a config: every field of a recipe, and which of them may change between two starts."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated, Any

from efficientnet_pod.models.titles import TITLES
from efficientnet_pod.optim.fine_tuning import REESTIMATE, TRAIN, InitSettings
from efficientnet_pod.optim.hyperparameters import Hyperparameters
from efficientnet_pod.optim.ranges import (
    Choices,
    Count,
    Epochs,
    Factor,
    NonZeroShare,
    Number0,
    Range,
    Ranged,
    ReadWith,
    Share,
    Steps,
)
from efficientnet_pod.optim.schedules import Schedule

# Types of fields with the values that they may have; a phase has some of the recipe's.
Pixels = Annotated[int, Range(0, 8192, whole=True)]
Dropout = Annotated[float, Range(-1, 1, below=True)]
Alpha = Annotated[float, Range(1e-6, 1000, zero=True)]  # smaller ones are 0 on the devices
_RANDAUGMENT = ReadWith("data.policy", ("randaugment",))
_CROPS = ReadWith("data.augment", ("inception_crop",))
PolicyLayers = Annotated[int, Range(1, 100, whole=True), _RANDAUGMENT]
PolicyMagnitude = Annotated[float, Range(0, 30), _RANDAUGMENT]
MinCropArea = Annotated[NonZeroShare, _CROPS]
Cutout = Annotated[int, Range(0, 8192, whole=True, step=2)]
AUTO = "auto"  # as many replicas as a device's memory asks for
Replicas = Annotated[int | str, Range(0, whole=True, words=(AUTO,))]
BALANCED = "balanced"  # every class alike, however many images it has
ClassWeights = Annotated[
    str | tuple[tuple[str, float], ...], Range(0, 1e6, above=True, words=("none", BALANCED))
]
TRACKERS = ("wandb", "mlflow")
HUB = "hf:"  # before the name of a data set of the Hugging Face hub
# Of data sets that are named by their folder.
_PATHS = ("folder:", "prepared:", "tfrecord:", "parquet:", "tar:", "imagenet-tars:", "kaggle:")


def is_path(name: str) -> bool:
    """Returns whether a data set is named by its folder, such as ``folder:/photos``."""
    return name.startswith(_PATHS)


def _is_tfds(name: str) -> bool:
    return name != "digits" and not is_path(name) and not name.startswith(HUB)


_SPLITS = ReadWith("data.name", ("other images than digits",), lambda name: name != "digits")

# Marks of the fields that may differ between two starts of one run; all others must stay as they are.
FREE = {"restart": "free"}  # does not change the numbers of a run, or only those of bad images
RESOLVED = {"restart": "resolved"}  # compared by what it comes to: BN batch, dtypes, images


@dataclasses.dataclass(frozen=True)
class ModelSettings(Ranged):
    """The network: its name and what may differ from its published form.

    A network lacks some of these features. Their fields must then have the value that means "off": dropout
    below 0, survival_probability 1, padding ``same``, and 0 or False for the others after ``bn_epsilon``.

    Attributes:
      name: ``b0`` … ``b7``, ``lite0`` … ``lite4``, ``v2_b0`` … ``v2_b3``, ``v2_s``, ``v2_m``, ``v2_l``,
        ``resnet50``, ``amoebanet_d``, ``resnet18_cifar``, ``resnet9`` or ``resnet9_whitened``.
      dropout: rate before the classifier; below 0 takes the network's.
      survival_probability: stochastic depth at the end of its linear schedule; 1 switches it off.
      bn_momentum: share of the old running statistics that a step keeps.
      bn_epsilon: number added to the variance.
      zero_init_residual: whether the last batch norm of every residual branch begins with a scale of 0.
      ghost_batch: images of a replica that normalise together; 0 for all of them.
      bn_scale: scale of every batch norm, not trained; 0 for scales that are trained.
      auxiliary_weight: weight of the loss of a second classifier, on a layer in the middle; 0 for none. It is
        trained and kept in checkpoints, and not evaluated or exported.
      recompute: whether the backward pass computes the activations of each block anew from its input instead
        of keeping them: a fraction of the memory, a third more computing, the same numbers but for rounding.
      padding: pixels that convolutions of stride 2 add to an image: ``same``, as in TensorFlow, more of them
        after it than before; ``symmetric``, as in PyTorch, as many on both sides. Weights trained with one
        compute something else with the other.
      dtype: type of convolutions and activations: ``bfloat16``, ``float32``, or ``auto``: bfloat16 on TPU and
        GPU.
    """

    name: Annotated[str, Choices(tuple(TITLES))]
    dropout: Dropout
    survival_probability: NonZeroShare
    bn_momentum: Annotated[Share, ReadWith("init.bn_statistics", (TRAIN, REESTIMATE))]
    bn_epsilon: Annotated[float, Range(0, 1, above=True)]
    zero_init_residual: bool
    ghost_batch: Number0
    bn_scale: Annotated[float, Range(1e-6, 1000, zero=True)]
    auxiliary_weight: Factor
    recompute: bool = dataclasses.field(metadata=FREE)
    padding: Annotated[str, Choices(("same", "symmetric"))]
    dtype: Annotated[str, Choices(("auto", "bfloat16", "float32"))] = dataclasses.field(metadata=RESOLVED)

    @property
    def path(self) -> str:
        """Name of the table in a config."""
        return "config.model"


@dataclasses.dataclass(frozen=True)
class DataSettings(Ranged):
    """The images.

    Attributes:
      name: ``digits``, ``folder:/path`` and other paths, or a TFDS data set.
      data_dir: folder where TFDS keeps its data; empty for its default.
      train_split: split that is trained on.
      eval_split: split that is evaluated on.
      image_size: height and width in pixels; 0 takes the network's.
      link_dtype: type of the images on their way to the devices, which normalise them: ``uint8``,
        ``bfloat16``, ``float32``, or ``auto``: the compute dtype.
      resize: ``reference``, ``bilinear`` or ``fast``.
      exif: ``ignored`` or ``respected``: whether photos stand upright as their cameras note in EXIF.
      mean_rgb: mean of pixels in 0..1, subtracted from the images; ImageNet's unless weights need another.
      stddev_rgb: standard deviation that the images are then divided by.
      augment: name of the geometry of training images.
      max_shift: largest shift of the augmentations that shift, in pixels of the output.
      min_crop_area: smallest crop of ``inception_crop``, as a share of the image.
      color_offsets: whether to add a random number to the brightness, to Cb and to Cr of a training image.
      policy: ``none``, ``autoaugment`` or ``randaugment``.
      policy_layers: operations in a row of ``randaugment``.
      policy_magnitude: strength of these operations, 0 to 30.
      policy_bugs: whether to repeat the faults of the released policies.
      cutout: side of the grey square, in pixels of the output; 0 for none.
      erasing: share of the training images in which a rectangle of noise, of 2 % to a third of the area,
        replaces the pixels; 0 for none.
      mixup: α of the Beta distribution of mixup's shares; 0 for none.
      cutmix: α of CutMix's shares; 0 for none. With both, each image draws one of them.
      eval_crop: shape of the crop: ``square``; ``rectangular``; or ``stretched``, the image's own, resized to
        a square.
      eval_crop_share: share of an image's shorter side that the central crop of evaluation sees; timm's
        ``crop_pct``. A stretched crop sees it of both sides.
      class_weights: factor of an image's loss, by its class: ``none``; ``balanced``, images over (classes ·
        images of the class), so that the mean over all training images is 1; or a table such as ``{'rare':
        5.0}``, where a class without an entry has 1. A batch's loss is the sum over the number of its images.
      sampling: training images of an epoch: ``epoch``, each image once; or ``balanced``, as many images, of
        each class equally many, so that images of a rare class come again.
      in_memory: whether to decode and resize all training images before the first step and keep them.
      skip_corrupt: training images that a host may skip because they cannot be decoded, each counted once
        from the start of its process on; one more stops it.
    """

    name: str = dataclasses.field(metadata=RESOLVED)
    data_dir: Annotated[str, ReadWith("data.name", ("a TFDS data set",), _is_tfds)] = dataclasses.field(
        metadata=FREE
    )
    train_split: Annotated[str, _SPLITS]
    eval_split: Annotated[str, _SPLITS]
    image_size: Pixels
    link_dtype: Annotated[str, Choices(("auto", "uint8", "bfloat16", "float32"))] = dataclasses.field(
        metadata=RESOLVED
    )
    resize: Annotated[str, Choices(("reference", "bilinear", "fast"))]
    exif: Annotated[str, Choices(("ignored", "respected"))]
    mean_rgb: Annotated[tuple[float, ...], Range(-1000, 1000)]
    stddev_rgb: Annotated[tuple[float, ...], Range(1e-6, 1000)]
    augment: Annotated[str, Choices(("inception_crop", "pad_crop_flip", "shift"))]
    max_shift: Annotated[Pixels, ReadWith("data.augment", ("pad_crop_flip", "shift"))]
    min_crop_area: MinCropArea
    color_offsets: bool
    policy: Annotated[str, Choices(("none", "autoaugment", "randaugment"))]
    policy_layers: PolicyLayers
    policy_magnitude: PolicyMagnitude
    policy_bugs: Annotated[bool, ReadWith("data.policy", ("autoaugment", "randaugment"))]
    cutout: Cutout
    erasing: Annotated[float, Range(0, 1)]
    mixup: Alpha
    cutmix: Alpha
    eval_crop: Annotated[str, Choices(("square", "rectangular", "stretched"))]
    eval_crop_share: NonZeroShare
    class_weights: ClassWeights
    sampling: Annotated[str, Choices(("epoch", BALANCED))]
    in_memory: bool
    skip_corrupt: Number0 = dataclasses.field(metadata=FREE)

    @property
    def path(self) -> str:
        """Name of the table in a config."""
        return "config.data"


@dataclasses.dataclass(frozen=True)
class PhaseSettings(Ranged):
    """A part of the training that differs from the rest.

    The fields after ``from_epoch`` have the meaning of the same names in :class:`Recipe`,
    :class:`ModelSettings` and :class:`DataSettings`; None keeps the value there. The learning rate follows
    ``global_batch`` linearly. Evaluation keeps the recipe's ``image_size``.

    Attributes:
      name: name of the phase in the config and in the records.
      from_epoch: beginning, in passes over the training images; the phase lasts until the next one begins.
    """

    name: str
    from_epoch: Epochs
    global_batch: Count | None = None
    label_smoothing: Share | None = None
    dropout: Dropout | None = None
    survival_probability: NonZeroShare | None = None
    image_size: Pixels | None = None
    min_crop_area: MinCropArea | None = None
    policy_layers: PolicyLayers | None = None
    policy_magnitude: PolicyMagnitude | None = None
    cutout: Cutout | None = None
    mixup: Alpha | None = None
    cutmix: Alpha | None = None

    @property
    def path(self) -> str:
        """Name of the table in a config."""
        return f"config.phases.{self.name}"

    @property
    def overrides(self) -> dict[str, Any]:
        """The values that this phase sets, by the names of their fields."""
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if k not in ("name", "from_epoch") and v is not None}


@dataclasses.dataclass(frozen=True)
class StopSettings(Ranged):
    """The end of a run before its last epoch. Both fields are looked at after each evaluation.

    Attributes:
      at_top1: top-1 at which the run ends, as a share: 0.76 for 76 %; 0 for none.
      patience_epochs: epochs without a better top-1 after which it ends; 0 for none.
    """

    at_top1: Annotated[float, Range(1e-6, 1, zero=True)] = dataclasses.field(metadata=FREE)
    patience_epochs: Epochs = dataclasses.field(metadata=FREE)

    @property
    def path(self) -> str:
        """Name of the table in a config."""
        return "config.stop"


@dataclasses.dataclass(frozen=True)
class Recipe(Ranged):
    """One published or intended result, whatever machine it runs on.

    Attributes:
      notes: sources of the numbers, a line each, for the reader of the plan.
      platform: ``any``, ``tpu``, ``gpu`` or ``cpu``.
      cpu_replicas: virtual devices where the platform is the CPU.
      seed: seed of the initial weights, the order of the images and every random draw.
      global_batch: images per optimizer step.
      replicas: replicas on which the numbers are defined: which images normalise together, and every mask. A
        machine with fewer devices computes several on each, one after the other; 0: one for each device;
        ``auto``: the fewest whose programs fit the memory, found at the first start and then kept.
      bn_group_size: replicas that normalise together.
      epochs: passes over the training images; may be a fraction.
      label_smoothing: smoothing of the training loss.
      ema_decay: decay of the averaged weights; 0 keeps none.
      eval_epochs: epochs between evaluations, each followed by a checkpoint; may be a fraction.
      eval_raw: whether to evaluate the raw weights instead of the averaged ones.
      eval_flip: whether to evaluate each image and its mirror image, and average the logits.
      log_steps: steps between lines of training metrics.
      keep_checkpoints: number of newest checkpoints that are kept, besides the best one.
      checkpoint_minutes: wall time between checkpoints, besides those that follow evaluations; 0 for none.
      on_non_finite: reaction to a loss or gradient that is not finite, found before the update: ``stop``;
        ``skip`` the update, unknown to the optimizer's schedule; or ``rewind`` to the last evaluation and go
        on with other images.
      stuck_seconds: time without progress, longer than ten steps, after which a process ends; 0 for never.
      profile: first and last step that host 0 records a trace of, such as ``200:210``; empty for none.
      trackers: services that get the metrics too, as TensorBoard does, such as ``("wandb",)``.
      model: the network.
      data: the images.
      optimizer: hyper-parameters of the chosen optimizer.
      schedule: course of the learning rate.
      phases: phases of the training, by ``from_epoch``; none where all of it is alike.
      init: weights to start from.
      stop: end before the last epoch.
    """

    notes: tuple[str, ...] = dataclasses.field(metadata=FREE)
    platform: Annotated[str, Choices(("any", "cpu", "gpu", "tpu"))] = dataclasses.field(metadata=FREE)
    cpu_replicas: Annotated[int, Range(1, 1024, whole=True), ReadWith("platform", ("any", "cpu"))] = (
        dataclasses.field(metadata=FREE)
    )
    seed: Number0
    global_batch: Count
    replicas: Replicas = dataclasses.field(metadata=RESOLVED)
    bn_group_size: Count = dataclasses.field(metadata=RESOLVED)
    epochs: Annotated[float, Range(0, 100_000, above=True)]
    label_smoothing: Share
    ema_decay: Share
    eval_epochs: Annotated[float, Range(1e-6, 100_000)]
    eval_raw: Annotated[bool, ReadWith("ema_decay")]
    eval_flip: bool
    log_steps: Count = dataclasses.field(metadata=FREE)
    keep_checkpoints: Count = dataclasses.field(metadata=FREE)
    checkpoint_minutes: Annotated[float, Range(0, 1e6)] = dataclasses.field(metadata=FREE)
    on_non_finite: Annotated[str, Choices(("stop", "skip", "rewind"))] = dataclasses.field(metadata=FREE)
    stuck_seconds: Annotated[float, Range(0, 1e6)] = dataclasses.field(metadata=FREE)
    profile: Annotated[str, Steps()] = dataclasses.field(metadata=FREE)
    trackers: Annotated[tuple[str, ...], Choices(TRACKERS)] = dataclasses.field(metadata=FREE)
    model: ModelSettings
    data: DataSettings
    optimizer: Hyperparameters
    schedule: Schedule
    phases: tuple[PhaseSettings, ...]
    init: InitSettings
    stop: StopSettings

    @property
    def path(self) -> str:
        """Name of the table in a config."""
        return "config"

    def replicas_on(self, devices: int) -> int:
        """Returns the number of replicas on so many devices; of ``auto``, the least that it may take."""
        if isinstance(self.replicas, str):
            return math.lcm(devices, self.bn_group_size)
        return self.replicas or devices

    def in_phase(self, settings: PhaseSettings) -> "Recipe":
        """Returns the recipe of one phase alone."""
        overrides = settings.overrides

        def overridden(part: "ModelSettings | DataSettings | Recipe") -> dict[str, Any]:
            return {f.name: overrides[f.name] for f in dataclasses.fields(part) if f.name in overrides}

        model = dataclasses.replace(self.model, **overridden(self.model))
        data = dataclasses.replace(self.data, **overridden(self.data))
        return dataclasses.replace(self, model=model, data=data, phases=(), **overridden(self))


def restart_fields(mark: dict[str, str], table: Any = Recipe) -> Iterator[str]:
    """Yields the dotted names of the recipe's fields with one of the marks :data:`FREE`, :data:`RESOLVED`."""
    for field in dataclasses.fields(table):
        if field.metadata == mark:
            yield field.name
        elif dataclasses.is_dataclass(field.type):
            yield from (f"{field.name}.{name}" for name in restart_fields(mark, field.type))
