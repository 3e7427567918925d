"""The machines that a run may go on with if the preferred one is not to be had: ``watch --elastic=…``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from absl import flags

from efficientnet_pod.cli.flags import define_number
from efficientnet_pod.errors import UserError
from efficientnet_pod.optim.ranges import Range
from efficientnet_pod.pod.terminal import plural
from efficientnet_pod.recipe.phases import PlacedRecipe
from launch.backends.backend import Restarted
from launch.job.job import Job
from launch.job.slices import parse_slice, require_served
from launch.recipe import placed_on_machines, require_plan

_MINUTES = Range(0, 100_000, above=True)


@dataclass(frozen=True)
class Wishes:
    """The machines that a run may go on with.

    Attributes:
      numbers: a line on the run's numbers on each machine, by its name; the preferred machine is first.
      minutes: time that a request may wait before the next machine is asked for.
      return_minutes: time of training on a machine before a preferred one is asked for again; 0: it never is.
    """

    numbers: dict[str, str]
    minutes: float = 15.0
    return_minutes: float = 60.0

    @property
    def first(self) -> str:
        """The preferred machine."""
        return next(iter(self.numbers))

    @property
    def is_choice(self) -> bool:
        """Whether there is more than one machine."""
        return len(self.numbers) > 1

    def preferred_to(self, machine: str) -> list[str]:
        """Returns the machines before this one."""
        machines = list(self.numbers)
        return machines[: machines.index(machine)]

    def after(self, machine: str, *, before: str = "") -> str:
        """Returns the machine to ask for after this one, in turns; with `before`, only those before it."""
        machines = self.preferred_to(before) if before else list(self.numbers)
        return machines[(machines.index(machine) + 1) % len(machines)]


def define_wishes(values: flags.FlagValues) -> None:
    """Defines the flags of `watch` that `wishes_of` reads."""
    about = (
        "Machines that the run may go on with, the preferred one first: v3-1024,v3-512,v3-256. They are kept."
    )
    flags.DEFINE_string("elastic", None, about, flag_values=values)
    about = "Time that a request may wait before the next machine is asked for."
    define_number(values, "elastic_minutes", Wishes.minutes, about, _MINUTES)
    about = (
        "Training on a machine before a preferred one is asked for again, beside it; 0: never. The quota "
        "must suffice for both. Once it is granted the run saves and moves, which takes minutes of both."
    )
    define_number(values, "return_minutes", Wishes.return_minutes, about, Range(0, 100_000))


def wishes_of(
    job: Job, backend: Restarted, elastic: str | None, *, minutes: float, return_minutes: float
) -> Wishes:
    """Returns the machines of ``--elastic``, or those kept with the job; its own where there are none.

    Raises:
      UserError: the backend cannot have one of the machines, the recipe cannot run on it, or its numbers
        would change with the machine.
    """
    flag = f"--elastic={','.join(job.wishes or [job.tpu]) if elastic is None else elastic}"
    jobs = {name: replace(job, tpu=name) for name in _machines(job, flag)}
    if len(jobs) == 1:
        return Wishes({job.tpu: ""})
    recipe = require_plan(job)
    if not isinstance(recipe.replicas, int) or not recipe.replicas:
        largest = max(jobs.values(), key=lambda one: placed_on_machines(one, recipe).num_devices)
        devices = placed_on_machines(largest, recipe).num_devices
        raise UserError(
            f"{flag}: config.replicas={recipe.replicas} of {job.name} lets its numbers change with the "
            f"machine; submit it with --config.replicas={devices}, the devices of {largest.machines}"
        )
    numbers = {}
    for name, one in jobs.items():
        try:
            require_plan(one)
            backend.require_offered(one)
        except UserError as error:
            raise UserError(f"{flag}: {error}; or leave {name} out") from error
        numbers[name] = _numbers(placed_on_machines(one, recipe))
    return Wishes(numbers, minutes, return_minutes)


def _machines(job: Job, flag: str) -> Sequence[str]:
    """Returns the names of the machines of a flag, as `Job.tpu` has them; raises `UserError`."""
    example = "e.g. --elastic=v3-1024,v3-512, the preferred one first"
    names: list[str] = []
    for word in flag.partition("=")[2].split(","):
        if not word.strip():
            raise UserError(f"{flag} lacks the name of a machine; write {example}")
        try:
            machine = parse_slice(word.strip())
            require_served(machine, job.slices, job.backend)
        except UserError as error:
            raise UserError(f"{flag}: {str(error).replace('--tpu=', '')}") from error
        if machine.name in names:
            raise UserError(f"{flag} names {machine.name} twice; leave one out")
        names.append(machine.name)
    for request in (job, job.beside) if job.beside else (job,):
        if request.tpu not in names:
            raise UserError(
                f"{flag} lacks {request.tpu}, which {job.name} has asked for; add it: --elastic="
                f"{','.join([request.tpu, *names])}"
            )
    return names


def _numbers(placed: PlacedRecipe) -> str:
    """Returns e.g. ``"1,024 replicas on 512 devices, 2 micro-batches a step"``."""
    parts = plural(placed.micro_batches, "micro-batch", "micro-batches")
    replicas, devices = plural(placed.num_replicas, "replica"), plural(placed.num_devices, "device")
    return f"{replicas} on {devices}, {parts} a step"
