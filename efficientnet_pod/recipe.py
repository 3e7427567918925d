"""The typed form of a config: every field a recipe must have, checked by name."""

import dataclasses
from typing import Any

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.optim import OPTIMIZERS, Hyperparameters, Schedule


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The network: a variant's name and what may differ from its published form.

    Attributes:
      name: ``b0`` … ``b7``.
      dropout: before the classifier; below 0 takes the variant's.
      survival_probability: of stochastic depth, at the end of its linear schedule; 1 switches it off.
      bn_momentum: share of the old running statistics that a step keeps.
      bn_epsilon: added to the variance.
      dtype: of convolutions and activations: ``bfloat16``, ``float32``, or ``auto``: bfloat16 on TPU and GPU.
    """

    name: str
    dropout: float
    survival_probability: float
    bn_momentum: float
    bn_epsilon: float
    dtype: str


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The images.

    Attributes:
      name: ``digits``, ``folder:/path`` or a TFDS data set.
      data_dir: where TFDS keeps its data; empty for its default.
      train_split: trained on.
      eval_split: evaluated on.
      image_size: height and width in pixels; 0 takes the variant's.
      link_dtype: of images on their way to the devices, which normalise them: ``uint8``, ``bfloat16``,
        ``float32``, or ``auto``: the compute dtype.
      resize: ``reference`` or ``fast``.
      augment: geometry of the training images, by name.
      max_shift: of the augmentations that shift, in pixels of the output.
      min_crop_area: of ``inception_crop``, as a share of the image.
      policy: ``none``, ``autoaugment`` or ``randaugment``.
      policy_layers: operations in a row, of ``randaugment``.
      policy_magnitude: their strength, 0 to 30.
      policy_bugs: repeat the faults of the released policies.
      cutout: side of the grey square, in pixels of the output; 0 for none.
      mixup: α of the Beta distribution of the shares; 0 for none.
      cutmix: likewise; with both, each image draws one of them.
      eval_crop: ``square`` or ``rectangular``.
      skip_corrupt: training images that a host may skip because they cannot be decoded, each counted once
        from the start of its process on; one more stops it.
    """

    name: str
    data_dir: str
    train_split: str
    eval_split: str
    image_size: int
    link_dtype: str
    resize: str
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
    skip_corrupt: int


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One published or intended result, whatever machine it runs on.

    Attributes:
      platform: ``any``, ``tpu``, ``gpu`` or ``cpu``.
      cpu_replicas: virtual devices, where the platform is the CPU.
      seed: of the initial weights, the order of the images and every random draw.
      global_batch: images per optimizer step.
      bn_group_size: replicas that normalise together.
      epochs: passes over the training images, may be a fraction.
      label_smoothing: of the training loss.
      ema_decay: of the averaged weights; 0 keeps none.
      eval_epochs: epochs between evaluations, each followed by a checkpoint; may be a fraction.
      eval_raw: evaluate the raw weights instead of the averaged ones.
      log_steps: steps between lines of training metrics.
      keep_checkpoints: newest checkpoints kept, beside the best one.
      optimizer: hyper-parameters of the chosen optimizer.
      schedule: of the learning rate.
    """

    platform: str
    cpu_replicas: int
    seed: int
    global_batch: int
    bn_group_size: int
    epochs: float
    label_smoothing: float
    ema_decay: float
    eval_epochs: float
    eval_raw: bool
    log_steps: int
    keep_checkpoints: int
    model: ModelSettings
    data: DataSettings
    optimizer: Hyperparameters
    schedule: Schedule


def read_recipe(config: dict[str, Any]) -> Recipe:
    """Returns the config, as plain nested tables, in its typed form.

    ``config.optimizer`` holds ``name`` and one table for each optimizer it can be switched to, because a
    learning rate means something else to each of them.

    Raises:
      UserError: a field is missing or unknown, or its value out of range.
    """
    fields = _checked(config, Recipe, "config")
    fields["model"] = ModelSettings(**_checked(fields["model"], ModelSettings, "config.model"))
    fields["data"] = DataSettings(**_checked(fields["data"], DataSettings, "config.data"))
    fields["optimizer"] = _optimizer(fields["optimizer"])
    fields["schedule"] = Schedule(**_checked(fields["schedule"], Schedule, "config.schedule"))
    return Recipe(**fields)


def _checked(table: dict[str, Any], into: type, where: str) -> dict[str, Any]:
    """Returns a copy of the table, whose names are those of the fields of ``into``."""
    names = [field.name for field in dataclasses.fields(into)]
    for name in table:
        if name not in names:
            raise UserError(f"{where} has no field '{name}'{did_you_mean(name, names)}")
    for name in names:
        if name not in table:
            raise UserError(f"{where}.{name} is missing; add it to the config file")
    return dict(table)


def _optimizer(table: dict[str, Any]) -> Hyperparameters:
    name = table.get("name", "")
    if name not in OPTIMIZERS:
        raise UserError(f"config.optimizer.name='{name}' is unknown{did_you_mean(name, OPTIMIZERS)}")
    if name not in table:
        raise UserError(
            f"config.optimizer has no table '{name}'; add its hyper-parameters to the config file"
        )
    kind = OPTIMIZERS[name]
    return kind(**_checked(table[name], kind, f"config.optimizer.{name}"))
