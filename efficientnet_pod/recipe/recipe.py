"""The typed form of a config: every field of a recipe, and which of them may change between two starts."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from efficientnet_pod.optim.fine_tuning import BN_STATISTICS, InitSettings
from efficientnet_pod.optim.hyperparameters import Hyperparameters
from efficientnet_pod.optim.schedules import Schedule

CHOICES = {
    "on_non_finite": ("stop", "skip", "rewind"),
    "model.dtype": ("auto", "bfloat16", "float32"),
    "data.link_dtype": ("auto", "uint8", "bfloat16", "float32"),
    "data.resize": ("reference", "fast"),
    "data.exif": ("ignored", "respected"),
    "data.augment": ("inception_crop", "pad_crop_flip", "shift"),
    "data.policy": ("none", "autoaugment", "randaugment"),
    "data.eval_crop": ("square", "rectangular"),
    "init.bn_statistics": BN_STATISTICS,
}

# Marks of the fields that may differ between two starts of one run; all others must stay as they are.
FREE = {"restart": "free"}  # does not change the numbers of a run, or only those of bad images
RESOLVED = {"restart": "resolved"}  # compared by what it comes to: BN batch, dtypes, images


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The network: its name and what may differ from its published form.

    A network lacks some of these features. Their fields must then have the value that means "off": dropout
    below 0, survival_probability 1, and 0 or False for the fields after ``bn_epsilon``.

    Attributes:
      name: ``b0`` … ``b7``, ``lite0`` … ``lite4``, ``resnet50``, ``resnet18_cifar``, ``resnet9`` or
        ``resnet9_whitened``.
      dropout: rate before the classifier; below 0 takes the network's.
      survival_probability: stochastic depth at the end of its linear schedule; 1 switches it off.
      bn_momentum: share of the old running statistics that a step keeps.
      bn_epsilon: number added to the variance.
      zero_init_residual: whether the last batch norm of every residual branch begins with a scale of 0.
      ghost_batch: images of a replica that normalise together; 0 for all of them.
      bn_scale: scale of every batch norm, not trained; 0 for scales that are trained.
      dtype: type of convolutions and activations: ``bfloat16``, ``float32``, or ``auto``: bfloat16 on TPU and
        GPU.
    """

    name: str
    dropout: float
    survival_probability: float
    bn_momentum: float
    bn_epsilon: float
    zero_init_residual: bool
    ghost_batch: int
    bn_scale: float
    dtype: str = dataclasses.field(metadata=RESOLVED)


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The images.

    Attributes:
      name: ``digits``, ``folder:/path`` or a TFDS data set.
      data_dir: folder where TFDS keeps its data; empty for its default.
      train_split: split that is trained on.
      eval_split: split that is evaluated on.
      image_size: height and width in pixels; 0 takes the network's.
      link_dtype: type of the images on their way to the devices, which normalise them: ``uint8``,
        ``bfloat16``, ``float32``, or ``auto``: the compute dtype.
      resize: ``reference`` or ``fast``.
      exif: ``ignored`` or ``respected``: whether photos stand upright as their cameras note in EXIF.
      mean_rgb: mean of pixels in 0..1, subtracted from the images; ImageNet's unless weights need another.
      stddev_rgb: standard deviation that the images are then divided by.
      augment: name of the geometry of training images.
      max_shift: largest shift of the augmentations that shift, in pixels of the output.
      min_crop_area: smallest crop of ``inception_crop``, as a share of the image.
      policy: ``none``, ``autoaugment`` or ``randaugment``.
      policy_layers: operations in a row of ``randaugment``.
      policy_magnitude: strength of these operations, 0 to 30.
      policy_bugs: whether to repeat the faults of the released policies.
      cutout: side of the grey square, in pixels of the output; 0 for none.
      mixup: α of the Beta distribution of mixup's shares; 0 for none.
      cutmix: α of CutMix's shares; 0 for none. With both, each image draws one of them.
      eval_crop: ``square`` or ``rectangular``.
      eval_crop_share: share of an image's shorter side that the central crop of evaluation sees; timm's
        ``crop_pct``.
      in_memory: whether to decode and resize all training images before the first step and keep them.
      skip_corrupt: training images that a host may skip because they cannot be decoded, each counted once
        from the start of its process on; one more stops it.
    """

    name: str = dataclasses.field(metadata=RESOLVED)
    data_dir: str = dataclasses.field(metadata=FREE)
    train_split: str
    eval_split: str
    image_size: int
    link_dtype: str = dataclasses.field(metadata=RESOLVED)
    resize: str
    exif: str
    mean_rgb: tuple[float, ...]
    stddev_rgb: tuple[float, ...]
    augment: str
    max_shift: int
    min_crop_area: float
    policy: str
    policy_layers: int
    policy_magnitude: float
    policy_bugs: bool
    cutout: int
    mixup: float
    cutmix: float
    eval_crop: str
    eval_crop_share: float
    in_memory: bool
    skip_corrupt: int = dataclasses.field(metadata=FREE)


@dataclasses.dataclass(frozen=True)
class PhaseSettings:
    """A part of the training that differs from the rest.

    The fields after ``from_epoch`` have the meaning of the same names in :class:`Recipe`,
    :class:`ModelSettings` and :class:`DataSettings`; None keeps the value there. The learning rate follows
    ``global_batch`` linearly. Evaluation keeps the recipe's ``image_size``.

    Attributes:
      name: name of the phase in the config and in the records.
      from_epoch: beginning, in passes over the training images; the phase lasts until the next one begins.
    """

    name: str
    from_epoch: float
    global_batch: int | None = None
    label_smoothing: float | None = None
    dropout: float | None = None
    survival_probability: float | None = None
    image_size: int | None = None
    min_crop_area: float | None = None
    policy_layers: int | None = None
    policy_magnitude: float | None = None
    cutout: int | None = None
    mixup: float | None = None
    cutmix: float | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """The values that this phase sets, by the names of their fields."""
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if k not in ("name", "from_epoch") and v is not None}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One published or intended result, whatever machine it runs on.

    Attributes:
      notes: sources of the numbers, a line each, for the reader of the plan.
      platform: ``any``, ``tpu``, ``gpu`` or ``cpu``.
      cpu_replicas: virtual devices where the platform is the CPU.
      seed: seed of the initial weights, the order of the images and every random draw.
      global_batch: images per optimizer step.
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
      model: the network.
      data: the images.
      optimizer: hyper-parameters of the chosen optimizer.
      schedule: course of the learning rate.
      phases: phases of the training, by ``from_epoch``; none where all of it is alike.
      init: weights to start from.
    """

    notes: tuple[str, ...] = dataclasses.field(metadata=FREE)
    platform: str = dataclasses.field(metadata=FREE)
    cpu_replicas: int = dataclasses.field(metadata=FREE)
    seed: int
    global_batch: int
    bn_group_size: int = dataclasses.field(metadata=RESOLVED)
    epochs: float
    label_smoothing: float
    ema_decay: float
    eval_epochs: float
    eval_raw: bool
    eval_flip: bool
    log_steps: int = dataclasses.field(metadata=FREE)
    keep_checkpoints: int = dataclasses.field(metadata=FREE)
    checkpoint_minutes: float = dataclasses.field(metadata=FREE)
    on_non_finite: str = dataclasses.field(metadata=FREE)
    stuck_seconds: float = dataclasses.field(metadata=FREE)
    model: ModelSettings
    data: DataSettings
    optimizer: Hyperparameters
    schedule: Schedule
    phases: tuple[PhaseSettings, ...]
    init: InitSettings

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
