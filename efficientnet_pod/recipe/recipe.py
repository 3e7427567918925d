"""The typed form of a config: every field a recipe must have, checked by name."""

import dataclasses
from typing import Any

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.optim import OPTIMIZERS, Hyperparameters, Schedule
from efficientnet_pod.optim.fine_tuning import InitSettings, read_init

DTYPES = ("auto", "bfloat16", "float32")
LINK_DTYPES = ("auto", "uint8", "bfloat16", "float32")
RESIZES = ("reference", "fast")
AUGMENTATIONS = ("inception_crop", "pad_crop_flip", "shift")
POLICIES = ("none", "autoaugment", "randaugment")
EVAL_CROPS = ("square", "rectangular")
NON_FINITE_POLICIES = ("stop", "skip", "rewind")


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The network: its name and what may differ from its published form.

    What a network does not have must be left at the value that says so: dropout below 0, survival_probability
    1, and 0 or False for what is named after ``bn_epsilon``.

    Attributes:
      name: ``b0`` … ``b7``, ``lite0`` … ``lite4``, ``resnet50``, ``resnet18_cifar``, ``resnet9`` or
        ``resnet9_whitened``.
      dropout: before the classifier; below 0 takes the network's.
      survival_probability: of stochastic depth, at the end of its linear schedule; 1 switches it off.
      bn_momentum: share of the old running statistics that a step keeps.
      bn_epsilon: added to the variance.
      zero_init_residual: the last batch norm of every residual branch begins with a scale of 0.
      ghost_batch: images of a replica that normalise together; 0 for all of them.
      bn_scale: of every batch norm, not trained; 0 for scales that are trained.
      dtype: of convolutions and activations: ``bfloat16``, ``float32``, or ``auto``: bfloat16 on TPU and GPU.
    """

    name: str
    dropout: float
    survival_probability: float
    bn_momentum: float
    bn_epsilon: float
    zero_init_residual: bool
    ghost_batch: int
    bn_scale: float
    dtype: str


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The images.

    Attributes:
      name: ``digits``, ``folder:/path`` or a TFDS data set.
      data_dir: where TFDS keeps its data; empty for its default.
      train_split: trained on.
      eval_split: evaluated on.
      image_size: height and width in pixels; 0 takes the network's.
      link_dtype: of images on their way to the devices, which normalise them: ``uint8``, ``bfloat16``,
        ``float32``, or ``auto``: the compute dtype.
      resize: ``reference`` or ``fast``.
      mean_rgb: of pixels in 0..1, subtracted from the images; ImageNet's unless weights ask for another.
      stddev_rgb: the images are then divided by it.
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
      in_memory: decode and resize all training images before the first step and keep them, for small ones.
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
    in_memory: bool
    skip_corrupt: int


@dataclasses.dataclass(frozen=True)
class PhaseSettings:
    """A part of the training that differs from the rest; what is None is the recipe's.

    Attributes:
      name: as the config and the records call it.
      from_epoch: where it begins, in passes over the training images; it lasts until the next one.
      global_batch: images per optimizer step; the learning rate follows it linearly.
      label_smoothing: see :class:`Recipe`, and so on.
      dropout: see :class:`ModelSettings`, and so on.
      survival_probability: of stochastic depth.
      image_size: see :class:`DataSettings`, and so on. Evaluation stays at the recipe's.
      min_crop_area: as a share of the image.
      policy_layers: of ``randaugment``.
      policy_magnitude: of ``randaugment``.
      cutout: side of the square.
      mixup: α.
      cutmix: α.
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
        """What this phase sets, by the names of its fields."""
        values = dataclasses.asdict(self)
        return {k: v for k, v in values.items() if k not in ("name", "from_epoch") and v is not None}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One published or intended result, whatever machine it runs on.

    Attributes:
      notes: where its numbers come from, a line each, for the reader of the plan.
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
      eval_flip: evaluate each image and its mirror image, and average the logits.
      log_steps: steps between lines of training metrics.
      keep_checkpoints: newest checkpoints kept, beside the best one.
      checkpoint_minutes: of wall time between checkpoints, beside those that follow evaluations; 0 for none.
      on_non_finite: what follows a loss or gradient that is not finite, found before the update: ``stop``;
        ``skip`` the update, of which the optimizer's schedule then knows nothing; or ``rewind`` to the last
        evaluation and go on with other images.
      stuck_seconds: without progress, and longer than ten steps, after which a process ends; 0 for never.
      optimizer: hyper-parameters of the chosen optimizer.
      schedule: of the learning rate.
      phases: of the training, by ``from_epoch``; none where all of it is alike.
      init: weights to start from.
    """

    notes: tuple[str, ...]
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
    eval_flip: bool
    log_steps: int
    keep_checkpoints: int
    checkpoint_minutes: float
    on_non_finite: str
    stuck_seconds: float
    model: ModelSettings
    data: DataSettings
    optimizer: Hyperparameters
    schedule: Schedule
    phases: tuple[PhaseSettings, ...]
    init: InitSettings

    def in_phase(self, settings: PhaseSettings) -> "Recipe":
        """Returns the recipe of one phase alone."""
        overrides = settings.overrides

        def overridden(part: Any) -> dict[str, Any]:
            return {f.name: overrides[f.name] for f in dataclasses.fields(part) if f.name in overrides}

        model = dataclasses.replace(self.model, **overridden(self.model))
        data = dataclasses.replace(self.data, **overridden(self.data))
        return dataclasses.replace(self, model=model, data=data, phases=(), **overridden(self))


def read_recipe(config: dict[str, Any]) -> Recipe:
    """Returns the config, as plain nested tables, in its typed form.

    ``config.optimizer`` holds ``name`` and one table for each optimizer it can be switched to, because a
    learning rate means something else to each of them.

    Raises:
      UserError: a field is missing or unknown, or its value out of range.
    """
    fields = _checked(config, Recipe, "config")
    fields["model"] = ModelSettings(**_checked(fields["model"], ModelSettings, "config.model"))
    data = _checked(fields["data"], DataSettings, "config.data")
    data["mean_rgb"], data["stddev_rgb"] = _rgb(data, "mean_rgb"), _rgb(data, "stddev_rgb")
    fields["data"] = DataSettings(**data)
    fields["init"] = read_init(_checked(fields["init"], InitSettings, "config.init"))
    fields["optimizer"] = _optimizer(fields["optimizer"])
    schedule = _checked(fields["schedule"], Schedule, "config.schedule")
    schedule["knots"] = _knots(schedule["knots"])
    fields["schedule"] = Schedule(**schedule)
    fields["notes"] = tuple(fields["notes"])
    phases = [_phase(name, table) for name, table in fields["phases"].items()]
    fields["phases"] = tuple(sorted(phases, key=lambda phase: phase.from_epoch))
    return Recipe(**fields)


def _checked(table: dict[str, Any], into: type, where: str) -> dict[str, Any]:
    """Returns a copy of the table, whose names are those of the fields of ``into``."""
    names = [field.name for field in dataclasses.fields(into)]
    _require_known(table, names, where)
    for name in names:
        if name not in table:
            raise UserError(f"{where}.{name} is missing; add it to the config file")
    return dict(table)


def _require_known(table: dict[str, Any], names: list[str], where: str) -> None:
    for name in table:
        if name not in names:
            raise UserError(f"{where} has no field '{name}'{did_you_mean(name, names)}")


def _rgb(table: dict[str, Any], name: str) -> tuple[float, ...]:
    """Returns three numbers as a tuple, which JSON has as a list."""
    value = table[name]
    try:
        rgb = tuple(map(float, value))
        if len(rgb) == 3 and (name == "mean_rgb" or min(rgb) > 0):
            return rgb
    except (TypeError, ValueError):
        pass
    raise UserError(
        f"config.data.{name} is {value!r}; it must be three numbers, of pixels in 0..1, e.g. (0.5, 0.5, 0.5)"
    )


def _knots(value: Any) -> tuple[tuple[float, float], ...]:
    """Returns the knots as tuples, which JSON has as lists."""
    try:
        return tuple((float(share), float(height)) for share, height in value)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"config.schedule.knots is {value!r}; it must be pairs (share of the run, share of the peak), "
            "e.g. ((0.0, 0.0), (0.2, 1.0), (1.0, 0.0))"
        ) from error


def _phase(name: str, table: Any) -> PhaseSettings:
    where = f"config.phases.{name}"
    if not isinstance(table, dict):
        raise UserError(
            f"{where} is {table!r}; it must be a table with from_epoch and what the phase changes: "
            "add one to the config file"
        )
    known = [field.name for field in dataclasses.fields(PhaseSettings) if field.name != "name"]
    _require_known(table, known, where)
    for field, value in table.items():
        is_whole = "int" in str(PhaseSettings.__annotations__[field])
        allowed = int if is_whole else (int, float)
        if value is not None and (isinstance(value, bool) or not isinstance(value, allowed)):
            kind = "a whole number" if is_whole else "a number"
            raise UserError(f"{where}.{field} is {value!r}; it must be {kind}; correct it")
    if table.get("from_epoch") is None:
        raise UserError(f"{where}.from_epoch is missing; add it to the config file")
    return PhaseSettings(name, **table)


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
