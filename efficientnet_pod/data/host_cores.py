"""Host cores that the input of a model and a pod needs, from the measured cost of an image."""

import math

from efficientnet_pod.pod.terminal import plural
from efficientnet_pod.recipe.plan import Plan

# Milliseconds of one core for an image, a JPEG of 110 kB and 500 × 375 pixels; records/input.md has the
# measurements. Costs that grow with the output are given for 224 × 224 pixels.
_DECODE = 1.5
_RESIZE = {"reference": 0.35, "fast": 0.26}
_POLICY = {"none": 0.0, "randaugment": 0.15, "autoaugment": 0.31}  # randaugment: of one layer
_PIXELS = 224**2


def images_per_core_second(plan: Plan) -> float | None:
    """Returns the training images a host core prepares in a second; None if nothing has been measured.

    The images are photographs of ImageNet's size, the core is that of the record; other cores are up to 1.5
    times as fast or as slow.
    """
    data = plan.recipe.data
    if data.augment != "inception_crop" or data.resize not in _RESIZE or data.color_offsets:
        return None
    layers = data.policy_layers if data.policy == "randaugment" else 1
    of_output = _RESIZE[data.resize] + layers * _POLICY[data.policy]
    return 1000 / (_DECODE + of_output * plan.image_size**2 / _PIXELS)


def describe_input(plan: Plan, *, replica_rate: float | None, replicas_per_host: int) -> str | None:
    """Returns the rate of the input and, if the images/s of a replica are known, the cores that a host needs.

    None if nothing has been measured for this augmentation.
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
        f"{plural(cores, 'core')}"
    )
