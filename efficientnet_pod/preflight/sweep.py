"""Owns the search for the fastest and the cheapest batch or machine of a recipe."""

import dataclasses
from collections.abc import Callable

from efficientnet_pod.errors import UserError, did_you_mean
from efficientnet_pod.preflight.estimate import Estimate
from efficientnet_pod.preflight.targets import Target, parse_target, with_replicas
from efficientnet_pod.recipe.recipe import PhaseSettings, Recipe

FIELDS = ("per_replica_batch", "topology", "replicas")
EXAMPLE = "--sweep=per_replica_batch=16,32,64"


@dataclasses.dataclass(frozen=True)
class Point:
    """One recipe on one machine.

    Attributes:
      value: as it was asked for.
      recipe: with what follows from the value.
      target: the machine.
      found: the estimate; None if the point is impossible.
      why: it is impossible, one line.
    """

    value: str
    recipe: Recipe
    target: Target
    found: Estimate | None = None
    why: str = ""


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


def points(recipe: Recipe, target: Target, field: str, values: tuple[str, ...]) -> list[Point]:
    """Returns what is to be compiled.

    The images that normalise together stay those of the recipe on ``target``, as far as whole groups allow.
    With ``per_replica_batch`` the global batch follows, and the learning rate with it; with ``topology`` and
    ``replicas`` the global batch stays.

    Args:
      recipe: as it is on ``target``.
      target: of ``--topology``.
      field: one of `FIELDS`.
      values: of it.

    Raises:
      UserError: a machine has no such name.
    """
    bn_batch = recipe.bn_group_size * recipe.global_batch // target.replicas
    found = []
    for value in values:
        machine, global_batch = target, recipe.global_batch
        match field:
            case "per_replica_batch":
                global_batch = int(value) * target.replicas
            case "topology":
                machine = parse_target(value)
            case _:
                machine = with_replicas(target, int(value))
        per_replica = max(1, global_batch // machine.replicas)
        group = _group(bn_batch, per_replica, machine.replicas)
        found.append(Point(value, _with_batch(recipe, global_batch, group), machine))
    return found


def run_sweep(waiting: list[Point], estimate: Callable[[Recipe, Target], Estimate]) -> list[Point]:
    """Returns the points with their estimates; a recipe that cannot run there has a reason instead."""
    done = []
    for point in waiting:
        try:
            done.append(dataclasses.replace(point, found=estimate(point.recipe, point.target)))
        except UserError as error:
            done.append(dataclasses.replace(point, why=str(error)))
    return done


def best(swept: list[Point]) -> tuple[Point | None, Point | None]:
    """Returns the fastest and the cheapest point that fits, None where no time or no price is known."""
    fitting = [(p, p.found) for p in swept if p.found and p.found.fits]
    timed = [(found.hours, i) for i, (_, found) in enumerate(fitting) if found.hours is not None]
    priced = [(usd, i) for i, (_, found) in enumerate(fitting) if (usd := found.usd()) is not None]
    fastest = fitting[min(timed)[1]][0] if timed else None
    return fastest, fitting[min(priced)[1]][0] if priced else None


def _group(bn_batch: int, per_replica: int, replicas: int) -> int:
    """Returns the replicas that normalise about so many images together, and divide all replicas."""
    divisors = [n for n in range(1, replicas + 1) if replicas % n == 0]
    return min(divisors, key=lambda n: abs(n * per_replica - bn_batch))


def _with_batch(recipe: Recipe, global_batch: int, bn_group_size: int) -> Recipe:
    """Returns the recipe with another global batch; phases with their own keep their share of it."""

    def scaled(phase: PhaseSettings) -> PhaseSettings:
        if phase.global_batch is None:
            return phase
        return dataclasses.replace(
            phase, global_batch=round(phase.global_batch * global_batch / recipe.global_batch)
        )

    phases = tuple(map(scaled, recipe.phases))
    return dataclasses.replace(recipe, global_batch=global_batch, bn_group_size=bn_group_size, phases=phases)
