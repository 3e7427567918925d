"""The command ``plan``: the numbers and tensors of a recipe; nothing runs."""

from collections.abc import Sequence

from absl import flags

from efficientnet_pod.cli.flags import define_number, overrides_of, parse_flags
from efficientnet_pod.optim.ranges import Range


def run_plan(arguments: Sequence[str]) -> None:
    """Prints the plan of the recipe that the flags name."""
    values = parse_flags("plan", arguments, _define, config=True)
    from efficientnet_pod.recipe.fields import without_effect  # --help does not wait for JAX
    from efficientnet_pod.recipe.reading import read_recipe
    from efficientnet_pod.run.tables import print_plan

    recipe = read_recipe(values.config.to_dict())
    print_plan(
        recipe,
        warnings=without_effect(recipe, overrides_of(values)),
        replicas=values.replicas,
        replica_rate=values.replica_rate,
        replicas_per_host=values.replicas_per_host,
    )


def _define(values: flags.FlagValues) -> None:
    about = "Plan for so many replicas instead of the devices here."
    define_number(values, "replicas", None, about)
    about = "Images/s that one replica trains, to say how many host cores must feed it."
    define_number(values, "replica_rate", None, about, Range(0, 1e9, above=True))
    about = "Replicas that one host feeds; by default as here, or 8 with --replicas."
    define_number(values, "replicas_per_host", None, about)
