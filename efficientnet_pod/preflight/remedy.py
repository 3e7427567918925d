"""Owns the advice for a recipe that does not fit: a smaller batch, or more replicas."""

from efficientnet_pod.errors import UserError
from efficientnet_pod.preflight.estimate import Estimate
from efficientnet_pod.preflight.targets import Target, with_replicas

_MARGIN = 0.97  # of the limit: memory is not quite linear in the batch


def smaller_batch(found: Estimate) -> int | None:
    """Returns a per-replica batch that should fit, by a line through what is known; None if none would.

    What does not grow with the batch is the state, twice while it is updated. Below 16 any number will do;
    above, multiples of 8 fill the lanes of a TPU better.
    """
    step, limit = found.train, found.hbm_limit
    per_replica = step.images // found.target.replicas
    fixed = step.compiled.said.memory.code if step.compiled.said.memory else 0
    needed = (step.hbm_bytes or 0) + step.waiting_bytes
    if limit is None or needed <= limit:  # unknown by how much, or only an evaluation is too large
        guess = per_replica // 2
    else:
        guess = int(per_replica * max(0.0, _MARGIN * limit - fixed) / (needed - fixed))
    guess = min(guess, per_replica - 1)
    guess -= guess % 8 if guess >= 16 else 0
    return guess or None


def remedy(found: Estimate) -> str:
    """Returns what to change, as flags to copy."""
    target = found.target
    per_replica = found.train.images // target.replicas
    smaller = smaller_batch(found)
    if smaller is None:
        return "not even one image a replica would; choose chips with more memory, or a smaller model"
    advice = [
        f"{smaller:,} images a replica should: --config.global_batch={smaller * target.replicas} (the "
        "learning rate follows)"
    ]
    if larger := _larger(target, per_replica, smaller):
        advice.append(f"or the same global batch on more: --topology={larger.name}")
    return ", ".join(advice)


def _larger(target: Target, per_replica: int, smaller: int) -> Target | None:
    factor = 2
    while per_replica // factor > smaller:
        factor *= 2
    try:
        return with_replicas(target, target.replicas * factor)
    except UserError:  # no such slice is that large
        return None
