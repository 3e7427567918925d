"""The phases of a run: which steps are trained at which size, batch and strength of regularisation."""

import dataclasses

from efficientnet_pod.errors import UserError
from efficientnet_pod.models.registry import network_named
from efficientnet_pod.recipe.recipe import PhaseSettings, Recipe


@dataclasses.dataclass(frozen=True)
class PlacedRecipe:
    """A recipe, or a phase of one, on a number of devices.

    Attributes:
      recipe: what is trained.
      num_devices: devices of all hosts.
      num_hosts: processes.
    """

    recipe: Recipe
    num_devices: int
    num_hosts: int

    @property
    def num_replicas(self) -> int:
        """Replicas, each with its own share of a batch and its own masks; a device may compute several."""
        return self.recipe.replicas_on(self.num_devices)

    @property
    def replicas_at_once(self) -> int:
        """Replicas that a device computes together: its share of a BN group that is larger than the mesh."""
        return max(1, self.recipe.bn_group_size // self.num_devices)

    @property
    def micro_batches(self) -> int:
        """Parts of a global batch that the devices compute one after the other, before the update."""
        return self.num_replicas // (self.num_devices * self.replicas_at_once)

    @property
    def micro_batch(self) -> int:
        """Training images of all devices in one part of a step."""
        return self.recipe.global_batch // self.micro_batches

    @property
    def is_accumulated(self) -> bool:
        """Whether a device computes more than one replica in a step."""
        return self.num_replicas > self.num_devices

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return self.recipe.data.image_size or network_named(self.recipe.model.name).image_size

    @property
    def dropout(self) -> float:
        """Rate before the classifier."""
        model = self.recipe.model
        return network_named(model.name).dropout if model.dropout < 0 else model.dropout

    @property
    def host_batch(self) -> int:
        """Training images per host and step."""
        return self.recipe.global_batch // self.num_hosts

    @property
    def per_replica_batch(self) -> int:
        """Training images per replica and step."""
        return self.recipe.global_batch // self.num_replicas

    @property
    def bn_batch(self) -> int:
        """Training images that normalise together."""
        return self.recipe.model.ghost_batch or self.per_replica_batch * self.recipe.bn_group_size


@dataclasses.dataclass(frozen=True)
class Phase(PlacedRecipe):
    """Steps that are alike, ``first_step`` + 1 to ``last_step``; ``recipe`` has what the phase changes.

    Attributes:
      name: the config's; ``all`` where the recipe has no phases.
      first_step: steps done before it.
      last_step: steps done at its end.
      first_image: training images seen before it, by all hosts.
    """

    name: str
    first_step: int
    last_step: int
    first_image: int

    def images_seen(self, step: int) -> int:
        """Returns the images that ``step`` steps have seen since the start of the run, if it ends in here."""
        return self.first_image + (step - self.first_step) * self.recipe.global_batch


def resolve_phases(recipe: Recipe, *, num_train: int, num_devices: int, num_hosts: int) -> tuple[Phase, ...]:
    """Returns the phases, without a gap; one where the recipe names none.

    A phase begins at the step nearest to its ``from_epoch``. Each begins where the one before has ended, to
    the image, so that roundings do not add up.

    Raises:
      UserError: a phase is shorter than a step.
    """
    settings = recipe.phases or (PhaseSettings("all", 0.0),)
    ends = [phase.from_epoch for phase in settings[1:]] + [recipe.epochs]
    phases: list[Phase] = []
    step = image = 0
    for phase, end in zip(settings, ends, strict=True):
        phased = recipe.in_phase(phase)
        steps = round((end - image / num_train) * (num_train / phased.global_batch))
        if not recipe.phases:
            steps = max(1, steps)
        if steps < 1:
            raise UserError(
                f"config.phases.{phase.name} lasts from epoch {phase.from_epoch:g} to {end:g}, which is no "
                f"whole step of {phased.global_batch:,} images; make it longer or lower its global_batch"
            )
        phases.append(Phase(phased, num_devices, num_hosts, phase.name, step, step + steps, image))
        step += steps
        image += steps * phased.global_batch
    return tuple(phases)
