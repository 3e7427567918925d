"""The phases of a run: which steps are trained at which size, batch and strength of regularisation."""

import dataclasses
from collections.abc import Sequence

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.registry import network_named
from efficientnet_pod.recipe.recipe import PhaseSettings, Recipe


@dataclasses.dataclass(frozen=True)
class Phase:
    """Steps that are alike, ``first_step`` + 1 to ``last_step``.

    Attributes:
      name: the config's; ``all`` where the recipe has no phases.
      first_step: steps done before it.
      last_step: steps done at its end.
      first_image: training images seen before it, by all hosts.
      recipe: with what the phase changes.
      image_size: of the training images, pixels.
      dropout: before the classifier.
      host_batch: training images per host and step.
      per_replica_batch: training images per replica and step.
      bn_batch: images that normalise together.
    """

    name: str
    first_step: int
    last_step: int
    first_image: int
    recipe: Recipe
    image_size: int
    dropout: float
    host_batch: int
    per_replica_batch: int
    bn_batch: int

    def images_seen(self, step: int) -> int:
        """Returns the images that ``step`` steps have seen since the start of the run, if it ends in here."""
        return self.first_image + (step - self.first_step) * self.recipe.global_batch


def resolve_phases(recipe: Recipe, *, num_train: int, num_replicas: int, num_hosts: int) -> tuple[Phase, ...]:
    """Returns the phases, without a gap; one where the recipe names none.

    A phase begins at the step nearest to its ``from_epoch``. Each begins where the one before has ended, to
    the image, so that roundings do not add up.

    Raises:
      UserError: a phase begins where it cannot, or is shorter than a step.
    """
    settings = recipe.phases or (PhaseSettings("all", 0.0),)
    _check_order(settings, recipe.epochs)
    ends = [each.from_epoch for each in settings[1:]] + [recipe.epochs]
    phases: list[Phase] = []
    step = image = 0
    for each, end in zip(settings, ends, strict=True):
        phased = recipe.in_phase(each)
        steps = round((end - image / num_train) * (num_train / phased.global_batch))
        if not recipe.phases:
            steps = max(1, steps)
        if steps < 1:
            raise UserError(
                f"config.phases.{each.name} lasts from epoch {each.from_epoch:g} to {end:g}, which is no "
                f"whole step of {phased.global_batch:,} images; make it longer or lower its global_batch"
            )
        network, per_replica = network_named(phased.model.name), phased.global_batch // num_replicas
        phases.append(
            Phase(
                name=each.name,
                first_step=step,
                last_step=step + steps,
                first_image=image,
                recipe=phased,
                image_size=phased.data.image_size or network.image_size,
                dropout=network.dropout if phased.model.dropout < 0 else phased.model.dropout,
                host_batch=phased.global_batch // num_hosts,
                per_replica_batch=per_replica,
                bn_batch=phased.model.ghost_batch or per_replica * phased.bn_group_size,
            )
        )
        step += steps
        image += steps * phased.global_batch
    return tuple(phases)


def _check_order(settings: Sequence[PhaseSettings], epochs: float) -> None:
    field = "config.phases.{}.from_epoch={:g}"
    first = settings[0]
    if first.from_epoch != 0:
        raise UserError(
            f"{field.format(first.name, first.from_epoch)} is where the first phase begins; it must be 0: "
            f"--config.phases.{first.name}.from_epoch=0"
        )
    for before, each in zip(settings, settings[1:], strict=False):
        if each.from_epoch == before.from_epoch:
            raise UserError(
                f"{field.format(each.name, each.from_epoch)} is where phase '{before.name}' begins too; "
                "two phases cannot begin together: move one of them"
            )
    last = settings[-1]
    if last.from_epoch >= epochs > 0:
        raise UserError(
            f"{field.format(last.name, last.from_epoch)} is not before the end of the run; it must be below "
            f"config.epochs={epochs:g}: begin the phase earlier or train longer"
        )
