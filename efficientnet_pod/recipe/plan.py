"""The Plan: every derived number of a run, resolved once; impossible ones are refused with the remedy."""

import dataclasses
import math
from typing import Any

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.models.registry import network_named
from efficientnet_pod.optim import OPTIMIZERS, peak_learning_rate, schedule_warnings
from efficientnet_pod.pod.topology import check_bn_group_size
from efficientnet_pod.recipe import recipe as recipes
from efficientnet_pod.recipe.phases import Phase, resolve_phases
from efficientnet_pod.recipe.recipe import Recipe
from efficientnet_pod.recipe.rectangles import Shapes, eval_batch_of


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe on a data set and a number of replicas.

    Attributes:
      recipe: what was asked for.
      num_train: training images.
      num_eval: evaluation images.
      num_classes: size of the logits.
      num_replicas: devices.
      num_hosts: processes.
      image_size: of evaluation, and of training where no phase has its own; pixels.
      dropout: before the classifier.
      compute_dtype: of convolutions and activations.
      link_dtype: of images on their way to the devices.
      host_batch: training images per host and step, where no phase has its own global batch.
      per_replica_batch: likewise per replica.
      bn_batch: likewise those that normalise together.
      eval_batch: images per evaluation step, all replicas together.
      eval_steps: evaluation steps that cover every image once.
      eval_shapes: (height, width, steps) of the evaluation images, in the order they are evaluated; one
        square where nothing else is known.
      steps_per_epoch: of the recipe's global batch. A fraction, never floored: 65,536 images a step are 19.55
        steps an epoch of ImageNet.
      total_steps: optimizer steps of the run, all phases together.
      warmup_steps: steps of linear warm-up, of the recipe's global batch.
      steps_between_evals: a fraction, of the recipe's global batch.
      peak_lr: learning rate at the end of warm-up, for the recipe's global batch.
      phases: of the training, in order, without a gap; one where the recipe names none.
      warnings: of what is allowed and probably not meant.
    """

    recipe: Recipe
    num_train: int
    num_eval: int
    num_classes: int
    num_replicas: int
    num_hosts: int
    image_size: int
    dropout: float
    compute_dtype: str
    link_dtype: str
    host_batch: int
    per_replica_batch: int
    bn_batch: int
    eval_batch: int
    eval_steps: int
    eval_shapes: Shapes
    steps_per_epoch: float
    total_steps: int
    warmup_steps: int
    steps_between_evals: float
    peak_lr: float
    phases: tuple[Phase, ...]
    warnings: tuple[str, ...]

    def phase_of(self, step: int) -> Phase:
        """Returns the phase whose update makes step ``step``, from 1 to ``total_steps``."""
        return next(phase for phase in self.phases if step <= phase.last_step)

    def phases_after(self, step: int) -> tuple[Phase, ...]:
        """Returns the phases still to be trained after ``step`` steps, at least the last one."""
        return tuple(phase for phase in self.phases if step < phase.last_step) or self.phases[-1:]

    def images_seen(self, step: int) -> int:
        """Returns the training images that ``step`` steps have seen, from 0 to ``total_steps``."""
        return self.phase_of(step).images_seen(step)

    def epoch(self, step: int) -> float:
        """Returns the passes over the training images after ``step`` steps."""
        return self.images_seen(step) / self.num_train

    def clock(self, step: int) -> float:
        """Returns the images seen after ``step`` steps in units of the recipe's global batch."""
        return self.images_seen(step) / self.recipe.global_batch

    def is_eval_due(self, step: int) -> bool:
        """Returns whether to evaluate after ``step`` steps: at multiples of the interval and at the end."""
        interval = self.steps_between_evals
        # A ten-thousandth of a step of slack, since 0.1 epochs of 10 steps are 0.9999999999999999 steps.
        passed = [math.floor((self.clock(s) + 1e-4) / interval) for s in (step - 1, step)]
        return step == self.total_steps or passed[0] < passed[1]

    def evaluations(self) -> int:
        """Returns how many steps of the run are followed by an evaluation."""
        interval, last = self.steps_between_evals, self.total_steps
        if interval < max(phase.recipe.global_batch for phase in self.phases) / self.recipe.global_batch:
            return sum(map(self.is_eval_due, range(1, last + 1)))  # a step may pass several multiples
        due = [math.floor((self.clock(step) + 1e-4) / interval) for step in (last - 1, last)]
        return due[1] + (due[0] == due[1])

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        plain = dataclasses.asdict(self)
        plain["recipe"]["optimizer"]["name"] = optimizer_name(self.recipe)
        for phase in plain["phases"]:
            del phase["recipe"]  # the run's with what plain["recipe"]["phases"] changes
        return plain


def optimizer_name(recipe: Recipe) -> str:
    """Returns the name the recipe's optimizer has in a config."""
    return next(name for name, kind in OPTIMIZERS.items() if type(recipe.optimizer) is kind)


def resolve(
    recipe: Recipe,
    *,
    num_train: int,
    num_eval: int,
    num_classes: int,
    num_replicas: int,
    num_hosts: int,
    default_dtype: str,
) -> Plan:
    """Returns the plan.

    Args:
      recipe: what was asked for.
      num_train: training images.
      num_eval: evaluation images.
      num_classes: size of the logits.
      num_replicas: devices of all hosts.
      num_hosts: processes.
      default_dtype: compute dtype of this platform, where the recipe says ``auto``.

    Raises:
      UserError: a number is impossible; the message has its value, the rule and the remedy.
    """
    _check(recipe, num_replicas)
    model = recipe.model
    network = network_named(model.name)
    per_replica_batch = recipe.global_batch // num_replicas
    # Not more than a full pass needs: 65,536 replicas' images would be padding for 50,000.
    eval_batch = num_replicas * min(per_replica_batch, math.ceil(num_eval / num_replicas))
    image_size = recipe.data.image_size or network.image_size
    if recipe.data.eval_crop == "rectangular":
        eval_batch = eval_batch_of(eval_batch, num_eval=num_eval, num_replicas=num_replicas)
    eval_steps = math.ceil(num_eval / eval_batch)
    steps_per_epoch = num_train / recipe.global_batch
    for settings in recipe.phases:
        _check(recipe.in_phase(settings), num_replicas, phase=settings.name)
    phases = resolve_phases(recipe, num_train=num_train, num_replicas=num_replicas, num_hosts=num_hosts)
    total_steps = phases[-1].last_step
    peak_lr = peak_learning_rate(recipe.optimizer.lr_per_256, recipe.global_batch)
    clock_steps = round(phases[-1].images_seen(total_steps) / recipe.global_batch)
    warnings = schedule_warnings(
        recipe.schedule, peak_lr=peak_lr, steps_per_epoch=steps_per_epoch, total_steps=clock_steps
    )
    bn_batch = min(phase.bn_batch for phase in phases)
    if bn_batch < 16:
        remedy = "ghost_batch" if model.ghost_batch else "bn_group_size"
        warnings.append(f"{bn_batch} images normalise together; below 16 accuracy suffers: raise {remedy}")
    compute_dtype = default_dtype if model.dtype == "auto" else model.dtype
    return Plan(
        recipe=recipe,
        num_train=num_train,
        num_eval=num_eval,
        num_classes=num_classes,
        num_replicas=num_replicas,
        num_hosts=num_hosts,
        image_size=image_size,
        dropout=network.dropout if model.dropout < 0 else model.dropout,
        compute_dtype=compute_dtype,
        link_dtype=compute_dtype if recipe.data.link_dtype == "auto" else recipe.data.link_dtype,
        host_batch=recipe.global_batch // num_hosts,
        per_replica_batch=per_replica_batch,
        bn_batch=model.ghost_batch or per_replica_batch * recipe.bn_group_size,
        eval_batch=eval_batch,
        eval_steps=eval_steps,
        eval_shapes=((image_size, image_size, eval_steps),),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        warmup_steps=recipe.schedule.warmup_steps(steps_per_epoch),
        steps_between_evals=recipe.eval_epochs * steps_per_epoch,
        peak_lr=peak_lr,
        phases=phases,
        warnings=tuple(warnings),
    )


def _check(recipe: Recipe, num_replicas: int, *, phase: str | None = None) -> None:
    """Refuses what is impossible in a recipe, or in what a phase makes of one that is possible."""
    model = recipe.model

    def full(field: str) -> str:
        return f"config.phases.{phase}.{field.rpartition('.')[2]}" if phase else f"config.{field}"

    network = network_named(model.name)
    network.check(dataclasses.asdict(model), model.name, full)
    named = {
        "model.dtype": recipes.DTYPES,
        "data.link_dtype": recipes.LINK_DTYPES,
        "data.augment": recipes.AUGMENTATIONS,
        "data.resize": recipes.RESIZES,
        "data.policy": recipes.POLICIES,
        "data.eval_crop": recipes.EVAL_CROPS,
        "on_non_finite": recipes.NON_FINITE_POLICIES,
    }
    for field, known in named.items():
        if (name := _field(recipe, field)) not in known:
            raise UserError(f"config.{field}='{name}' is unknown{did_you_mean(name, known)}")
    if recipe.data.eval_crop == "rectangular" and recipe.data.augment != "inception_crop":
        raise UserError(
            f"config.data.eval_crop=rectangular is for crops; config.data.augment={recipe.data.augment} "
            "evaluates whole images; use square, or --config.data.augment=inception_crop"
        )
    rules = {
        "epochs": (recipe.epochs > 0, "above 0"),
        "eval_epochs": (recipe.eval_epochs > 0, "above 0"),
        "log_steps": (recipe.log_steps > 0, "above 0"),
        "keep_checkpoints": (recipe.keep_checkpoints > 0, "above 0"),
        "checkpoint_minutes": (recipe.checkpoint_minutes >= 0, "at least 0"),
        "stuck_seconds": (recipe.stuck_seconds >= 0, "at least 0"),
        "label_smoothing": (0 <= recipe.label_smoothing < 1, "at least 0 and below 1"),
        "ema_decay": (0 <= recipe.ema_decay < 1, "at least 0 and below 1"),
        "model.dropout": (model.dropout < 1, "below 1"),
        "model.survival_probability": (0 < model.survival_probability <= 1, "above 0 and at most 1"),
        "model.bn_momentum": (0 <= model.bn_momentum < 1, "at least 0 and below 1"),
        "model.bn_epsilon": (model.bn_epsilon > 0, "above 0"),
        "model.ghost_batch": (model.ghost_batch >= 0, "at least 0"),
        "model.bn_scale": (model.bn_scale >= 0, "at least 0"),
        "data.image_size": (recipe.data.image_size >= 0, "at least 0"),
        "data.min_crop_area": (0 < recipe.data.min_crop_area <= 1, "above 0 and at most 1"),
        "data.policy_layers": (recipe.data.policy_layers >= 1, "at least 1"),
        "data.policy_magnitude": (0 <= recipe.data.policy_magnitude <= 30, "0 to 30"),
        "data.cutout": (recipe.data.cutout >= 0 and recipe.data.cutout % 2 == 0, "even and at least 0"),
        "data.mixup": (recipe.data.mixup >= 0, "at least 0"),
        "data.cutmix": (recipe.data.cutmix >= 0, "at least 0"),
        "data.skip_corrupt": (recipe.data.skip_corrupt >= 0, "at least 0"),
    }
    for field, (holds, rule) in rules.items():
        if not holds:
            raise UserError(f"{full(field)}={_field(recipe, field)} must be {rule}; set --{full(field)}")
    size = recipe.data.image_size or network.image_size
    if not 0 <= recipe.data.max_shift < size:
        raise UserError(
            f"{full('data.image_size')}={size} pixels must be above config.data.max_shift="
            f"{recipe.data.max_shift}; lower --config.data.max_shift"
        )
    _check_batches(recipe.global_batch, full("global_batch"), recipe.bn_group_size, num_replicas)
    _check_ghosts(recipe, recipe.global_batch // num_replicas)


def _check_ghosts(recipe: Recipe, per_replica_batch: int) -> None:
    ghost = recipe.model.ghost_batch
    if ghost and recipe.bn_group_size != 1:
        raise UserError(
            f"config.model.ghost_batch={ghost} lets parts of a replica's images normalise together, and "
            f"config.bn_group_size={recipe.bn_group_size} several replicas'; set --config.bn_group_size=1"
        )
    if ghost and per_replica_batch % ghost:
        near = max(n for n in range(1, min(ghost, per_replica_batch) + 1) if per_replica_batch % n == 0)
        raise UserError(
            f"config.model.ghost_batch={ghost} does not divide a replica's {per_replica_batch:,} images; "
            f"the nearest below that does: --config.model.ghost_batch={near}"
        )


def _field(recipe: Recipe, dotted: str) -> Any:
    value: Any = recipe
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def _check_batches(global_batch: int, field: str, bn_group_size: int, num_replicas: int) -> None:
    if global_batch < 1 or global_batch % num_replicas:
        below = global_batch // num_replicas * num_replicas
        near = [n for n in (below, below + num_replicas) if n > 0]
        nearest = min(near, key=lambda n: abs(n - global_batch))
        raise UserError(
            f"{field}={global_batch} is not a multiple of the {num_replicas} replicas; "
            f"the nearest that is: --{field}={nearest}"
        )
    check_bn_group_size(bn_group_size, num_replicas)
