"""The learning rate as a function of the step: linear scaling, warm-up and decay."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from efficientnet_pod.errors import UserError
from efficientnet_pod.optim.ranges import Choices, Epochs, Range, Ranged, Rate, ReadWith

LearningRate = Callable[[jax.typing.ArrayLike], jax.Array]

SCHEDULES = ("constant", "cosine", "exponential", "piecewise", "polynomial")
Knots = tuple[tuple[float, float], ...]


def _with(*names: str) -> ReadWith:
    return ReadWith("schedule.name", names)


@dataclasses.dataclass(frozen=True)
class Schedule(Ranged):
    """The course of the learning rate; raises UserError on an unknown name or a number out of range.

    Epochs are passes over the training set and may be fractions.

    Attributes:
      name: course after the warm-up.
      warmup_epochs: epochs in which the learning rate rises from 0.
      power: power of ``polynomial``.
      end_lr: last learning rate, absolute, not a fraction of the peak; of ``exponential`` the least, in the
        warm-up too.
      decay_rate: factor of each fall of ``exponential``.
      decay_epochs: epochs from fall to fall.
      knots: pairs (share of the run, share of the peak) of ``piecewise``: straight lines between them, a jump
        where two have the same share. A shorter run has the same shape.
    """

    name: Annotated[str, Choices(SCHEDULES)]
    warmup_epochs: Epochs
    power: Annotated[float, Range(0, 100, above=True), _with("polynomial")] = 2.0
    end_lr: Annotated[Rate, _with("polynomial", "cosine", "exponential")] = 0.0
    decay_rate: Annotated[float, Range(0, 1, above=True), _with("exponential")] = 0.97
    decay_epochs: Annotated[float, Range(0.01, 100_000), _with("exponential")] = 2.4
    knots: Annotated[Knots, Range(0, 1000), _with("piecewise")] = ()

    @property
    def path(self) -> str:
        """Name of the table in a config."""
        return "config.schedule"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "piecewise":
            self._check_knots()

    def _check_knots(self) -> None:
        knots = self.knots
        shares = [share for share, _ in knots]
        if len(knots) < 2 or shares[0] != 0 or shares[-1] != 1 or shares != sorted(shares):
            raise UserError(
                f"config.schedule.knots is {knots}; its shares of the run must rise from 0 to 1, "
                "e.g. ((0.0, 0.0), (0.2, 1.0), (1.0, 0.0))"
            )
        if self.warmup_epochs:
            raise UserError(
                f"config.schedule.warmup_epochs is {self.warmup_epochs:g}; with piecewise the knots say how "
                "the learning rate rises: --config.schedule.warmup_epochs=0"
            )

    def warmup_steps(self, steps_per_epoch: float) -> int:
        """Returns the number of whole steps in the warm-up."""
        return int(self.warmup_epochs * steps_per_epoch)


def peak_learning_rate(lr_per_256: float, global_batch: int) -> float:
    """Returns the learning rate at the end of warm-up: the base one, per 256 images, scaled linearly."""
    return lr_per_256 * global_batch / 256


def create_schedule(
    schedule: Schedule, *, peak_lr: float, steps_per_epoch: float, total_steps: float
) -> LearningRate:
    """Returns a function from steps (from 0, any shape, traced or not) to float32 learning rates.

    Steps are integers or, where the batch changes on the way, float32 (see :func:`in_phases`); the stairs of
    ``exponential`` lie at whole steps in both cases.

    During warm-up, step ``k`` of ``W`` gets ``peak_lr·k/W``; step 0 gets 0. After it, with ``T`` total steps:

    - polynomial: ``end_lr + (peak_lr - end_lr)·(1 - t/(T - W + 1))^power`` at ``t = max(1, k - W)``;
    - exponential: ``peak_lr·decay_rate^⌊k/(decay_epochs·steps_per_epoch)⌋``, from step 0, not from ``W``; it
      is never below ``end_lr``, before ``W`` neither;
    - cosine: from ``peak_lr`` at ``W`` along half a wave to ``end_lr`` at ``T``;
    - piecewise: ``peak_lr`` times the line between the knots around ``k/T``; at a jump, the later value;
    - constant: ``peak_lr``.

    ``steps_per_epoch`` is a fraction (19.55 at 65,536 ImageNet images a step) and is never floored. Beyond
    ``T`` polynomial and cosine stay at ``end_lr``, and exponential at its last value.

    Source: build_learning_rate in tensorflow/tpu models/official/efficientnet/utils.py; of the floor,
    models/official/amoeba_net/amoeba_net_model.py. Its cosine counts
    from step 0, so that warm-up hides the peak; ours counts from the end of warm-up.
    """
    warmup_steps = schedule.warmup_steps(steps_per_epoch)
    stairs = _stairs(schedule.decay_epochs * steps_per_epoch, total_steps)

    def learning_rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        match schedule.name:
            case "polynomial":
                clock = jnp.maximum(step - warmup_steps, 1)
                remaining = 1.0 - _progress(clock, total_steps - warmup_steps + 1)
                decayed = schedule.end_lr + (peak_lr - schedule.end_lr) * remaining**schedule.power
            case "cosine":
                angle = jnp.pi * _progress(step - warmup_steps, total_steps - warmup_steps)
                decayed = schedule.end_lr + (peak_lr - schedule.end_lr) * 0.5 * (1.0 + jnp.cos(angle))
            case "exponential":
                falls = jnp.searchsorted(jnp.asarray(stairs, step.dtype), step, side="right")
                decayed = peak_lr * schedule.decay_rate ** falls.astype(jnp.float32)
            case "piecewise":
                decayed = peak_lr * _between(schedule.knots, total_steps, step)
            case _:
                decayed = jnp.full(step.shape, peak_lr, jnp.float32)
        rate = jnp.where(step < warmup_steps, peak_lr * _progress(step, warmup_steps), decayed)
        floor = schedule.end_lr if schedule.name == "exponential" else 0.0
        return jnp.maximum(rate, floor) if floor else rate

    return learning_rate


class Stretch(NamedTuple):
    """Steps of one batch.

    Attributes:
      first_step: steps done before the stretch.
      clock: images seen before the stretch, in units of the batch that the schedule was made for.
      batch_ratio: batch of the stretch, in the same units.
    """

    first_step: int
    clock: float
    batch_ratio: float


def in_phases(learning_rate: LearningRate, stretches: Sequence[Stretch]) -> LearningRate:
    """Returns the learning rate of a run whose batch changes, as a function of the steps it really does.

    The clock of ``learning_rate`` counts images, in units of the batch it was made for, and its value follows
    the batch by the linear rule: ``learning_rate(clock)·batch_ratio``. Where the batch never changes, that is
    ``learning_rate`` itself.

    Momentum is left as it is at a change, as TensorFlow's optimizers leave it. SGD's holds gradients, on
    which each step's learning rate acts. That of LARS and RMSProp holds updates of the learning rate of their
    time; to multiply it by the ratio of the two rates would be the momentum correction of Goyal et al. What
    was gathered before a change is a tenth of itself 22 steps later, at a momentum of .9.

    Source: Goyal et al., arXiv 1706.02677, sections 2.1 and 3.
    """
    if all(stretch.batch_ratio == 1 for stretch in stretches):
        return learning_rate
    first_steps = np.array([stretch.first_step for stretch in stretches], np.int32)
    clocks = np.array([stretch.clock for stretch in stretches], np.float32)
    ratios = np.array([stretch.batch_ratio for stretch in stretches], np.float32)

    def phased(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        place = jnp.searchsorted(jnp.asarray(first_steps), step, side="right") - 1
        begun, clock, ratio = (jnp.asarray(values)[place] for values in (first_steps, clocks, ratios))
        return learning_rate(clock + (step - begun).astype(jnp.float32) * ratio) * ratio

    return phased


def schedule_warnings(
    schedule: Schedule, *, peak_lr: float, steps_per_epoch: float, total_steps: int
) -> list[str]:
    """Returns one line per property of the schedule that is allowed and probably not meant."""
    warnings = []
    if schedule.name in ("polynomial", "cosine", "exponential") and schedule.end_lr > peak_lr:
        effect = "is end_lr throughout" if schedule.name == "exponential" else "rises after warm-up"
        warnings.append(
            f"end_lr {schedule.end_lr:g} is above the peak learning rate {peak_lr:g}: the learning rate "
            f"{effect}; lower schedule.end_lr (it is absolute) or raise optimizer.lr_per_256"
        )
    warmup_steps = schedule.warmup_steps(steps_per_epoch)
    if warmup_steps >= total_steps:
        warnings.append(
            f"warm-up takes {warmup_steps} steps and the run has {total_steps}: the peak learning rate "
            f"{peak_lr:g} is never reached; lower schedule.warmup_epochs or train longer"
        )
    return warnings


def _progress(step: jax.Array, steps: float) -> jax.Array:
    """Returns ``step / steps`` as float32, at most 1; ``steps`` below 1 count as 1."""
    return jnp.minimum(step.astype(jnp.float32) / max(steps, 1), 1.0)


def _between(knots: Knots, total_steps: float, step: jax.Array) -> jax.Array:
    """Returns the height at ``step`` of the lines between the knots, float32; beyond the last, its height."""
    shares, heights = (np.array(values, np.float64) for values in zip(*knots, strict=True))
    steps = np.round(shares * total_steps, 6)  # .07 of 100 steps are 7.000000000000001
    runs = np.diff(steps)
    slopes = np.append(np.divide(np.diff(heights), runs, out=np.zeros_like(runs), where=runs > 0), 0.0)
    place = jnp.searchsorted(jnp.asarray(steps, jnp.float32), step.astype(jnp.float32), side="right") - 1
    begun, height, slope = (jnp.asarray(values, jnp.float32)[place] for values in (steps, heights, slopes))
    return height + (step.astype(jnp.float32) - begun) * slope


def _stairs(decay_steps: float, total_steps: float) -> np.ndarray:
    """Returns the steps, int32, at which the staircase falls.

    Integers made on the host, because XLA divides by a constant by multiplying with its float32 reciprocal:
    measured on CPU, ⌊41n/41⌋ falls one short for 107 of the first 400 n.
    """
    falls = math.floor(total_steps / decay_steps)
    # Rounded, because 1.1 epochs of 50 steps are 55.00000000000001 steps.
    return np.array([math.ceil(round(n * decay_steps, 6)) for n in range(1, falls + 1)], np.int32)
