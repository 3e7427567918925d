"""The recipe of a job, checked for the job's machines before any is asked for."""

from dataclasses import asdict
from typing import Any

from efficientnet_pod.cli.flags import parse_flags
from efficientnet_pod.errors import UserError
from efficientnet_pod.recipe.phases import PlacedRecipe
from efficientnet_pod.recipe.plan import resolve
from efficientnet_pod.recipe.reading import read_recipe
from efficientnet_pod.recipe.recipe import Recipe
from efficientnet_pod.recipe.rules import check_weights
from efficientnet_pod.run.run import PUBLISHED_NUMBERS, image_numbers
from launch.flags import EXAMPLE
from launch.images import location_of
from launch.job.job import Job
from launch.workdir.storage import is_bucket

_OURS = ("__workdir", "__coordinator", "__processes", "__process")  # flags that the launcher sets


def require_plan(job: Job) -> Recipe:
    """Returns the recipe that the trainer's flags name, if the job's machines can run it.

    Raises:
      UserError: they do not, or they have a flag that the launcher sets.
    """
    for word in job.arguments:
        if word.partition("=")[0].replace("-", "_") in _OURS:
            raise UserError(
                f"the launcher sets '{word.partition('=')[0]}' itself; leave '{word}' out after --"
            )
    if not any(word.partition("=")[0] == "--config" for word in job.arguments):
        raise UserError(f"the trainer's flags follow --, and --config is not among them; e.g. {EXAMPLE}")
    values: Any = parse_flags("train", job.arguments, config=True)
    recipe = read_recipe(values.config.to_dict())
    devices, kind = _devices(job, recipe)
    check_weights(recipe)
    try:
        # Batches and groups do not depend on the numbers, for which nothing is asked over a network here.
        is_elsewhere = is_bucket(location_of(job, recipe.data) or "")
        images = PUBLISHED_NUMBERS["imagenet2012"] if is_elsewhere else image_numbers(recipe)
        resolve(recipe, **asdict(images), num_devices=devices, num_hosts=job.hosts, default_dtype="float32")
    except UserError as error:
        raise UserError(f"{job.machines} has {devices:,} {kind}: {error}") from error
    return recipe


def placed_on_machines(job: Job, recipe: Recipe) -> PlacedRecipe:
    """Returns the recipe on the devices and hosts of the job's machines."""
    return PlacedRecipe(recipe, _devices(job, recipe)[0], job.hosts)


def _devices(job: Job, recipe: Recipe) -> tuple[int, str]:
    """Returns the number of devices of all machines, and the plural of their kind."""
    if any(word.partition("=")[0] == "--config.cpu_replicas" for word in job.arguments):
        return recipe.cpu_replicas * job.hosts, "CPU devices"
    target = job.machine.target
    return target.replicas * job.slices, f"{target.chip.replica}s"
