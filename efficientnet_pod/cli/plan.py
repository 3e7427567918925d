"""The command ``plan``: the numbers and tensors of a recipe; nothing runs."""

from collections.abc import Sequence

from absl import flags

from efficientnet_pod.cli.flags import parse_flags


def run_plan(arguments: Sequence[str]) -> None:
    """Prints the plan of the recipe that the flags name."""
    values = parse_flags("plan", arguments, _define, config=True)
    from efficientnet_pod.recipe.reading import read_recipe  # --help does not wait for JAX
    from efficientnet_pod.run.tables import print_plan

    print_plan(
        read_recipe(values.config.to_dict()),
        replicas=values.replicas,
        replica_rate=values.replica_rate,
        replicas_per_host=values.replicas_per_host,
    )


def _define(values: flags.FlagValues) -> None:
    about = "Plan for so many replicas instead of the devices here."
    flags.DEFINE_integer("replicas", None, about, 1, flag_values=values)
    about = "Images/s that one replica trains, to say how many host cores must feed it."
    flags.DEFINE_float("replica_rate", None, about, 1e-9, flag_values=values)
    about = "Replicas that one host feeds; by default as here, or 8 with --replicas."
    flags.DEFINE_integer("replicas_per_host", None, about, 1, flag_values=values)
