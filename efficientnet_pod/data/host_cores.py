"""How many host cores the input of a model and a pod needs, from what an image costs one of them."""

import math

from efficientnet_pod.recipe.plan import Plan

# Milliseconds of one core an image: a JPEG of 110 kB and 500 × 375 pixels, measured as records/input.md says.
# What grows with the output is given for 224 × 224 pixels.
_DECODE = 1.5
_RESIZE = {"reference": 0.35, "fast": 0.26}
_POLICY = {"none": 0.0, "randaugment": 0.15, "autoaugment": 0.31}  # randaugment: of one layer
_PIXELS = 224**2


def images_per_core_second(plan: Plan) -> float | None:
    """Returns the training images a host core prepares in a second; None where nothing has been measured.

    That is photographs of ImageNet's size, on the core of the record; those of other hosts differ by half as
    much again either way.
    """
    data = plan.recipe.data
    if data.augment != "inception_crop":
        return None
    layers = data.policy_layers if data.policy == "randaugment" else 1
    of_output = _RESIZE[data.resize] + layers * _POLICY[data.policy]
    return 1000 / (_DECODE + of_output * plan.image_size**2 / _PIXELS)


def describe_input(plan: Plan, *, replica_rate: float | None, replicas_per_host: int) -> str | None:
    """Returns what the input can give and, if the rate of a replica is known, the cores of a host it needs.

    Args:
      plan: the recipe.
      replica_rate: training images/s of one replica.
      replicas_per_host: that one host feeds.
    """
    per_core = images_per_core_second(plan)
    if per_core is None:
        return None
    data = plan.recipe.data
    text = (
        f"{plan.image_size} px, {data.resize} resizing, policy {data.policy}: about {per_core:,.0f} images/s "
        "a host core"
    )
    if replica_rate is None:
        return text
    needed = replica_rate * replicas_per_host
    cores = math.ceil(needed / per_core)
    return (
        f"{text}; {replicas_per_host:,} replicas a host at {replica_rate:,.0f} images/s take {needed:,.0f}: "
        f"{cores:,} core{'s' * (cores > 1)}"
    )
