"""The Plan: every derived number of a run, resolved once; impossible recipes are refused with the remedy."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from efficientnet_pod.errors import UserError
from efficientnet_pod.optim.optimizers import OPTIMIZERS
from efficientnet_pod.optim.ranges import MOST
from efficientnet_pod.optim.schedules import peak_learning_rate, schedule_warnings
from efficientnet_pod.recipe.phases import Phase, PlacedRecipe, resolve_phases
from efficientnet_pod.recipe.recipe import BALANCED, Recipe
from efficientnet_pod.recipe.rectangles import Shapes, eval_batch_of
from efficientnet_pod.recipe.rules import check_recipe, lack_of_weights

# The names in ``plan.json``, in its order: those between ``recipe`` and ``phases``, and those of a phase.
_BATCHES = ("host_batch", "per_replica_batch", "bn_batch")
_NAMES = (
    *("num_train", "num_eval", "num_classes", "num_replicas", "num_devices", "num_hosts", "micro_batches"),
    *("image_size", "dropout", "compute_dtype", "link_dtype"),
    *(*_BATCHES, "eval_batch", "eval_steps", "eval_shapes"),
    *("steps_per_epoch", "total_steps", "warmup_steps", "steps_between_evals", "peak_lr"),
)
LEAST_STEPS = 50  # from trained weights, whose new classifier begins at zero
_PHASE_NAMES = ("name", "first_step", "last_step", "first_image", "image_size", "dropout", *_BATCHES)

# Names there that may differ between two starts of one run, because they follow from the machine; the recipe
# is compared as a config.
_PER_MACHINE = {"num_replicas", "num_devices", "num_hosts", "micro_batches", "device_kind", "host_batch"}
_PER_MACHINE |= {"per_replica_batch", "eval_batch"}
OF_THE_MACHINE = frozenset(_PER_MACHINE | {"eval_steps", "eval_shapes", "warnings", "recipe"})


@dataclasses.dataclass(frozen=True)
class Plan(PlacedRecipe):
    """A recipe on a data set and a number of devices.

    Its ``image_size`` is that of evaluation. Training may have other sizes and batches in each of its phases.

    Attributes:
      num_train: training images.
      num_eval: evaluation images.
      num_classes: size of the logits.
      compute_dtype: type of convolutions and activations.
      link_dtype: type of images on their way to the devices.
      eval_batch: images per evaluation step, all replicas together.
      eval_shapes: (height, width, steps) of the evaluation images, in the order they are evaluated; one
        square where nothing else is known.
      phases: phases of the training, in order, without a gap; one where the recipe names none.
      warnings: a line for each thing that is allowed and probably not meant.
    """

    num_train: int
    num_eval: int
    num_classes: int
    compute_dtype: str
    link_dtype: str
    eval_batch: int
    eval_shapes: Shapes
    phases: tuple[Phase, ...]
    warnings: tuple[str, ...]

    @property
    def eval_steps(self) -> int:
        """Evaluation steps that cover every image once."""
        return math.ceil(self.num_eval / self.eval_batch)

    @property
    def steps_per_epoch(self) -> float:
        """Steps of the recipe's global batch that are one pass over the training images.

        A fraction, never floored: 65,536 images a step are 19.55 steps an epoch of ImageNet.
        """
        return self.num_train / self.recipe.global_batch

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run, all phases together."""
        return self.phases[-1].last_step

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up, counted in the recipe's global batch."""
        return self.recipe.schedule.warmup_steps(self.steps_per_epoch)

    @property
    def steps_between_evals(self) -> float:
        """Steps from evaluation to evaluation, counted in the recipe's global batch; a fraction."""
        return self.recipe.eval_epochs * self.steps_per_epoch

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of warm-up, for the recipe's global batch."""
        return peak_learning_rate(self.recipe.optimizer.lr_per_256, self.recipe.global_batch)

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
        return step == self.total_steps or self._evals_passed(step - 1) < self._evals_passed(step)

    def evaluations(self) -> int:
        """Returns how many steps of the run are followed by an evaluation."""
        last = self.total_steps
        batches = [phase.recipe.global_batch for phase in self.phases]
        smallest_batch, largest_batch = min(batches), max(batches)
        if self.steps_between_evals < smallest_batch / self.recipe.global_batch:
            return last
        if self.steps_between_evals < largest_batch / self.recipe.global_batch:
            return sum(map(self.is_eval_due, range(1, last + 1)))  # a step may pass several multiples
        passed = self._evals_passed(last)
        return passed + (self._evals_passed(last - 1) == passed)

    def _evals_passed(self, step: int) -> int:
        # A ten-thousandth of a step of slack, since 0.1 epochs of 10 steps are 0.9999999999999999 steps.
        return math.floor((self.clock(step) + 1e-4) / self.steps_between_evals)

    def with_warnings(self, warnings: Sequence[str]) -> "Plan":
        """Returns the plan with these warnings behind its own."""
        return dataclasses.replace(self, warnings=(*self.warnings, *warnings))

    def as_dict(self) -> dict[str, Any]:
        """Returns ``plan.json`` as plain values."""
        recipe = dataclasses.asdict(self.recipe)
        recipe["optimizer"]["name"] = optimizer_name(self.recipe)
        phases = [{name: getattr(phase, name) for name in _PHASE_NAMES} for phase in self.phases]
        numbers = {name: getattr(self, name) for name in _NAMES}
        return {"recipe": recipe, **numbers, "phases": phases, "warnings": self.warnings}


def optimizer_name(recipe: Recipe) -> str:
    """Returns the name the recipe's optimizer has in a config."""
    return next(name for name, kind in OPTIMIZERS.items() if type(recipe.optimizer) is kind)


def resolve(
    recipe: Recipe,
    *,
    num_train: int,
    num_eval: int,
    num_classes: int,
    num_devices: int,
    num_hosts: int,
    default_dtype: str,
) -> Plan:
    """Returns the plan with these attributes, and all that follows from them.

    ``default_dtype`` is the compute dtype of this platform, where the recipe says ``auto``.

    Raises:
      UserError: a number is impossible; the message has its value, the rule and the remedy.
    """
    check_recipe(recipe, num_devices)
    placed = PlacedRecipe(recipe, num_devices, num_hosts)
    compute_dtype = default_dtype if recipe.model.dtype == "auto" else recipe.model.dtype
    # Not more than a full pass needs: 65,536 replicas' images would be padding for 50,000.
    eval_batch = num_devices * min(placed.micro_batch // num_devices, math.ceil(num_eval / num_devices))
    if recipe.data.eval_crop == "rectangular":
        eval_batch = eval_batch_of(eval_batch, num_eval=num_eval, num_replicas=num_devices)
    plan = Plan(
        recipe,
        num_devices,
        num_hosts,
        num_train=num_train,
        num_eval=num_eval,
        num_classes=num_classes,
        compute_dtype=compute_dtype,
        link_dtype=compute_dtype if recipe.data.link_dtype == "auto" else recipe.data.link_dtype,
        eval_batch=eval_batch,
        eval_shapes=(),
        phases=resolve_phases(recipe, num_train=num_train, num_devices=num_devices, num_hosts=num_hosts),
        warnings=(),
    )
    if plan.total_steps > MOST:
        raise UserError(
            f"config.epochs={recipe.epochs:g} are {plan.total_steps:,} steps, and devices count to {MOST:,}; "
            "lower --config.epochs"
        )
    square = ((plan.image_size, plan.image_size, plan.eval_steps),)
    return dataclasses.replace(plan, eval_shapes=square, warnings=tuple(_warnings(plan)))


def _warnings(plan: Plan) -> list[str]:
    warnings = schedule_warnings(
        plan.recipe.schedule,
        peak_lr=plan.peak_lr,
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=round(plan.clock(plan.total_steps)),
    )
    if plan.recipe.init.weights:
        warnings += _fine_tuning_warnings(plan)
    bn_batch = min(phase.bn_batch for phase in plan.phases)
    if bn_batch < 16:
        remedy = "ghost_batch" if plan.recipe.model.ghost_batch else "bn_group_size"
        warnings.append(f"{bn_batch} images normalise together; below 16 accuracy suffers: raise {remedy}")
    data = plan.recipe.data
    if data.class_weights != "none" and data.sampling == BALANCED:
        warnings.append(
            "config.data.sampling=balanced shows every class equally often, and config.data.class_weights "
            "weighs them once more: rare classes count more than others; set one of them back"
        )
    if lack := lack_of_weights(plan.recipe):
        warnings.append(lack)
    return warnings


def _fine_tuning_warnings(plan: Plan) -> list[str]:
    """Returns a line for each number that may wreck trained weights."""
    warnings, batch = [], plan.recipe.global_batch
    if plan.total_steps < LEAST_STEPS:
        epochs = math.ceil(LEAST_STEPS * plan.recipe.epochs / plan.total_steps)
        warnings.append(
            f"{plan.total_steps} steps from trained weights; below {LEAST_STEPS} they may end worse than "
            f"they began: --config.epochs={epochs}, or a smaller --config.global_batch"
        )
    if batch > plan.num_train:
        warnings.append(
            f"a batch of {batch:,} images is larger than the set of {plan.num_train:,}: a step sees images "
            "twice; lower --config.global_batch"
        )
    return warnings
