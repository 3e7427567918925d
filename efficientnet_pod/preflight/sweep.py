"""The search for the fastest and the cheapest batch or machine of a recipe."""

import dataclasses
from collections.abc import Callable
from operator import itemgetter

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.pod.topology import nearest_divisor
from efficientnet_pod.preflight.estimate import Estimate
from efficientnet_pod.preflight.targets import Target, parse_target, target_of
from efficientnet_pod.recipe.recipe import Recipe

FIELDS = ("per_replica_batch", "topology", "replicas")
EXAMPLE = "--sweep=per_replica_batch=16,32,64"


@dataclasses.dataclass(frozen=True)
class Point:
    """One recipe on one machine.

    Attributes:
      value: swept value, as it was written.
      recipe: recipe with that value and the numbers that follow.
      target: machine.
      estimate: estimate of the recipe on the machine; None if the point is impossible.
      reason: one line on why the point is impossible; else "".
    """

    value: str
    recipe: Recipe
    target: Target
    estimate: Estimate | None = None
    reason: str = ""


def parse_sweep(sweep: str) -> tuple[str, tuple[str, ...]]:
    """Returns the field and its values, from ``per_replica_batch=16,32``; raises `UserError` for others."""
    field, equals, rest = sweep.partition("=")
    values = tuple(word.strip() for word in rest.split(",") if word.strip())
    if field not in FIELDS:
        raise UserError(f"--sweep={sweep} varies '{field}'{did_you_mean(field, FIELDS)}; e.g. {EXAMPLE}")
    if not equals or not values:
        raise UserError(f"--sweep={sweep} names no values; e.g. {EXAMPLE}")
    for value in values:
        if field != "topology" and not (value.isdecimal() and int(value)):
            raise UserError(f"--sweep={sweep}: '{value}' is not a whole number above 0; e.g. {EXAMPLE}")
    return field, values


def sweep_points(recipe: Recipe, target: Target, field: str, values: tuple[str, ...]) -> list[Point]:
    """Returns the points of a sweep of one of `FIELDS`, not yet compiled, from a recipe for ``target``.

    The BN batch stays as it is on ``target``, the machine of ``--topology``, as far as whole groups allow.
    With ``per_replica_batch`` the global batch follows, and the learning rate with it; with ``topology`` and
    ``replicas``, which are the devices of a machine, the global batch stays.

    Raises:
      UserError: a machine has no such name.
    """
    bn_batch = recipe.bn_group_size * recipe.global_batch // recipe.replicas_on(target.replicas)
    points = []
    for value in values:
        machine, global_batch = target, recipe.global_batch
        match field:
            case "per_replica_batch":
                global_batch = int(value) * recipe.replicas_on(target.replicas)
            case "topology":
                machine = parse_target(value)
            case _:
                machine = target_of(target.chip, int(value))
        replicas = recipe.replicas_on(machine.replicas)
        per_replica = max(1, global_batch // replicas)
        group = nearest_divisor(replicas, bn_batch / per_replica)
        points.append(Point(value, _with_batch(recipe, global_batch, group), machine))
    return points


def run_sweep(points: list[Point], estimate: Callable[[Recipe, Target], Estimate]) -> list[Point]:
    """Returns the points with their estimates; a recipe that cannot run there has a reason instead."""
    swept = []
    for point in points:
        try:
            swept.append(dataclasses.replace(point, estimate=estimate(point.recipe, point.target)))
        except UserError as error:
            swept.append(dataclasses.replace(point, reason=str(error)))
    return swept


def fastest_and_cheapest(swept: list[Point]) -> tuple[Point | None, Point | None]:
    """Returns the fastest and the cheapest point that fits, None where no time or no price is known."""
    fitting = [(point, point.estimate) for point in swept if point.estimate and point.estimate.fits]
    timed = [(point, hours) for point, estimate in fitting if (hours := estimate.hours) is not None]
    priced = [(point, usd.least) for point, estimate in fitting if (usd := estimate.usd()) is not None]
    fastest, _ = min(timed, key=itemgetter(1), default=(None, 0.0))
    cheapest, _ = min(priced, key=itemgetter(1), default=(None, 0.0))
    return fastest, cheapest


def _with_batch(recipe: Recipe, global_batch: int, bn_group_size: int) -> Recipe:
    """Returns the recipe with another global batch; phases with their own keep their share of it."""
    phases = []
    for phase in recipe.phases:
        batch = phase.global_batch and round(phase.global_batch * global_batch / recipe.global_batch)
        phases.append(dataclasses.replace(phase, global_batch=batch))
    batches = {"global_batch": global_batch, "bn_group_size": bn_group_size}
    return dataclasses.replace(recipe, phases=tuple(phases), **batches)
