"""Advice for a recipe that does not fit: a smaller batch, or more replicas."""

from efficientnet_pod.errors import UserError
from efficientnet_pod.preflight.estimate import Estimate
from efficientnet_pod.preflight.targets import Target, target_of
from efficientnet_pod.recipe.rules import recomputing

_MARGIN = 0.97  # of the limit: memory is not quite linear in the batch


def smaller_batch(estimate: Estimate) -> int | None:
    """Returns a batch of a device that should fit, by a line through two points; None if none would.

    The line starts at the program's code, which does not grow with the batch. From 16 images on the batch is
    a multiple of 8, which fills the lanes of a TPU better.
    """
    step, limit = estimate.train, estimate.hbm_limit
    per_replica = step.images // estimate.target.replicas
    memory = step.compiled.output.memory
    fixed = memory.code if memory else 0
    needed = (step.hbm_bytes or 0) + step.waiting_bytes
    if limit is None or needed <= limit:  # unknown by how much, or only an evaluation is too large
        batch = per_replica // 2
    else:
        batch = int(per_replica * max(0.0, _MARGIN * limit - fixed) / (needed - fixed))
    batch = min(batch, per_replica - 1)
    batch -= batch % 8 if batch >= 16 else 0
    return batch or None


def remedy(estimate: Estimate) -> str:
    """Returns what to change, as flags to copy."""
    target = estimate.target
    per_replica = estimate.train.images // target.replicas
    smaller, or_recompute = smaller_batch(estimate), recomputing(estimate.run.plan.recipe)
    if smaller is None:
        advice = "not even one image a replica would; choose chips with more memory, or a smaller model"
        return advice + or_recompute
    images = smaller * target.replicas * estimate.train.calls
    at_once = "a device at a time" if estimate.run.plan.is_accumulated else "a replica"
    advice = (
        f"{smaller:,} images {at_once} should: --config.global_batch={images} (the learning rate follows)"
    )
    if larger := _larger(target, per_replica, smaller):
        advice += f", or the same global batch on more: --topology={larger.name}"
    return advice + or_recompute


def _larger(target: Target, per_replica: int, smaller: int) -> Target | None:
    factor = 2
    while per_replica // factor > smaller:
        factor *= 2
    try:
        return target_of(target.chip, target.replicas * factor)
    except UserError:  # no slice is that large
        return None
